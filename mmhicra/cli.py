"""The command line: finds the command, runs it, and turns refusals into one line. No logic."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import mmhicra
from mmhicra.commands import bench, configs, doctor, errors, eval, lab, leaderboard, mine, report, train
from mmhicra.refusals import Refusal
from mmhicra.train.stopping import INTERRUPTED

COMMANDS = (train, configs, doctor, eval, report, leaderboard, mine, errors, lab, bench)
MENDABLE = 2
"""Exit status when something the user can mend stood in the way."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = make_parser().parse_args(arguments)
    try:
        return options.run(options)
    except Refusal as refusal:
        if not refusal.told:
            print(f"mmhicra: {refusal}", file=sys.stderr)
        return MENDABLE
    except KeyboardInterrupt:
        print("mmhicra: stopped", file=sys.stderr)
        return INTERRUPTED


def make_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(prog="mmhicra", description=mmhicra.__doc__)
    parser.add_argument("--version", action="version", version=f"mmhicra {mmhicra.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    return parser
