"""`mmhicra eval parity`, or `python -m tools.lmms_parity`: lmms-eval's own tasks beside our scorer."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import datasets
from rich.console import Console

from mmhicra.commands.eval_lmms import require_lmms_eval
from mmhicra.core.errors import ConfigError
from tools.lmms_parity.parity import DEFECTS, Row, Setup, compare

BENCHMARKS = ("mathvista", "mathverse", "mathvision")
LATEX2SYMPY2 = Path(sys.prefix, "latex2sympy2")


def make_parser(prog: str | None) -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Run lmms-eval's own tasks beside our scorer, on the same responses."
    )
    parser.add_argument("--benchmark", choices=BENCHMARKS, required=True)
    parser.add_argument("--responses", metavar="FILE", help="an output file, plain or gzipped; or --model")
    parser.add_argument("--model", metavar="PATH", help="folder or hub id that answers the tasks' own prompts")
    parser.add_argument("--questions", metavar="SOURCE", help="file, folder or hub id; default: in the response file")
    parser.add_argument("--split", metavar="NAME", help="of the questions, where they have several")
    parser.add_argument("--images", metavar="FOLDER", help="what relative image paths are relative to")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first so many questions")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="with --model; default: the tasks' own")
    parser.add_argument(
        "--extractor",
        choices=("rules", "stored", "judge"),
        default="rules",
        help="who reads MathVista's answers for lmms-eval: our rules, the extractions in the file, or its own judge",
    )
    parser.add_argument("--judge-url", metavar="URL", help="an OpenAI-compatible server for --extractor judge")
    parser.add_argument("--judge-model", metavar="NAME", help="its model")
    parser.add_argument(
        "--latex2sympy2",
        metavar="FOLDER",
        default=str(LATEX2SYMPY2),
        help="where latex2sympy2 1.9.1 and its antlr4 lie, for mathvision_test; default: where `make setup` puts them",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Compare, and print what came of it.

    Raises:
        UserError: lmms-eval is not there, or the options do not go together.
    """
    options = make_parser(prog).parse_args(arguments)
    require_lmms_eval(exactly=True)
    if bool(options.responses) == bool(options.model):
        raise ConfigError("eval parity needs either --responses or --model")
    if options.extractor == "judge" and not (options.judge_url or os.environ.get("OPENAI_API_KEY")):
        raise ConfigError("--extractor judge needs --judge-url, or OPENAI_API_KEY in the environment")
    datasets.disable_progress_bars()
    model = {"path": options.model} | ({"max_new_tokens": options.max_new_tokens} if options.max_new_tokens else {})
    setup = Setup(
        responses=options.responses,
        model=model if options.model else None,
        questions=options.questions,
        split=options.split,
        images=options.images,
        limit=options.limit,
        extractor=options.extractor,
        judge_url=options.judge_url,
        judge_model=options.judge_model,
        latex2sympy2=options.latex2sympy2,
    )
    rows = compare(options.benchmark, setup)
    written = json.dumps([row.as_dict() for row in rows], indent=1, ensure_ascii=False)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(written + "\n", encoding="utf-8")
    if options.json:
        print(written)
    else:
        _print_parity(Console(highlight=False, soft_wrap=True), rows)
    return 0


def _print_parity(console: Console, rows: Sequence[Row]) -> None:
    console.print(f"lmms-eval {version('lmms-eval')} beside mmhicra, on the same responses")
    for row in rows:
        ours = f"ours {row.official:.2f} % official, {row.robust:.2f} % robust"
        if row.theirs is None:
            console.print(f"\n{row.task}, {row.rows} rows: lmms-eval has no number, {ours}\n  {row.note}")
        else:
            console.print(f"\n{row.task}, {row.rows} rows: lmms-eval {row.theirs:.2f} %, {ours}")
            console.print(
                f"  {row.differ} labels differ from {row.mode}, {row.rest} by other rules than these defects:"
            )
        for effect in row.effects:
            cost = "no number" if effect.points is None else f"{effect.points:+.2f} points, {effect.labels} labels"
            console.print(f"  {effect.defect}: {cost}: {DEFECTS[effect.defect]}")


if __name__ == "__main__":
    sys.exit(main())
