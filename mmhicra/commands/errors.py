"""`mmhicra errors`: planning and strategy errors against execution errors over the steps of a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from mmhicra.analysis.errors import ErrorCounts, Judge
    from mmhicra.core.endpoint import Usage
    from mmhicra.train.loop.terminal import Terminal


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("errors", help="failed rollouts: planning errors against execution errors, by step")
    parser.add_argument("folder", metavar="RUN", type=Path, help="the folder of a run with rollouts/")
    which = parser.add_argument_group("which failures")
    which.add_argument("--steps", type=_steps, default=(1, None), metavar="FIRST-LAST", help="e.g. 10-40, 10- or 12")
    which.add_argument("--every", type=_count, default=1, metavar="N", help="of these steps, the first and each N-th")
    which.add_argument("--sample", type=_count, metavar="K", help="judge K failures of a step at most")
    which.add_argument("--seed", type=int, default=0, help="of --sample")
    judge = parser.add_argument_group("judge")
    judge.add_argument("--judge", default="exact", metavar="exact|URL", help="exact (generated tasks) or an endpoint")
    judge.add_argument("--model", metavar="NAME", help="the model to ask at URL")
    judge.add_argument("--api-key-env", default="OPENAI_API_KEY", metavar="VARIABLE", help="holds the key")
    judge.add_argument("--temperature", type=float, help="left to the endpoint unless given")
    judge.add_argument("--with-images", action="store_true", help="send the problem's images along")
    judge.add_argument("--image-folder", type=Path, default=Path(), metavar="DIR", help="where relative paths start")
    judge.add_argument("--concurrency", type=_count, default=8, metavar="N", help="questions under way at a time")
    judge.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="for one reply")
    judge.add_argument("--retries", type=int, default=5, metavar="N", help="after 429, 5xx, timeouts, lost connections")
    judge.add_argument("--price-in", type=float, metavar="MONEY", help="per million prompt tokens")
    judge.add_argument("--price-out", type=float, metavar="MONEY", help="per million completion tokens")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Judge, write `errors.jsonl`, `errors.csv` and `errors.png` into the run folder, and print the counts."""
    from mmhicra.analysis import errors
    from mmhicra.analysis.judges import EndpointJudge
    from mmhicra.core.files import writing
    from mmhicra.core.rollout_files import run_notes
    from mmhicra.train.loop.terminal import Terminal

    terminal = Terminal()
    judge = _judge(options)
    for note in run_notes(options.folder):
        terminal.say(f"note: {note}")
    first, last = options.steps
    found = errors.read_failures(options.folder, first, last, options.every, options.sample, options.seed)
    chosen = [failure for step in found for failure in step.chosen]
    with terminal.watch("judging", total=len(chosen)) as bar:
        records = errors.judge_failures(chosen, judge, on_progress=lambda done: terminal.advance(bar, done))
    rows = errors.count_errors({step.step: step.total for step in found}, records)
    total = errors.total_of(rows)
    places = {kind: options.folder / f"errors.{kind}" for kind in ("jsonl", "csv", "png")}
    with writing(options.folder):
        errors.write_records(places["jsonl"], records)
        errors.write_counts(places["csv"], rows)
        errors.draw_counts(places["png"], rows, judge.name)
    terminal.console.print(_table(rows, total))
    terminal.say(
        f"{total.judged} of {total.failures} failures of {len(rows)} steps judged by {judge.name}; "
        "shares are of planning + execution, with 95 % intervals"
    )
    if isinstance(judge, EndpointJudge):
        _show_usage(terminal, judge.usage, options)
    terminal.show_places(list(places.items()))
    return 0


def _judge(options: argparse.Namespace) -> Judge:
    from mmhicra.analysis.errors import ExactJudge
    from mmhicra.analysis.judges import EndpointJudge, image_finder
    from mmhicra.core.endpoint import Endpoint, ReplyCache
    from mmhicra.core.errors import ConfigError

    if options.judge == "exact":
        return ExactJudge()
    if "://" not in options.judge:
        raise ConfigError("--judge is no URL: give exact, or a URL such as http://127.0.0.1:8000/v1")
    if (options.price_in is None) != (options.price_out is None):
        raise ConfigError("--price-in and --price-out go together: give both or neither")
    endpoint = Endpoint(
        options.judge, options.model or "", options.api_key_env, options.temperature,
        options.timeout, options.retries, options.concurrency,
    )  # fmt: skip
    if not options.model:
        raise ConfigError(f"--judge {endpoint.shown} needs --model NAME: the model to ask there")
    cache = ReplyCache(options.folder / "judge_cache.jsonl")
    return EndpointJudge(endpoint, cache, image_finder(options.image_folder) if options.with_images else None)


def _table(rows: Sequence[ErrorCounts], total: ErrorCounts) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="failed rollouts by kind of error", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in ("step", "failures", "judged", "planning", "execution", "discarded", "unparsed"):
        table.add_column(heading, justify="right")
    table.add_column("planning share", justify="right")
    for row in (*rows, total):
        if row is total:
            table.add_section()
        counts = (row.failures, row.judged, row.planning, row.execution, row.discarded, row.unparsed)
        table.add_row("all" if row.step is None else str(row.step), *map(str, counts), _share_text(row))
    return table


def _share_text(row: ErrorCounts) -> str:
    share = row.share
    return f"{share.mean:.0%} [{100 * share.low:.0f}, {100 * share.high:.0f}]" if share else "-"


def _show_usage(terminal: Terminal, usage: Usage, options: argparse.Namespace) -> None:
    cost = ""
    if options.price_in is not None:
        cost = f", cost {usage.price(options.price_in, options.price_out):.4f}"
    terminal.say(
        f"{usage.requests} requests, {usage.cached} cached, {usage.prompt_tokens} prompt tokens, "
        f"{usage.completion_tokens} completion tokens{cost}"
    )
    if usage.unreported:
        terminal.say(f"{usage.unreported} replies did not report their tokens, which are not in these sums")
    if usage.without_images:
        terminal.say(f"{usage.without_images} failures were judged without their images: not found (--image-folder)")


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return count


def _steps(text: str) -> tuple[int, int | None]:
    first, dash, last = text.partition("-")
    try:
        return int(first or 1), (int(last) if last else None) if dash else int(first)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} must read FIRST-LAST, e.g. 10-40, 10- or 12") from None
