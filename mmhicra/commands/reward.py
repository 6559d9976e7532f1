"""`mmhicra reward test`: what the reward would pay, before anything is trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmhicra.commands.options import WHICH, add_config
from mmhicra.core.errors import UserError
from mmhicra.core.resources import find_config

if TYPE_CHECKING:
    from rich.table import Table

    from mmhicra.doctor.reward_trial import Trial

SURPRISED = 1
"""Exit status when a gold earns less than the same gold spoilt."""
SHOWN = 10
"""Surprising cases that are listed."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("reward", help="try the reward on golds, spoilt golds and stored rollouts")
    actions = parser.add_subparsers(required=True, metavar="action")
    test = actions.add_parser("test", help="print what every term would pay; no model is loaded")
    test.add_argument("file", nargs="?", type=find_config, metavar="CONFIG", help=WHICH)
    add_config(test, help="the same")
    test.add_argument("--problems", type=_count, default=64, metavar="N", help="golds that are tried (default 64)")
    test.add_argument("--rollouts", type=Path, metavar="RUN", help="score the stored rollouts of this run folder too")
    test.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Score, and print the table and what is surprising in it."""
    import os
    import sys

    from mmhicra.config.loading import load_config
    from mmhicra.train.loop.terminal import Terminal

    if (options.file is None) == (options.config is None):
        raise UserError("name one configuration: mmhicra reward test CONFIG")
    sys.path.append(os.getcwd())  # custom rewards lie where the user stands
    config = load_config(options.file or options.config, options.overrides)
    from mmhicra.doctor.reward_trial import try_reward

    trial, terminal = try_reward(config, options.problems, options.rollouts), Terminal()
    terminal.console.print(_table(trial))
    for line in _lines(trial):
        terminal.say(line)
    return SURPRISED if trial.surprises else 0


def _table(trial: Trial) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="what the reward pays, mean of each term before its weight", box=SIMPLE_HEAD, show_edge=False)
    table.add_column("answered")
    means = {what: trial.means(what) for what in trial.rows}
    names = [name for name in dict.fromkeys(name for row in means.values() for name in row) if name != "total"]
    for name in ("answers", *names, "reward"):
        table.add_column(name, justify="right")
    for what, row in means.items():
        cells = [f"{row[name]:.3f}" if name in row else "-" for name in (*names, "total")]
        table.add_row(what, str(len(trial.rows[what])), *cells)
    return table


def _lines(trial: Trial) -> list[str]:
    """What the table does not say."""
    lines = [f"{count} golds earn no more than with their {what}" for what, count in trial.equal.items()]
    if trial.refused:
        lines.append(f"{len(trial.refused)} rows cannot be used, the first at {trial.refused[0]}")
    if trial.stored:
        mean = sum(trial.stored) / len(trial.stored)
        lines.append(f"the run itself paid its {len(trial.stored)} rollouts {mean:.3f} in the mean")
    if trial.unknown:
        lines.append(f"{trial.unknown} rollouts are of problems that are not in the data")
    for surprise in trial.surprises[:SHOWN]:
        lines.append(
            f"surprising: problem {surprise.problem} earns {surprise.gold_earns:g} with its gold and "
            f"{surprise.spoilt_earns:g} with its {surprise.spoilt}: {' '.join(surprise.text.split())[-80:]!r}"
        )
    if len(trial.surprises) > SHOWN:
        lines.append(f"and {len(trial.surprises) - SHOWN} more such")
    return lines


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return count
