"""`mmhicra train`: train a vision-language model as a configuration says."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import mmhicra

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("train", help="train a vision-language model by HICRA, GRPO or a control")
    parser.add_argument("--config", required=True, metavar="FILE", help="a YAML file, e.g. configs/tiny.yaml")
    add_overrides(parser)
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue the run in run_folder")
    existing.add_argument("--overwrite", action="store_true", help="replace the run in run_folder")
    parser.set_defaults(run=run)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add `--set A.B=VALUE`, which every command with a configuration takes."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.B=VALUE",
        dest="overrides",
        help="override one field; repeatable",
    )


def run(options: argparse.Namespace) -> int:
    """Train, and print what came of it."""
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
    terminal.say(f"look at it: mmhicra report {config.run_folder}")
    return 0
