"""`mmhicra mine`: mine Strategic Grams from correct solutions, or inspect a list of them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmhicra.commands.options import add_verbosity, libraries_level
from mmhicra.core.logs import logged

if TYPE_CHECKING:
    from mmhicra.hicra.grams import GramLibrary
    from mmhicra.mining.inspection import Inspection
    from mmhicra.mining.mining import Mined
    from mmhicra.mining.ngrams import Progress
    from mmhicra.train.loop.terminal import Terminal

SHOWN = 20
"""Rows of tables in the terminal."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "mine",
        help="mine Strategic Grams from correct solutions, or inspect a list of them",
        description="Mine Strategic Grams from correct solutions, or inspect a list of them: docs/guides/mining.md",
    )
    parser.add_argument("sources", nargs="*", metavar="RUN|FILE", help="run folders or JSON Lines files (.gz, .zst)")
    parser.add_argument("--out", metavar="FILE", default="strategic_grams.json", help="the library (%(default)s)")
    parser.add_argument("--text-field", metavar="NAME", help="field of the solution, a.b for field b of object a")
    correct = parser.add_mutually_exclusive_group()
    correct.add_argument("--correct-field", metavar="NAME", help="field of the verdict")
    correct.add_argument("--all", action="store_true", help="the files hold nothing but correct solutions")
    _add_options(parser)
    parser.add_argument("--inspect", metavar="LIBRARY", help="show a shipped library or a file instead of mining")
    parser.add_argument("--responses", nargs="+", metavar="RUN|FILE", help="with --inspect: what to look for hits in")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="with --responses: whose tokens to count (a run's own)")
    add_verbosity(parser)
    parser.set_defaults(run=run)


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Whatever is not given is left to the defaults of `MiningOptions`."""
    group = parser.add_argument_group("how to mine (defaults and what the paper says: docs/guides/mining.md)")
    absent = argparse.SUPPRESS
    group.add_argument("--min-words", type=int, default=absent, help="words of an n-gram at least")
    group.add_argument("--max-words", type=int, default=absent, help="words of an n-gram at most")
    group.add_argument("--top", type=float, default=absent, help="share of clusters taken")
    group.add_argument("--min-df", type=int, default=absent, help="solutions an n-gram must occur in")
    group.add_argument("--max-ngrams", type=int, default=absent, help="n-grams to cluster, where --min-df is not given")
    group.add_argument("--max-df", type=float, default=absent, help="share of solutions an n-gram may occur in")
    group.add_argument("--max-repeats", type=float, default=absent, help="mean occurrences per solution that has it")
    group.add_argument("--algorithm", choices=("ward", "kmeans", "hdbscan"), default=absent, help="how to cluster")
    group.add_argument(
        "--cluster-size", type=int, default=absent, help="n-grams of a cluster: mean, or HDBSCAN's least"
    )
    group.add_argument("--seed", type=int, default=absent, help="of the clustering")
    group.add_argument("--embedder", metavar="MODEL", help="sentence-transformers model, folder or name")
    group.add_argument("--cache", metavar="FOLDER", help="where embeddings are kept")


def run(options: argparse.Namespace) -> int:
    """Mine or inspect, and print what came of it."""
    from mmhicra.core.errors import UserError
    from mmhicra.train.loop.terminal import Terminal

    terminal = Terminal(level=options.level)
    if bool(options.sources) == bool(options.inspect):
        raise UserError("mine: give run folders or files to mine, or --inspect LIBRARY, and not both")
    if options.responses and not options.inspect:
        raise UserError("mine: --responses goes with --inspect LIBRARY")
    with logged(terminal.handler, libraries=libraries_level(options.level)):
        return _inspect(options, terminal) if options.inspect else _mine(options, terminal)


@contextmanager
def _follow(terminal: Terminal) -> Iterator[Progress]:
    """A bar that shows the phase at work."""
    with terminal.watch("") as task:

        def progress(phase: str, done: int, total: int) -> None:
            if terminal.bars is not None:
                if terminal.bars.tasks[terminal.bars.task_ids.index(task)].description != phase:
                    terminal.bars.reset(task, description=phase, total=total)
                terminal.advance(task, done, total)

        yield progress


def _mine(options: argparse.Namespace, terminal: Terminal) -> int:
    from dataclasses import fields

    from mmhicra.core.extras import require_extra

    require_extra("mine", "mine")
    from mmhicra.mining.embedding import Embedder, default_cache, default_embedder
    from mmhicra.mining.mining import MiningOptions, check_target, mine, save_mined
    from mmhicra.mining.solutions import read_solutions

    given = {
        field.name: getattr(options, field.name) for field in fields(MiningOptions) if hasattr(options, field.name)
    }
    settings = MiningOptions(**given)
    check_target(options.out)
    with _follow(terminal) as progress:
        corpus = read_solutions(
            options.sources,
            text_field=options.text_field,
            correct_field=options.correct_field,
            all_correct=options.all,
            progress=progress,
        )
        _say_samples(options.sources, terminal)
        terminal.say(f"solutions: {', '.join(f'{count} {name}' for name, count in corpus.counts.items())}")
        embedder = Embedder(options.embedder or default_embedder(), options.cache or default_cache())
        mined = mine(corpus, settings, embedder, progress=progress)
    table = save_mined(mined, options.out)
    _show_mined(mined, terminal)
    terminal.show_places(
        [("library", options.out), ("table", table), ("train with", f"--set hicra.grams={options.out}")]
    )
    return 0


def _say_samples(sources: Sequence[str], terminal: Terminal) -> None:
    """Say of each run whose rollout files do not hold everything."""
    from mmhicra.core.rollout_files import run_notes

    for source in sources:
        for note in run_notes(Path(source)):
            terminal.say(f"note: {source}: {note}")


def _show_mined(mined: Mined, terminal: Terminal) -> None:
    from rich.table import Table

    from mmhicra.mining.mining import table_rows

    counts = mined.counts
    table = Table("cluster", "Cluster DF", "share", "size", "selected", "examples (DF)", title="clusters by Cluster DF")
    for row in table_rows(mined)[:SHOWN]:
        table.add_row(*row)
    terminal.console.print(table)
    terminal.conclude(
        f"{counts['ngrams']} n-grams in at least {counts['least_df']} solutions ({mined.embedded} newly embedded), "
        f"{counts['clusters']} clusters, {counts['noise']} n-grams in none; {counts['clusters_selected']} clusters, "
        f"of Cluster DF from {counts['least_cluster_df_selected']} on are selected: {counts['grams']} Strategic Grams"
    )


def _inspect(options: argparse.Namespace, terminal: Terminal) -> int:
    from mmhicra.core.errors import UserError
    from mmhicra.core.resources import asset_path
    from mmhicra.hicra.grams import GramLibrary
    from mmhicra.mining.inspection import inspect_library, load_tokenizer, model_of, read_responses
    from mmhicra.vlm.loading import SHIPPED

    library = GramLibrary.load(options.inspect)
    _show_library(library, terminal)
    if options.responses:
        model = options.tokenizer or model_of(options.responses)
        if model is None:
            raise UserError("mine: --responses have no model of their own: name its folder by --tokenizer")
        tokenizer = load_tokenizer(asset_path(model) if model in SHIPPED else model)
        responses = read_responses(options.responses, options.text_field)
        _say_samples(options.responses, terminal)
        with _follow(terminal) as progress:
            found = inspect_library(library, responses, tokenizer, progress=progress)
        terminal.say(f"tokens of {model}")
        _show_hits(found, terminal)
    return 0


def _show_library(library: GramLibrary, terminal: Terminal) -> None:
    from collections import Counter

    words = Counter(gram.words for gram in library.grams)
    functions = Counter(gram.function for gram in library.grams)
    clusters = Counter(gram.cluster for gram in library.grams if gram.cluster)
    terminal.conclude(f"{library.name}: {len(library)} grams, SHA-256 {library.content_hash}")
    terminal.conclude("words      " + ", ".join(f"{length}: {count}" for length, count in sorted(words.items())))
    terminal.conclude("functions  " + ", ".join(f"{name}: {count}" for name, count in functions.most_common()))
    largest = ", ".join(f"{name}: {count}" for name, count in clusters.most_common(SHOWN))
    terminal.conclude(f"clusters   {len(clusters)}" + (f", the largest {largest}" if clusters else ""))


def _show_hits(found: Inspection, terminal: Terminal) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("hits", "gram", "first in context", title=f"the most frequent of {len(found.hits)} grams that occur")
    for gram, count in found.hits.most_common(SHOWN):
        before, hit, after = (" ".join(f"|{part}|".split())[1:-1] for part in found.examples[gram])
        table.add_row(str(count), gram, Text.assemble(before, (hit, "bold"), after))
    terminal.console.print(table)
    terminal.conclude(
        f"planning density {found.density:.2%} of {found.tokens} tokens, {found.multiword_density:.2%} without "
        f"one-word grams; {found.responses_with_hit} of {found.responses} responses with a hit"
    )
