"""Checks the metrics that a daemon serves, in the text format of OpenMetrics."""

import re
import urllib.request
from pathlib import Path

from .fault import Fault, report, run

TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# The suffixes of the names of samples, by type of the family.
SUFFIXES = {
    "counter": ["_total"],
    "gauge": [""],
    "histogram": ["_bucket", "_count", "_sum"],
    "info": ["_info"],
}

# Labels whose values are fixed words, not the names of tunnels.
WORDS = {"direction", "hook", "state", "treatment"}


def get(source: str) -> str:
    """Reads the metrics from a file or a URL."""
    if re.match(r"https?://", source):
        request = urllib.request.Request(source, headers={"Accept": TYPE})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.read().decode()
        except OSError as error:
            raise Fault(f"get {source}: {error}") from error
    try:
        return Path(source).read_text()
    except OSError as error:
        raise Fault(f"read {source}: {error.strerror}") from error


def check(promtool: Path, page: str) -> None:
    """Checks that a page of metrics is complete, and that the names follow the conventions."""
    if not page.endswith("# EOF\n"):
        raise Fault("it does not end with `# EOF`, as OpenMetrics must")
    run([promtool, "check", "metrics"], "mend the metric", given=plain(page))


def check_used(page: str, used: set[str]) -> None:
    """Checks that a page has all metrics that rules and dashboard use."""
    there = {name + suffix for name, kind in families(page).items() for suffix in SUFFIXES.get(kind, [])}
    report([f"{name} is used, and not served" for name in sorted(used - there)])


def check_like(page: str, sample: str) -> None:
    """Checks that a page has the types, labels and label values of the sample."""
    tried, faults = families(sample), []
    for name, kind in families(page).items():
        if name in tried and kind != tried[name]:
            faults.append(f"{name} is of type {kind}, not {tried[name]}")
    expected = labels(sample)
    for name, found in labels(page).items():
        if name not in expected:
            continue
        if found.keys() != expected[name].keys():
            faults.append(f"{name} has the labels {sorted(found)}, not {sorted(expected[name])}")
        for label in WORDS & found.keys() & expected[name].keys():
            faults += [f"{name} has {label}={word}" for word in sorted(found[label] - expected[name][label])]
    report(faults)


def names_in(text: str) -> set[str]:
    """The metrics named in a text, without those that rules record, which have colons in their names."""
    return set(re.findall(r"(?<![\w:])sixxs_\w+(?![\w:])", text))


def families(page: str) -> dict[str, str]:
    """The types of the metric families, by name."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))


def labels(page: str) -> dict[str, dict[str, set[str]]]:
    """The values of each label, by the name of the sample."""
    found: dict[str, dict[str, set[str]]] = {}
    for name, inner in re.findall(r"^(\w+)(?:\{(.*?)\})? ", page, re.MULTILINE):
        values = found.setdefault(name, {})
        for label, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', inner):
            values.setdefault(label, set()).add(value)
    return found


def plain(page: str) -> str:
    """Converts a page to the older text format, the only one that promtool checks."""
    lines = []
    for line in page.splitlines():
        described = re.fullmatch(r"# (TYPE|HELP) (\S+) (.*)", line)
        if described:
            what, name, rest = described.groups()
            kind = families(page).get(name)
            if kind in ("counter", "info"):
                name += SUFFIXES[kind][0]
            line = f"# {what} {name} {'gauge' if rest == 'info' and what == 'TYPE' else rest}"
        if not line.startswith(("# UNIT", "# EOF")):
            lines.append(line)
    return "\n".join(lines) + "\n"
