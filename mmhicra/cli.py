"""The command line: parses, calls, prints. No logic."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import mmhicra
from mmhicra.refusals import Refusal

MENDABLE = 2
"""Exit status when something the user can mend stood in the way."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = make_parser().parse_args(arguments)
    try:
        return options.run(options)
    except Refusal as refusal:
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
    train = commands.add_parser("train", help="train a vision-language model by HICRA or GRPO")
    train.add_argument("--config", required=True, metavar="FILE", help="a YAML file, e.g. configs/tiny.yaml")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.B=VALUE",
        dest="overrides",
        help="override one field; repeatable",
    )
    existing = train.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue the run in run_folder")
    existing.add_argument("--overwrite", action="store_true", help="replace the run in run_folder")
    train.set_defaults(run=run_train)
    return parser


def run_train(options: argparse.Namespace) -> int:
    """`mmhicra train`."""
    from mmhicra.config_loading import load_config

    # As `python -m` does: custom rewards lie where the user stands. Last, so that nothing is shadowed.
    sys.path.append(os.getcwd())
    config = load_config(options.config, options.overrides)  # before torch is imported: mistakes show at once

    from mmhicra.train.terminal import Terminal

    terminal = Terminal(quiet=os.environ.get("RANK", "0") != "0")
    terminal.say(f"mmhicra {mmhicra.__version__}: {options.config} -> {config.run_folder}")

    from mmhicra.train.run import Interrupted, train

    try:
        summary = train(config, resume=options.resume, overwrite=options.overwrite, terminal=terminal)
    except Interrupted:
        terminal.say(f"saved; go on with: mmhicra train --config {config.run_folder}/config.yaml --resume")
        return INTERRUPTED
    terminal.show_summary(summary)
    return 0
