"""The parts of Prometheus' HTTP interface that the checks use."""

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
    """Sends a GET request, and returns the data of the response. A response without `success` is a fault."""
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
    """Evaluates an expression, now or over the last seconds, and returns its series."""
    if instant:
        return get("query", query=expression)["result"]
    now = time.time()
    return get("query_range", query=expression, start=str(now - 5), end=str(now), step="1")["result"]
