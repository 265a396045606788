"""Checks the alert rules with promtool, which parses and evaluates them like the server."""

import re
import tempfile
from pathlib import Path

from .fault import Fault, report, run
from .metrics import names_in

DIRECTORY = Path(__file__).resolve().parent.parent / "prometheus"
RULES = DIRECTORY / "sixxs.rules.yml"
TESTS = DIRECTORY / "sixxs.rules.test.yml"


def check(promtool: Path) -> None:
    """Checks that the rules can be loaded, and that for each alert there is a test in which it fires."""
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
    """Runs the tests of the rules."""
    run([promtool, "test", "rules", TESTS], "mend the rule or the test")


def check_expressions(promtool: Path, expressions: dict[str, str]) -> None:
    """Checks that each expression is valid PromQL. They become rules, since older promtools parse only rules."""
    lines = ["groups:", "  - name: queries", "    rules:"]
    for where, expression in expressions.items():
        lines += [f"      - record: {re.sub(r'[^a-zA-Z0-9]+', '_', where)}", f"        expr: {quoted(expression)}"]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "queries.yml")
        file.write_text("\n".join(lines) + "\n")
        run([promtool, "check", "rules", file], "mend the queries")


def alerts() -> list[str]:
    """The names of the alerts, in the order of the file."""
    found = re.findall(r"^ *- alert: (\w+)$", RULES.read_text(), re.MULTILINE)
    if not found:
        raise Fault(f"{RULES.name} has no alert")
    return list(dict.fromkeys(found))


def at_once() -> str:
    """The rules without their waiting times, so that alerts fire during the check."""
    text, changed = re.subn(r"^( +for:) \w+$", r"\1 0s", RULES.read_text(), flags=re.MULTILINE)
    if changed != len(re.findall(r"^ *- alert:", text, re.MULTILINE)):
        raise Fault(f"{RULES.name} has alerts without `for`")
    return text


def names() -> set[str]:
    """The names of the metrics that the rules use."""
    return names_in(RULES.read_text())


def quoted(text: str) -> str:
    """Quotes a text for YAML."""
    return "'" + text.replace("'", "''") + "'"
