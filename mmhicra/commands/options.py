"""Options that several commands take."""

from __future__ import annotations

import argparse
import logging

from mmhicra.core.logs import RESULT
from mmhicra.core.resources import find_config

WHICH = "a YAML file, or the name of one that ships, e.g. tiny (`mmhicra configs` lists them)"


def add_config(
    parser: argparse.ArgumentParser, *, required: bool = False, default: str | None = None, help: str = WHICH
) -> None:
    """Add `--config` and `--set A.B=VALUE`, which override fields of it."""
    parser.add_argument("--config", required=required, default=default, type=find_config, metavar="FILE", help=help)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.B=VALUE",
        dest="overrides",
        help="override one field; repeatable. --a.b VALUE does the same",
    )


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """Add `--verbose` and `--quiet`, which set `options.level`: the least level of the lines on the terminal."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "-v",
        "--verbose",
        action="store_const",
        const=logging.DEBUG,
        default=logging.INFO,
        dest="level",
        help="print details and warnings of libraries too",
    )
    group.add_argument(
        "-q",
        "--quiet",
        action="store_const",
        const=RESULT,
        default=logging.INFO,
        dest="level",
        help="print warnings, errors and the result only",
    )


def libraries_level(level: int, to_file: bool = False) -> int:
    """The least level of what libraries say on the terminal; with a log file, only errors unless `--verbose` is set."""
    return logging.ERROR if to_file and level > logging.DEBUG else logging.WARNING
