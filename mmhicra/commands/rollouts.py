"""`mmhicra rollouts`: the rollout files of a run as JSON lines, for grep and jq."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("rollouts", help="print a run's rollouts as JSON lines, for grep and jq")
    parser.add_argument("folder", metavar="RUN", type=Path, help="the folder of a run with rollouts/")
    parser.add_argument("--step", type=int, action="append", metavar="N", help="of this step only; repeatable")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the records step by step, those of several ranks merged; what the files do not hold goes to stderr."""
    import sys

    from mmhicra.core.errors import RunFolderError
    from mmhicra.core.rollout_files import require_rollouts, rollout_line, run_notes

    steps = {files.step: files for files in require_rollouts(options.folder)}
    if unknown := next((step for step in options.step or () if step not in steps), None):
        span = f"{min(steps)} to {max(steps)}"
        raise RunFolderError(f"{options.folder} has no rollouts of step {unknown}: choose among {len(steps)}, {span}")
    for note in run_notes(options.folder):
        print(f"mmhicra: note: {note}", file=sys.stderr)
    damaged = []
    for step in sorted(set(options.step or steps)):
        lines = steps[step].lines()
        try:
            for record in lines:
                sys.stdout.write(rollout_line(record).decode())
        except OSError as error:
            if error.filename is None:  # of the output, not of a file
                raise
            raise RunFolderError(f"{error.filename} cannot be read ({error.strerror})") from None
        damaged += [f"{path}, line {damage.line}: {damage.reason}" for path, damage in lines.damages]
    if damaged:
        raise RunFolderError(f"lines are left out of {len(damaged)} files; the first, {damaged[0]}")
    return 0
