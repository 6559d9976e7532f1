"""lmms-eval behind `mmhicra eval`: `--backend lmms-eval`, and `eval parity`."""

from __future__ import annotations

import argparse
import json
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmhicra.evaluate.lmms_parity import Row

BENCHMARKS = ("mathvista", "mathverse", "mathvision")
KNOWN_VERSION = "0.7.3"
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
    parser.add_argument("--latex2sympy2", metavar="FOLDER", help="where latex2sympy2 1.9.1 lies, for mathvision_test")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run_parity)


def run_parity(options: argparse.Namespace) -> int:
    """`mmhicra eval parity`."""
    import os

    from rich.console import Console

    from mmhicra.evaluate.lmms_parity import Setup, compare
    from mmhicra.refusals import ConfigRefusal

    require_lmms_eval(exactly=True)
    if bool(options.responses) == bool(options.model):
        raise ConfigRefusal("eval parity needs either --responses or --model")
    if options.extractor == "judge" and not (options.judge_url or os.environ.get("OPENAI_API_KEY")):
        raise ConfigRefusal("--extractor judge needs --judge-url, or OPENAI_API_KEY in the environment")
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


def add_backend(parser: Any) -> None:
    """Add the options that only `--backend lmms-eval` has to the parser of `mmhicra eval`."""
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="lmms-eval: rows scored at a time")


def run_backend(options: argparse.Namespace) -> int:
    """`mmhicra eval --backend lmms-eval`: our engine and our tasks, driven by lmms-eval."""
    from rich.console import Console

    from mmhicra.evaluate.results import write_result

    require_lmms_eval()
    _quieten()
    import tempfile

    from mmhicra.evaluate.lmms import drive, make_task
    from mmhicra.evaluate.lmms_model import EngineModel
    from mmhicra.evaluate.lmms_questions import hub_form, save

    console = Console(highlight=False, soft_wrap=True)
    limits = {name: getattr(options, name) for name in ("max_new_tokens", "max_pixels") if getattr(options, name)}
    model = EngineModel.load(options.model, precision=options.precision, device=options.device, **limits)
    with tempfile.TemporaryDirectory(prefix="mmhicra-lmms-") as folder:
        tasks = {}
        for name in options.benchmarks:
            data = None
            if options.questions:
                split = "test" if name == "mathvision" else "testmini"
                questions = hub_form(
                    name, options.questions, options.split or split, with_images=True, images=options.images
                )
                data = save(questions, split, Path(folder, name))
            tasks[name] = make_task(name, data, options.prompt, options.max_new_tokens)
        driven, result = drive(model, tasks, options.limit, options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, given in driven.items():
        lines = (json.dumps(line, ensure_ascii=False) for line in given.responses)
        text = "".join(f"{line}\n" for line in lines)
        (options.out / f"{name}.responses.jsonl").write_bytes(text.encode("utf-8", "backslashreplace"))
        for mode, scores in given.scores.items():
            scores.result["driver"]["model"] = options.model
            write_result(options.out / f"{name}.{mode}.json", scores)
            score = scores.result["score"]
            console.print(
                f"{name}, {mode}: {100 * score['accuracy']:.2f} % "
                f"({100 * score['low']:.1f} to {100 * score['high']:.1f}) of {score['total']}"
            )
    path = options.out / "lmms_eval.json"
    path.write_text(json.dumps(result, indent=1, default=str, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(f"results, samples and responses in {options.out}, lmms-eval's own result in {path}")
    return 0


def require_lmms_eval(exactly: bool = False) -> None:
    """Refuse to go on without lmms-eval.

    Args:
        exactly: the version whose defects are known is needed.

    Raises:
        Refusal: it is not installed, is another version, or lacks packages it imports.
    """
    from mmhicra.refusals import Refusal

    try:
        installed = version("lmms-eval")
    except PackageNotFoundError:
        raise Refusal(f"lmms-eval is not installed: {INSTALL}") from None
    missing = [name for name in ("evaluate", "loguru", "sacrebleu", "pytablewriter") if find_spec(name) is None]
    if missing:
        raise Refusal(f"lmms-eval lacks {', '.join(missing)}: {INSTALL}")
    if exactly and installed != KNOWN_VERSION:
        raise Refusal(f"lmms-eval {installed} has other defects than those known of {KNOWN_VERSION}: {INSTALL}")


def _quieten() -> None:
    """lmms-eval logs every step; warnings and errors are enough."""
    import sys

    from loguru import logger

    logger.remove()
    logger.add(sys.stderr, level="WARNING")


def _print_parity(console: Any, rows: Sequence[Row]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from mmhicra.evaluate.lmms_parity import DEFECTS

    table = Table(title=f"lmms-eval {version('lmms-eval')} beside mmhicra, on the same responses", box=SIMPLE_HEAD)
    table.add_column("task")
    for heading in ("rows", "lmms-eval, %", "official, %", "robust, %", "labels that differ", "defects", "rest"):
        table.add_column(heading, justify="right")
    for row in rows:
        effects = ", ".join(
            f"{effect.defect}: {'no number' if effect.points is None else f'{effect.points:+.2f} ({effect.labels})'}"
            for effect in row.effects
        )
        table.add_row(
            row.task,
            str(row.rows),
            "none" if row.theirs is None else f"{row.theirs:.2f}",
            f"{row.official:.2f}",
            f"{row.robust:.2f}",
            "" if row.differ is None else f"{row.differ} from {row.mode}",
            effects,
            "" if row.rest is None else str(row.rest),
        )
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.task}: {row.note}")
    for name in sorted({effect.defect for row in rows for effect in row.effects}):
        console.print(f"{name}: {DEFECTS[name]}")
