"""Checks rules and dashboard in a running Prometheus. It scrapes a healthy host, a host with all problems at
once, and a host that does not answer.

[`server`] runs it in a network namespace of its own. The daemons are threads of this process.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from . import api, dashboard, metrics, rules, sample
from .fault import Fault, report, run

PORT = 9346
GOOD, BAD, GONE, REAL = (f"127.0.0.{number}:{PORT}" for number in range(1, 5))
SECONDS = 30

# For one scrape per second.
WINDOWS = {"__rate_interval": "10s", "__range": "30s"}


def main() -> None:
    server, place = Path(sys.argv[1]), Path(sys.argv[2])
    real = Path(sys.argv[3]).read_text() if len(sys.argv) > 3 else None
    run(["ip", "link", "set", "lo", "up"], "install iproute2")
    serve(GOOD, lambda scrape: sample.page(sample.GOOD, scrape))
    serve(BAD, lambda scrape: sample.page(sample.BAD, scrape))
    targets = [GOOD, BAD, GONE]
    if real is not None:
        serve(REAL, lambda _: real)
        targets.append(REAL)
    write(place, targets)
    with (place / "log").open("w") as log:
        # Prometheus ends with this process in all cases.
        running = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", server),
                f"--config.file={place / 'prometheus.yml'}",
                f"--storage.tsdb.path={place / 'data'}",
                f"--web.listen-address={api.ADDRESS}",
                "--log.level=info",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            look(set(targets) - {GONE})
            report(complaints(place / "log"))
        except Fault as fault:
            raise Fault("\n".join([str(fault), *complaints(place / "log")])) from fault
        finally:
            running.terminate()
            try:
                running.wait(timeout=10)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def write(place: Path, targets: list[str]) -> None:
    """Writes the rules, and a configuration that loads them."""
    (place / "rules.yml").write_text(rules.at_once())
    (place / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
        "rule_files: [rules.yml]\n"
        "scrape_configs:\n"
        f"  - {{job_name: sixxs, static_configs: [{{targets: {targets}}}]}}\n"
    )


def serve(address: str, page: Callable[[int], str]) -> None:
    """Serves metrics at an address, as a daemon does."""
    scrapes = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal scrapes
            scrapes += 1
            body = page(scrapes).encode()
            self.send_response(200 if self.path == "/metrics" else 404)
            self.send_header("Content-Type", metrics.TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    host, _, port = address.partition(":")
    listener = ThreadingHTTPServer((host, int(port)), Handler)
    Thread(target=listener.serve_forever, daemon=True).start()


def look(seen: set[str]) -> None:
    """Runs all checks of the server; `seen` are the hosts that answer it."""
    until(lambda: [] if api.ready() else ["Prometheus is not ready"])
    until(lambda: scraped(seen))
    until(fire)
    board = dashboard.load()
    faults = []
    for where, expression in board.expressions(WINDOWS).items():
        instant = board.targets()[where].get("instant", False)
        try:
            if not api.query(expression, instant):
                faults.append(f"{where}: shows nothing: {expression}")
        except Fault as fault:
            faults.append(f"{where}: {expression}: {fault}")
    for name, (metric, label) in board.labels().items():
        found = api.query(metric.replace("$instance", ".*"), instant=True)
        if not any(label in series["metric"] for series in found):
            faults.append(f"variable {name}: no value to choose: {metric} has no label {label}")
    report(faults + fire())


def scraped(seen: set[str]) -> list[str]:
    """Faults of the scrapes: Prometheus must read every host in `seen` without error."""
    faults = []
    hosts = {target["labels"]["instance"]: target for target in api.get("targets")["activeTargets"]}
    for host in seen:
        if host not in hosts or hosts[host]["health"] != "up":
            faults.append(f"{host} is not read: {hosts.get(host, {}).get('lastError')}")
    return faults


def fire() -> list[str]:
    """Faults of the alerts: each must fire for the host with problems, and none for the healthy one."""
    faults = []
    for rule in api.rules():
        if rule["health"] != "ok":
            faults.append(f"{rule['name']}: health {rule['health']}: {rule.get('lastError')}")
        if rule["type"] != "alerting":
            continue
        of = GONE if rule["name"] == "SixxsDown" else BAD
        alerts = [alert for alert in rule["alerts"] if alert["labels"].get("instance") != REAL]
        if not any(alert["state"] == "firing" for alert in alerts):
            faults.append(f"{rule['name']} does not fire for {of}: {rule['query']}")
        for alert in alerts:
            if alert["labels"].get("instance") != of:
                faults.append(f"{rule['name']} fires for {alert['labels']}")
            if alert["labels"].get("severity") not in ("warning", "critical"):
                faults.append(f"{rule['name']} has no severity")
            for key in ("summary", "description", "action"):
                text = alert["annotations"].get(key, "")
                if not text or "<" in text:
                    faults.append(f"{rule['name']}: {key} is `{text}`")
    return faults


def complaints(log: Path) -> list[str]:
    """The last warnings and errors in the log of Prometheus."""
    return [f"Prometheus: {line}" for line in log.read_text().splitlines() if "level=info" not in line.lower()][-5:]


def until(wrong: Callable[[], list[str]]) -> None:
    """Waits until there are no faults; raises them after a time limit."""
    deadline = time.monotonic() + SECONDS
    while faults := wrong():
        if time.monotonic() > deadline:
            report(faults)
        time.sleep(0.2)


if __name__ == "__main__":
    try:
        main()
    except Fault as fault:
        sys.exit(str(fault))
