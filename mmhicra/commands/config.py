"""`mmhicra config`: what every field means and takes, for people and for editors."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("config", help="say what the fields of a configuration mean and take")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--explain", metavar="A.B", help="a field, or a section with all its fields, e.g. train.loss")
    shown.add_argument("--schema", action="store_true", help="JSON Schema, with which editors complete and check YAML")
    shown.add_argument("--markdown", action="store_true", help="the reference page")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what was asked for; without options, a line for each field."""
    from mmhicra.config import explain

    if options.explain:
        text = explain.explain(options.explain)
    elif options.schema:
        text = explain.schema()
    else:
        text = explain.as_markdown() if options.markdown else explain.list_fields()
    print(text, end="")
    return 0
