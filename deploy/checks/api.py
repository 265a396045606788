"""Prometheus' HTTP interface, as much of it as the checks ask."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request

from .fault import Fault

ADDRESS = "127.0.0.1:9090"
TIMEOUT_SECONDS = 10


def ready() -> bool:
    try:
        with urllib.request.urlopen(f"http://{ADDRESS}/-/ready", timeout=TIMEOUT_SECONDS):
            return True
    except OSError:
        return False


def get(what: str, **parameters: str) -> dict:
    """The data of an answer that says `success`."""
    url = f"http://{ADDRESS}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        # The body has the reason.
        answer = json.load(error)
    except OSError as error:
        raise Fault(f"{what}: {error}") from error
    if answer["status"] != "success":
        raise Fault(answer["error"])
    return answer["data"]


def rules() -> list[dict]:
    return [rule for group in get("rules")["groups"] for rule in group["rules"]]


def query(expression: str, instant: bool) -> list[dict]:
    """The series that it has, now or over the last seconds."""
    if instant:
        return get("query", query=expression)["result"]
    now = time.time()
    return get("query_range", query=expression, start=str(now - 5), end=str(now), step="1")["result"]
