"""`mmhicra bench`: figures of the machine in front of you, measured by `benchmarks/` of a checkout."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from mmhicra.core.errors import UserError
from mmhicra.core.resources import checkout


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "bench", help="measure speed on this machine (in a checkout)", add_help=False, prefix_chars="+"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER)  # other prefix characters: options are handed on, too
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Hand everything on to `python -m benchmarks`.

    Raises:
        UserError: the benchmarks are not part of an installed wheel.
    """
    root = checkout()
    if root is None or not (root / "benchmarks").is_dir():
        raise UserError(
            "bench: the benchmarks are not part of the installed package: "
            "clone the repository, and run `python -m benchmarks` in it"
        )
    sys.path.insert(0, str(root))
    from benchmarks.__main__ import main

    return main(options.arguments, prog="mmhicra bench")
