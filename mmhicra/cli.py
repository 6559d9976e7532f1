"""The command line: finds the command, runs it, and turns refusals into one line."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

import mmhicra
from mmhicra.commands import bench, config, configs, doctor, errors, eval, lab, leaderboard, mine, report, train
from mmhicra.refusals import ConfigRefusal, Refusal
from mmhicra.train.stopping import INTERRUPTED

COMMANDS = (train, config, configs, doctor, eval, report, leaderboard, mine, errors, lab, bench)
MENDABLE = 2
"""Exit status when something the user can mend stood in the way."""
_DOTTED = re.compile(r"--([a-z_]+(?:\.[a-z_]+)+)(=.*)?", re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        options = make_parser().parse_args(expand_flags(sys.argv[1:] if arguments is None else arguments))
        return options.run(options)
    except Refusal as refusal:
        if not refusal.told:
            print(f"mmhicra: {refusal}", file=sys.stderr)
        return MENDABLE
    except KeyboardInterrupt:
        print("mmhicra: stopped", file=sys.stderr)
        return INTERRUPTED


def expand_flags(arguments: Sequence[str]) -> list[str]:
    """`--train.steps 20` and `--train.steps=20` as `--set train.steps=20`, whose error lines name field and value.

    Raises:
        ConfigRefusal: a flag has no value.
    """
    expanded, rest = [], iter(arguments)
    for argument in rest:
        flag = _DOTTED.fullmatch(argument)
        if flag is None:
            expanded.append(argument)
            continue
        name, value = flag.groups()
        value = value[1:] if value else next(rest, None)
        if value is None or value.startswith("--"):
            raise ConfigRefusal(f"configuration: --{name} has no value: write --{name} VALUE or --{name}=VALUE")
        expanded += ["--set", f"{name}={value}"]
    return expanded


def make_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(prog="mmhicra", description=mmhicra.__doc__)
    parser.add_argument("--version", action="version", version=f"mmhicra {mmhicra.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    return parser
