"""Options that several commands take."""

from __future__ import annotations

import argparse

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
