"""`mmhicra merge`: write the whole model folder of an adapter."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("merge", help="merge a LoRA adapter, or a run that trained one, into its base model")
    parser.add_argument(
        "source",
        metavar="RUN_OR_ADAPTER",
        help="a run (its newest checkpoint), one of its checkpoints, or the folder or hub id of an adapter",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="the model folder to write")
    parser.add_argument("--base", metavar="MODEL", help="the model under it, instead of the one that it names")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Merge, and say what was written."""
    import transformers

    from mmhicra.vlm.merging import merge

    transformers.utils.logging.disable_progress_bar()
    done = merge(options.source, options.out, options.base)
    print(f"{done.out}: {done.base} with {done.source}")
    return 0
