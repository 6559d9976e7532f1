"""lmms-eval behind `mmhicra eval`: `--backend lmms-eval`, and `eval parity`."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmhicra.config import RunConfig
    from mmhicra.evaluate.offline import Evaluated, Watcher
    from tools.lmms_parity.parity import Row

BENCHMARKS = ("mathvista", "mathverse", "mathvision")
KNOWN_VERSION = "0.7.3"
LATEX2SYMPY2 = Path(sys.prefix, "latex2sympy2")
INSTALL = 'pip install "mmhicra[lmms]" and then pip install --no-deps lmms-eval==' + KNOWN_VERSION


def add_parity(kinds: Any) -> None:
    """Add `eval parity`."""
    parser = kinds.add_parser("parity", help="lmms-eval's own tasks beside our scorer, on the same responses")
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
    parser.set_defaults(run=run_parity)


def run_parity(options: argparse.Namespace) -> int:
    """`mmhicra eval parity`."""
    import os

    import datasets
    from rich.console import Console

    from mmhicra.core.errors import ConfigError
    from tools.lmms_parity.parity import Setup, compare

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


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add the options of the backend to `mmhicra eval`."""
    parser.add_argument(
        "--backend", choices=("mmhicra", "lmms-eval"), default="mmhicra", help="what drives engine and scorer"
    )
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="of lmms-eval, that score at a time")


def evaluate(
    config: RunConfig, folder: Path, watcher: Watcher, options: argparse.Namespace, choices: Mapping[str, Any]
) -> list[Evaluated]:
    """`mmhicra eval --backend lmms-eval`.

    Args:
        config: what is evaluated, and how.
        folder: where everything goes.
        watcher: shows progress.
        options: of the command line.
        choices: `name`, `overwrite` and `checkpoint` of `evaluate_through_lmms`.

    Raises:
        UserError: lmms-eval is not there, or cannot do what is asked.
    """
    from mmhicra.core.errors import ConfigError

    require_lmms_eval()
    if options.judge is not None:
        raise ConfigError("--backend lmms-eval scores by rules alone: drop --judge, or judge its responses afterwards")
    _quieten()
    from mmhicra.evaluate.lmms.driver import evaluate_through_lmms

    return evaluate_through_lmms(config, folder, watcher, threads=options.threads, **choices)


def require_lmms_eval(exactly: bool = False) -> None:
    """Refuse to go on without lmms-eval.

    Args:
        exactly: the version whose defects are known is needed.

    Raises:
        UserError: it is not installed, is another version, or lacks packages it imports.
    """
    from mmhicra.core.errors import UserError

    try:
        installed = version("lmms-eval")
    except PackageNotFoundError:
        raise UserError(f"lmms-eval is not installed: {INSTALL}") from None
    missing = [name for name in ("evaluate", "loguru", "sacrebleu", "pytablewriter") if find_spec(name) is None]
    if missing:
        raise UserError(f"lmms-eval lacks {', '.join(missing)}: {INSTALL}")
    if exactly and installed != KNOWN_VERSION:
        raise UserError(f"lmms-eval {installed} has other defects than those known of {KNOWN_VERSION}: {INSTALL}")


def _quieten() -> None:
    """lmms-eval logs every step; warnings and errors are enough."""
    import datasets
    from loguru import logger

    datasets.disable_progress_bars()
    logger.remove()
    logger.add(sys.stderr, level="WARNING")


def _print_parity(console: Any, rows: Sequence[Row]) -> None:
    from tools.lmms_parity.parity import DEFECTS

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
