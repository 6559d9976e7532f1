"""The command line: finds the command, runs it, and turns refusals into one line."""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress

import mmhicra
from mmhicra.commands import (
    bench,
    config,
    configs,
    data,
    doctor,
    errors,
    eval,
    export,
    lab,
    leaderboard,
    merge,
    mine,
    report,
    reward,
    rollouts,
    train,
)
from mmhicra.core.errors import ConfigError, UserError, tell
from mmhicra.core.extras import extra_of, missing_line
from mmhicra.core.logs import drop_import_warnings
from mmhicra.train.loop.stopping import INTERRUPTED

COMMANDS = (
    train,
    config,
    configs,
    data,
    doctor,
    reward,
    eval,
    export,
    report,
    rollouts,
    leaderboard,
    merge,
    mine,
    errors,
    lab,
    bench,
)
MENDABLE = 2
"""Exit status when something the user can mend stood in the way."""
_DOTTED = re.compile(r"--([a-z_]+(?:\.[a-z_]+)+)(=.*)?", re.DOTALL)
NOBODY_READS = 141
"""Exit status when the output is a pipe whose reader has ended, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # an output that cannot show a character shows its escape
        sys.stdout.reconfigure(errors="backslashreplace")
    drop_import_warnings()
    try:
        refuse_without_folder()
        options = make_parser().parse_args(expand_flags(sys.argv[1:] if arguments is None else arguments))
        status = options.run(options)
        if sys.stdout is not None:  # it is where the shell has closed it
            sys.stdout.flush()
        return status
    except UserError as refusal:
        tell(refusal)
        return MENDABLE
    except ModuleNotFoundError as missing:
        extra = extra_of(missing.name)
        if extra is None:
            raise
        print(f"mmhicra: {missing_line('this command', [str(missing.name)], extra)}", file=sys.stderr)
        return MENDABLE
    except KeyboardInterrupt:
        print("mmhicra: stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # e.g. `mmhicra leaderboard | head`
        _write_to_nowhere()
        return NOBODY_READS
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        _write_to_nowhere()
        what = f" {error.filename}" if error.filename else " what is printed"
        print(f"mmhicra: cannot write{what}: {error.strerror}; free the disk or choose another place", file=sys.stderr)
        return MENDABLE


def refuse_without_folder() -> None:
    """Raise UserError if the working directory has been removed: every relative path starts there."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the working directory has been removed: change into another one") from None


def _write_to_nowhere() -> None:
    """Python flushes its output once more at the end, which would fail once more."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def expand_flags(arguments: Sequence[str]) -> list[str]:
    """`--train.steps 20` and `--train.steps=20` as `--set train.steps=20`, whose error lines name field and value.

    Raises:
        ConfigError: a flag has no value.
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
            raise ConfigError(f"configuration: --{name} has no value: write --{name} VALUE or --{name}=VALUE")
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
