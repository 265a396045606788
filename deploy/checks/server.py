"""Runs [`live`] in a network namespace of its own, without access to other hosts."""

import os
import sys
import tempfile
from pathlib import Path

from .fault import run
from .tools import Prometheus

LIMIT_SECONDS = 90


def check(prometheus: Prometheus, cache: Path, real: str | None) -> None:
    """Runs the checks. `real`: metrics from a daemon, to check in addition to the samples."""
    # It ends with this process in all cases, and Prometheus ends with it.
    bound = ["setpriv", "--pdeathsig", "KILL"]
    # Other users than root get the privileges in a user namespace, if the kernel permits it.
    alone = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    with tempfile.TemporaryDirectory(prefix="running-", dir=cache) as directory:
        place = Path(directory)
        arguments = [prometheus.server, place]
        if real is not None:
            (place / "real").write_text(real)
            arguments.append(place / "real")
        command = [*bound, *alone, "--fork", "--kill-child", sys.executable, "-B", "-m", "checks.live", *arguments]
        run(command, "in a namespace of its own", at=Path(__file__).parent.parent, seconds=LIMIT_SECONDS)
