"""Gets Prometheus and Grafana's types, through the ordinary clients of Debian's archive and npm.

Nothing is installed: an installed Prometheus would be started by systemd.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .fault import Fault, run

# Fixed versions: a newer one may require fields that the dashboard does not have.
GRAFANA_SCHEMA = "@grafana/schema@13.2.3"
TYPESCRIPT = "typescript@7.0.2"


@dataclass(frozen=True)
class Prometheus:
    """The paths of the server and of promtool."""

    server: Path
    promtool: Path


def prometheus(cache: Path) -> Prometheus:
    """Returns the installed Prometheus, else the one from Debian's package."""
    roots = [Path("/"), cache / "prometheus"]
    if not any(complete(root) for root in roots):
        fetch(roots[1], unpack_prometheus)
    for root in roots:
        if complete(root):
            return of(root)
    raise Fault("Debian's package prometheus has no prometheus and promtool")


def grafana(cache: Path) -> Path:
    """A directory whose node_modules have Grafana's types and a compiler that checks them."""
    # The name contains the versions, so that other versions are fetched when they change above.
    tree = cache / "-".join(["grafana", GRAFANA_SCHEMA.rpartition("@")[2], TYPESCRIPT.rpartition("@")[2]])
    if not tree.is_dir():
        fetch(tree, unpack_grafana)
    return tree


def of(root: Path) -> Prometheus:
    return Prometheus(root / "usr/bin/prometheus", root / "usr/bin/promtool")


def complete(root: Path) -> bool:
    return of(root).server.is_file() and of(root).promtool.is_file()


def fetch(tree: Path, unpack: Callable[[Path], None]) -> None:
    """Makes a directory and renames it when it is complete, so that an interrupted run leaves no partial one."""
    aside = tree.with_name(f"{tree.name}-unpacking-{os.getpid()}")
    try:
        aside.mkdir()
        unpack(aside)
        shutil.rmtree(tree, ignore_errors=True)
        aside.rename(tree)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def unpack_prometheus(aside: Path) -> None:
    unpack("prometheus", aside)
    # Since Debian 13 promtool has its own package.
    if not of(aside).promtool.is_file():
        unpack("promtool", aside)


def unpack(name: str, aside: Path) -> None:
    print(f"getting {name} out of Debian's package (20 MB)", flush=True)
    # Otherwise apt warns that its sandbox user cannot access root's directory.
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name]
    run(command, "check the network, and `apt-get update`", at=aside, seconds=300)
    for package in aside.glob("*.deb"):
        run(["dpkg-deb", "--extract", package, aside], "remove the cache directory, and try again")
        package.unlink()


def unpack_grafana(aside: Path) -> None:
    print(f"getting {GRAFANA_SCHEMA} and {TYPESCRIPT} (30 MB)", flush=True)
    quiet = ["--no-audit", "--no-fund", "--no-save", "--no-package-lock"]
    # Neither package needs install scripts, so none are run.
    command = ["npm", "install", "--prefix", aside, "--ignore-scripts", *quiet, GRAFANA_SCHEMA, TYPESCRIPT]
    run(command, "install npm, or leave this out by --without-grafana-types", at=aside, seconds=300)
