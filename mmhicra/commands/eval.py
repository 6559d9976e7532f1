"""`mmhicra eval`: benchmarks scored without an API key."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

BENCHMARKS = ("mathvista", "mathverse", "mathvision")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("eval", help="score MathVista, MathVerse and MathVision, officially and robustly")
    kinds = parser.add_subparsers(required=True, metavar="what")
    score = kinds.add_parser("score", help="score stored responses: no model, no API key")
    score.add_argument("--benchmark", choices=BENCHMARKS)
    score.add_argument("--responses", metavar="FILE", help="an output file, plain or gzipped")
    score.add_argument("--questions", metavar="SOURCE", help="file, folder or hub id; default: in the file, or the hub")
    score.add_argument("--split", metavar="NAME", help="of the questions, where they have several")
    score.add_argument("--mode", choices=("official", "robust"), default="official")
    score.add_argument(
        "--stage", choices=("response", "equality"), default="response", help="equality: extraction kept"
    )
    score.add_argument("--integer-rule", choices=("current", "legacy"), default="current", help="of mathvista")
    score.add_argument("--out", type=Path, metavar="FILE", help="result file; default: RESPONSES.MODE.json here")
    score.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="two results instead: a paired test")
    score.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    score.set_defaults(run=run_score)


def run_score(options: argparse.Namespace) -> int:
    """`mmhicra eval score`: score, write the result and a line per sample, print."""
    import json

    from rich.console import Console

    from mmhicra.evaluate.benchmarks import make_benchmark
    from mmhicra.evaluate.results import sample_path, write_result
    from mmhicra.evaluate.scoring import score_file
    from mmhicra.refusals import ConfigRefusal

    if options.compare:
        return _compare(options)
    if not options.benchmark or not options.responses:
        raise ConfigRefusal("eval score needs --benchmark and --responses, or --compare with two results")
    benchmark = make_benchmark(options.benchmark, options.integer_rule)
    scores = score_file(benchmark, options.responses, options.questions, options.mode, options.stage, options.split)
    out = options.out or Path(f"{Path(options.responses).name.split('.json')[0]}.{options.mode}.json")
    write_result(out, scores)
    if options.json:
        print(json.dumps(scores.result, indent=1, ensure_ascii=False))
    else:
        console = Console()
        console.print(_table(scores.result))
        console.print(f"result in {out}, a line per sample in {sample_path(out)}", highlight=False, soft_wrap=True)
    return 0


def _compare(options: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from mmhicra.evaluate.comparison import compare_results

    found = compare_results(*options.compare)
    if options.json:
        print(json.dumps(found.as_dict(), indent=1))
        return 0
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{found.shared} questions in common: {found.first:.2%} against {found.second:.2%}")
    console.print(
        f"difference {100 * found.difference:+.2f} points (95 % interval {100 * found.low:+.2f} to "
        f"{100 * found.high:+.2f}), p = {found.p:.3g} (exact McNemar test: "
        f"{found.only_first} only the first got right, {found.only_second} only the second)"
    )
    for warning in found.warnings:
        console.print(f"not alike: {warning}")
    return 0


def _table(result: dict[str, Any]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from mmhicra.evaluate.records import FLAGS

    table = Table(title=f"{result['benchmark']}, {result['mode']} mode: {result['metric']}", box=SIMPLE_HEAD)
    table.add_column("")
    for heading in ("accuracy, %", "95 % interval", "right", "of"):
        table.add_column(heading, justify="right")
    table.add_row("all", *_cells(result["score"]))
    for key, values in result["groups"].items():
        table.add_section()
        if len(values) <= 20:
            for value, cell in values.items():
                table.add_row(f"{key}: {value or 'none'}", *_cells(cell))
    counts = ", ".join(f"{result['counts'][flag]} {flag.replace('_', ' ')}" for flag in (*FLAGS, "missing"))
    labels = result["labels"]
    against = ""
    if labels:
        against = (
            f"\nagrees with {labels['agreement']:.2%} of {labels['labelled']} stored labels "
            f"({labels['difference_points']:+.2f} points)"
        )
    table.caption = counts + against
    return table


def _cells(cell: dict[str, Any]) -> list[str]:
    interval = f"{100 * cell['low']:.1f} to {100 * cell['high']:.1f}"
    return [f"{100 * cell['accuracy']:.2f}", interval, str(cell["correct"]), str(cell["total"])]
