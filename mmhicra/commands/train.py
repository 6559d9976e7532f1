"""`mmhicra train`: train a vision-language model as a configuration says."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmhicra
from mmhicra.commands.options import add_config, add_verbosity, libraries_level
from mmhicra.core.errors import RunFolderError
from mmhicra.core.logs import logged
from mmhicra.train.distributed.launch import speaks
from mmhicra.train.loop.stopping import INTERRUPTED

if TYPE_CHECKING:
    from mmhicra.config import RunConfig
    from mmhicra.train.loop.terminal import Terminal


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("train", help="train a vision-language model by HICRA, GRPO or a control")
    add_config(parser, required=True)
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume",
        nargs="?",
        const="always",
        choices=("always", "auto"),
        metavar="auto",
        help="continue the run in run_folder; `--resume auto` starts one if there is none",
    )
    existing.add_argument("--overwrite", action="store_true", help="start anew, and keep the run in run_folder as .old")
    add_verbosity(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train, and print what came of it."""
    from mmhicra.train.loop.stopping import Stopped, Stopping

    try:
        with Stopping(quiet=not speaks(os.environ)):
            return run_training(options)
    except Stopped as stopped:
        if speaks(os.environ):
            print(f"mmhicra: {stopped} during set-up: nothing was trained, nothing is lost", file=sys.stderr)
        return INTERRUPTED


def run_training(options: argparse.Namespace) -> int:
    """The same, and signals are taken."""
    from mmhicra.config.loading import load_config

    # As `python -m` does: custom rewards lie where the user stands. Last, so that nothing is shadowed.
    sys.path.append(os.getcwd())
    config = load_config(options.config, options.overrides)  # before torch is imported: mistakes show at once
    named = any(override.partition("=")[0].strip() == "run_folder" for override in options.overrides)
    own = None if named else folder_of_run(Path(options.config), config)
    if own is not None and options.overwrite:
        raise RunFolderError(
            f"{options.config} lies in the run folder {own}, but names {config.run_folder}: "
            "say which one is meant with --set run_folder=..."
        )
    if own is not None and options.resume:
        config = config.model_copy(update={"run_folder": str(own)})

    from mmhicra.train.loop.terminal import Terminal

    terminal = Terminal(quiet=not speaks(os.environ), level=options.level)
    with logged(terminal.handler, to_file=True, libraries=libraries_level(options.level, to_file=True)):
        terminal.say(f"mmhicra {mmhicra.__version__}: {options.config} -> {config.run_folder}")
        if own is not None and options.resume:
            terminal.say(MOVED)
        return train_in(config, options, terminal)


MOVED = "the run was copied or moved, or is resumed from elsewhere: it goes on where its config.yaml lies"


def train_in(config: RunConfig, options: argparse.Namespace, terminal: Terminal) -> int:
    """Train in the run folder of `config`."""
    from mmhicra.train.loop.run import Interrupted, train

    resume = "auto" if options.resume == "auto" else bool(options.resume)
    try:
        summary = train(config, resume=resume, overwrite=options.overwrite, terminal=terminal)
    except Interrupted as interrupted:
        path = shlex.quote(f"{config.run_folder}/config.yaml")
        terminal.conclude(f"{interrupted}; go on with: mmhicra train --config {path} --resume")
        return INTERRUPTED
    terminal.show_summary(summary)
    terminal.conclude(f"look at it: mmhicra report {shlex.quote(config.run_folder)}")
    return 0


def folder_of_run(path: Path, config: RunConfig) -> Path | None:
    """The run folder that the configuration at `path` lies in, if it is not the one that it names."""
    here = path.parent
    if path.name != "config.yaml" or not ((here / "metrics.jsonl").exists() or (here / "checkpoints").exists()):
        return None
    return None if Path(config.run_folder).resolve() == here.resolve() else here
