"""`mmhicra leaderboard`: own results among published rows."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("leaderboard", help="own results among published ones: Markdown, CSV and a page")
    parser.add_argument(
        "results", nargs="*", metavar="[NAME[:SIZE]=]FILE", help="results of eval score; SIZE in billions"
    )
    parser.add_argument("--out", type=Path, default=Path("leaderboard"), metavar="FOLDER")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write `leaderboard.md`, `.csv` and `.html` and say where."""
    from rich.console import Console

    from mmhicra.evaluate.leaderboard import merge, own_row, published_rows, warnings_for, write_leaderboard

    rows = merge([own_row(*_named(text)) for text in options.results], published_rows())
    console = Console(highlight=False, soft_wrap=True)
    for line in warnings_for(rows):
        console.print(line)
    for kind, place in write_leaderboard(options.out, rows):
        console.print(f"{kind:5} {place}")
    return 0


def _named(text: str) -> tuple[Path, str | None, float | None]:
    from mmhicra.core.errors import ConfigError

    name, equals, path = text.rpartition("=")
    if not equals or Path(text).exists():
        return Path(text), None, None
    model, colon, size = name.rpartition(":")
    try:
        return (Path(path), model, float(size)) if colon else (Path(path), name, None)
    except ValueError:
        raise ConfigError(f"{text}: the size {size!r} must be a number of billions, as in mine:7=result.json") from None
