"""The alert rules, by promtool: the same reader and the same evaluation as in the server."""

import re
import tempfile
from pathlib import Path

from .fault import Fault, report, run
from .metrics import names_in

DIRECTORY = Path(__file__).resolve().parent.parent / "prometheus"
RULES = DIRECTORY / "sixxs.rules.yml"
TESTS = DIRECTORY / "sixxs.rules.test.yml"


def check(promtool: Path) -> None:
    """Whether they can be loaded, and each alert has a test that has it fire."""
    run([promtool, "check", "rules", "--lint=all", "--lint-fatal", RULES], "mend what it says")
    tests = TESTS.read_text()
    report(
        [
            f"{TESTS.name} has no test in which {alert} fires"
            for alert in alerts()
            if f'alertname="{alert}"' not in tests and f"alertname: {alert}" not in tests
        ]
    )


def test(promtool: Path) -> None:
    """The tests beside them."""
    run([promtool, "test", "rules", TESTS], "mend the rule or the test")


def check_expressions(promtool: Path, expressions: dict[str, str]) -> None:
    """Whether each is PromQL: older promtools read expressions only as those of rules."""
    lines = ["groups:", "  - name: queries", "    rules:"]
    for where, expression in expressions.items():
        lines += [f"      - record: {re.sub(r'[^a-zA-Z0-9]+', '_', where)}", f"        expr: {quoted(expression)}"]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "queries.yml")
        file.write_text("\n".join(lines) + "\n")
        run([promtool, "check", "rules", file], "mend the queries")


def alerts() -> list[str]:
    """Their names, in the order of the file."""
    found = re.findall(r"^ *- alert: (\w+)$", RULES.read_text(), re.MULTILINE)
    if not found:
        raise Fault(f"{RULES.name} has no alert")
    return list(dict.fromkeys(found))


def at_once() -> str:
    """The rules with nothing to wait for, so that alerts fire while one watches."""
    text, changed = re.subn(r"^( +for:) \w+$", r"\1 0s", RULES.read_text(), flags=re.MULTILINE)
    if changed != len(re.findall(r"^ *- alert:", text, re.MULTILINE)):
        raise Fault(f"{RULES.name} has alerts without `for`")
    return text


def names() -> set[str]:
    """The metrics that the rules use."""
    return names_in(RULES.read_text())


def quoted(text: str) -> str:
    """As YAML has it."""
    return "'" + text.replace("'", "''") + "'"
