"""`mmhicra data`: what a data set is understood as, before there is a run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, get_args

from mmhicra.commands.options import add_config
from mmhicra.config.data import Preset
from mmhicra.core.errors import UserError

FIRST = 1000
"""Rows that are read unless another number is asked for."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("data", help="show what a data set is understood as: columns, prompts, refused rows")
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="a file, a folder or a hub id, as data.source")
    add_config(parser, default=None)
    parser.add_argument("--preset", choices=get_args(Preset), help="its layout (default: found by its columns)")
    parser.add_argument(
        "--columns",
        action="append",
        default=[],
        metavar="ROLE=COLUMN",
        help="which column holds what, e.g. answer=gold; repeatable",
    )
    parser.add_argument("--model", metavar="PATH", help="render and measure prompts as this model gets them")
    parser.add_argument(
        "--limit", type=int, default=FIRST, metavar="N", help=f"rows that are read, 0 for all (default: {FIRST})"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the same as one HTML page, with the images")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Read, and print what was understood."""
    from mmhicra.config.loading import load_config
    from mmhicra.core.files import write_whole
    from mmhicra.doctor.preview import preview_data
    from mmhicra.doctor.preview_text import as_page, as_text

    if options.source is None and options.config is None and not options.overrides:
        raise UserError("name a source, e.g. mmhicra data problems.jsonl, or a configuration with --config")
    if options.limit < 0:
        raise UserError(f"--limit is {options.limit}: write the number of rows to read, or 0 for all")
    config = load_config(options.config, [*options.overrides, *_overrides(options)])
    builder = None
    if options.model or options.config:
        from mmhicra.vlm.loading import load_processor
        from mmhicra.vlm.processing import PromptBuilder

        loaded = load_processor(config.model)
        builder = PromptBuilder(loaded.processor, loaded.family, loaded.config, config.data)
    previews = preview_data(config, builder, options.limit or None)
    print("\n\n".join(map(as_text, previews)))
    if options.page:
        write_whole(options.page, as_page(previews), "free it or choose another --page")
        print(f"\n{options.page}")
    return 0


def _overrides(options: argparse.Namespace) -> list[str]:
    """What the options say, as `--set` takes it.

    Raises:
        UserError: `--columns` does not name a role and a column.
    """
    said = [("data.source", options.source), ("data.preset", options.preset), ("model.path", options.model)]
    for each in options.columns:
        role, equals, column = each.partition("=")
        if not (role and equals and column):
            raise UserError(f"--columns {each}: write ROLE=COLUMN, e.g. --columns answer=gold")
        names = column.split(",")
        said.append((f"data.columns.{role}", names if len(names) > 1 or role in ("facts", "unused") else column))
    return [f"{name}={json.dumps(value)}" for name, value in said if value is not None]
