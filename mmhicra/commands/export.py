"""`mmhicra export`: write the Hugging Face folder of a checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "export", help="write the model folder of any checkpoint of a run, in the memory of one tensor"
    )
    parser.add_argument("source", metavar="RUN_OR_CHECKPOINT", help="a run (its newest checkpoint), or a checkpoint")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="the folder to write (default: RUN-step_NNNNNN beside the run)"
    )
    parser.add_argument("--dtype", choices=["bf16", "fp32"], help="of the weights (default: model.precision)")
    parser.add_argument(
        "--adapter",
        choices=["merged", "apart"],
        default="merged",
        help="of a run with adapters: the merged model, or the adapter alone (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Export, and say what was written."""
    import transformers

    from mmhicra.vlm.exporting import export

    transformers.utils.logging.disable_progress_bar()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    done = export(options.source, options.out, options.dtype, options.adapter, say)
    print(f"{done.out}: {done.checkpoint}")
    return 0
