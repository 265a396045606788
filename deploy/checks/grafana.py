"""Checks the dashboard against Grafana's own types: finds unknown keys and invalid values.

The server itself is in none of the registries that the checks use.
"""

import json
import shutil
import tempfile
from pathlib import Path

from .dashboard import Dashboard
from .fault import run

TYPES = Path(__file__).with_name("grafana.ts")

COMPILER = {
    "strict": True,
    "noEmit": True,
    "module": "esnext",
    "moduleResolution": "bundler",
    "target": "esnext",
    "skipLibCheck": True,
    "types": [],
}


def check(tree: Path, board: Dashboard) -> None:
    """Compiles the dashboard. `tree` has the types and the compiler."""
    # Below `tree`, so that the compiler finds its packages.
    with tempfile.TemporaryDirectory(dir=tree) as directory:
        place = Path(directory)
        shutil.copy(TYPES, place / "types.ts")
        (place / "dashboard.ts").write_text(source(board.json))
        (place / "tsconfig.json").write_text(json.dumps({"compilerOptions": COMPILER, "files": ["dashboard.ts"]}))
        run([tree / "node_modules/.bin/tsc", "--pretty", "false", "--project", place], "mend the dashboard", at=place)


def source(board: dict) -> str:
    """The dashboard as TypeScript, with one line per panel: the compiler's line number identifies the panel."""
    frame = {key: value for key, value in board.items() if key != "panels"}
    lines = ['import type { Frame, Panels } from "./types";']
    lines.append(f"export const dashboard = {json.dumps(frame)} satisfies Frame;")
    for panel in board["panels"]:
        lines.append(
            f"export const panel_{panel['id']} = {json.dumps(panel)} satisfies Panels[{json.dumps(panel['type'])}];"
        )
    return "\n".join(lines) + "\n"
