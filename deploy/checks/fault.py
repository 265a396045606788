"""Faults that a check finds, and a runner for programs whose failure is a fault."""

import subprocess
from collections.abc import Sequence
from pathlib import Path


class Fault(Exception):
    """Faults, one per line."""


def report(faults: list[str]) -> None:
    """Raises the faults, if there are any."""
    if faults:
        raise Fault("\n".join(faults))


def run(
    command: Sequence[str | Path], advice: str, *, given: str | None = None, at: Path | None = None, seconds: int = 60
) -> str:
    """Runs a program to its end and returns what it printed; `given` is its standard input."""
    name = " ".join(str(part) for part in command[:3])
    try:
        done = subprocess.run(command, cwd=at, input=given, capture_output=True, text=True, timeout=seconds)
    except FileNotFoundError as error:
        raise Fault(f"{name}: there is no such program; {advice}") from error
    except subprocess.TimeoutExpired as error:
        raise Fault(f"{name}: not done after {seconds} s; {advice}") from error
    if done.returncode:
        raise Fault(f"{name}: status {done.returncode}; {advice}\n{done.stdout}{done.stderr}".strip())
    return done.stdout + done.stderr
