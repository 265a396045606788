"""Finds faults of the dashboard that Grafana accepts, but that lead to empty panels."""

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from .fault import report
from .metrics import names_in

FILE = Path(__file__).resolve().parent.parent / "grafana" / "sixxs.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

# Variables that Grafana itself sets.
BUILT_IN = {"__rate_interval": "5m", "__range": "6h"}


@dataclass(frozen=True)
class Dashboard:
    """The dashboard, as parsed from its file."""

    json: dict

    def panels(self) -> list[dict]:
        """Its panels without the rows, which show nothing."""
        return [panel for panel in self.json["panels"] if panel["type"] != "row"]

    def variables(self) -> dict[str, dict]:
        return {variable["name"]: variable for variable in self.json["templating"]["list"]}

    def targets(self) -> dict[str, dict]:
        """Its queries, by the name of the panel and of the query."""
        return {
            f"{panel['title']} ({panel['id']}) {target['refId']}": target
            for panel in self.panels()
            for target in panel["targets"]
        }

    def expressions(self, built_in: dict[str, str] | None = None) -> dict[str, str]:
        """The expressions that Grafana sends if all values are selected for each variable."""
        values = dict.fromkeys(self.variables(), ".*") | BUILT_IN | (built_in or {})
        return {
            where: re.sub(r"\$(\w+)", lambda match: values.get(match[1], match[0]), target["expr"])
            for where, target in self.targets().items()
        }

    def labels(self) -> dict[str, tuple[str, str]]:
        """For each variable, the metric and the label with the values to select from."""
        found = {}
        for name, variable in self.variables().items():
            if variable["type"] == "query":
                query = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
                found[name] = query.groups() if query else ("", "")
        return found

    def names(self) -> set[str]:
        """The names of the metrics that it shows."""
        return names_in("\n".join([*self.expressions().values(), *(metric for metric, _ in self.labels().values())]))


def load() -> Dashboard:
    return Dashboard(json.loads(FILE.read_text()))


def check(board: Dashboard) -> None:
    faults = [f"{title} is there twice" for title in twice([panel["title"] for panel in board.panels()])]
    faults += [f"id {number} is there twice" for number in twice([panel["id"] for panel in board.json["panels"]])]
    faults += [
        f"{one['title']} and {other['title']} overlap"
        for one, other in itertools.combinations(board.json["panels"], 2)
        if overlap(one["gridPos"], other["gridPos"])
    ]
    for panel in board.panels():
        letters = [target["refId"] for target in panel["targets"]]
        faults += [f"{panel['title']}: query {letter} is there twice" for letter in twice(letters)]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        if any(source != SOURCE for source in sources):
            faults.append(f"{panel['title']}: asks another data source than the one that is chosen")
        if not panel["description"]:
            faults.append(f"{panel['title']}: has no description")
        if panel["gridPos"]["x"] + panel["gridPos"]["w"] > 24:
            faults.append(f"{panel['title']}: is broader than there is room")
    faults += [
        f"{where}: `{name}` is no variable"
        for where, expression in board.expressions().items()
        for name in re.findall(r"\$\{?[A-Za-z_]\w*", expression)
    ]
    faults += [
        f"variable {name}: no query for the values of a label" for name, of in board.labels().items() if not of[0]
    ]
    everything = json.dumps(board.json["panels"]) + json.dumps(board.labels())
    faults += [
        f"variable {name}: nothing uses it"
        for name in board.variables()
        if not re.search(rf"\$\{{?{name}\b", everything)
    ]
    if board.json["id"] is not None:
        faults.append("it has the number of one Grafana's database; null it")
    report(faults)


def twice(values: list) -> list:
    return sorted({value for value in values if values.count(value) > 1})


def overlap(one: dict, other: dict) -> bool:
    return all(
        one[place] < other[place] + other[size] and other[place] < one[place] + one[size]
        for place, size in (("x", "w"), ("y", "h"))
    )
