"""`mmhicra lab`: a list of methods over a list of seeds, from identical starts, with a table at the end."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from mmhicra.commands.options import add_config, add_verbosity, libraries_level
from mmhicra.core.logs import logged


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("lab", help="compare methods over seeds on the lab model, from identical starts")
    add_config(parser, default="lab", help="what all runs have in common; default: lab, which ships")
    parser.add_argument("--methods", metavar="A,B,...", help="default: the standard seven; grpo is always run")
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME=SETTING;SETTING",
        help="a method of your own; repeatable",
    )
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N-1 (default 5)")
    parser.add_argument("--out", type=Path, default=Path("runs/lab"), metavar="FOLDER", help="runs, table and picture")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="runs at a time; default: one per core")
    add_verbosity(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run what is not finished yet, then compare."""
    from mmhicra.lab.lab import run_lab
    from mmhicra.lab.methods import STANDARD, settings_of
    from mmhicra.train.loop.terminal import Terminal

    names = options.methods.split(",") if options.methods else list(STANDARD)
    terminal = Terminal(level=options.level)
    with logged(terminal.handler, libraries=libraries_level(options.level)):
        run_lab(
            options.config,
            options.overrides,
            settings_of(names, options.variant),
            range(options.seeds),
            options.out,
            workers=options.workers or os.cpu_count() or 1,
            terminal=terminal,
        )
    return 0
