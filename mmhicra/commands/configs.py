"""`mmhicra configs`: the configurations that ship, for `--config NAME`, and the text of one to start from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mmhicra.core.errors import UserError
from mmhicra.core.resources import shipped_configs


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("configs", help="list the configurations that ship, or print one to start from")
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this one: mmhicra configs tiny > mine.yaml")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the list, or the one that was asked for."""
    shipped = shipped_configs()
    if options.name is None:
        width = max(map(len, shipped))
        for name, path in shipped.items():
            print(f"{name:{width}}  {about(path)}")
        return 0
    if options.name not in shipped:
        raise UserError(f"no configuration is called {options.name!r}: choose one of {', '.join(shipped)}")
    print(shipped[options.name].read_text(encoding="utf-8"), end="")
    return 0


def about(path: Path) -> str:
    """The comment at the head of a configuration, up to its first full stop."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    text = " ".join(lines)
    return text.partition(". ")[0].removesuffix(".") + "."
