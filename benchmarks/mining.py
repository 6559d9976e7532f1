"""How long mining takes and how much memory: the whole pipeline, with the real embedder, on made-up solutions."""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import mmhicra
from benchmarks.planted import STRATEGIES, Content, all_wordings, make_solutions, planted_grams
from mmhicra.core.memory import GIB, most_resident
from mmhicra.mining.embedding import Embedder, default_embedder
from mmhicra.mining.mining import LIBRARIES, Mined, MiningOptions, mine, save_mined
from mmhicra.mining.solutions import read_solutions

CONTENT = Content(vocabulary=20_000, phrases=15_000, flatness=200, topics=200, topic_phrases=20)
"""With it 20 000 solutions of 400 words have about 100 000 n-grams in at least one solution of a thousand, as many as
mining clusters at most."""


class Clock:
    """A `Progress` that adds up seconds by phase: what passed since the last report goes to the phase reported."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.last = time.perf_counter()

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Note the time."""
        now = time.perf_counter()
        self.seconds[phase] += now - self.last
        self.last = now


def run_mining(
    solutions: int = 20_000,
    words: int = 400,
    *,
    embedder: str | None = None,
    options: MiningOptions | None = None,
    content: Content = CONTENT,
    seed: int = 0,
) -> dict[str, Any]:
    """Make solutions with planted strategies, mine them with an empty cache, and measure.

    Args:
        solutions: correct ones; a fifth of all are wrong ones on top.
        words: of a solution, about.
        embedder: a model folder or name, by default the one of `mmhicra mine`.
        options: of mining.
        content: what the solutions are made of.
        seed: of the solutions.

    Returns:
        Seconds by phase and in all (without making the solutions), peak memory of the process in GiB, counts, and how
        much of the plant was mined; embedding and k-means grow as n-grams and as their square.
    """
    options = options or MiningOptions()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "solutions.jsonl"
        with source.open("w", encoding="utf-8") as file:
            for record in make_solutions(solutions, words, content, seed=seed):
                file.write(json.dumps(record) + "\n")
        load = os.getloadavg()[0]
        clock = Clock()
        corpus = read_solutions([source], progress=clock)
        model = Embedder(embedder or default_embedder(), Path(folder) / "cache")
        clock("loading the embedder", 1, 1)
        mined = mine(corpus, options, model, progress=clock)
        save_mined(mined, Path(folder) / "mined.json")
        clock("saving", 1, 1)
    return {
        "command": f"mmhicra bench mining --solutions {solutions} --words {words}",
        "solutions": corpus.counts,
        "words": sum(len(text.split()) for text in corpus.texts),
        "seconds": {phase: round(seconds, 1) for phase, seconds in clock.seconds.items()},
        "seconds_total": round(sum(clock.seconds.values()), 1),
        "peak_gib": round(most_resident() / GIB, 2),
        "ngrams": mined.counts,
        "plant": measure_plant(mined, seed),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
        "versions": {"mmhicra": mmhicra.__version__} | {library: version(library) for library in LIBRARIES},
    }


def measure_plant(mined: Mined, seed: int = 0) -> dict[str, float]:
    """How much of the plant was mined, and how much as many random n-grams would have hit.

    Returns:
        `precision` and `recall` of mined grams against the candidate n-grams that lie inside a planted wording,
        the same of random ones, and the share of the 15 `strategies` of which some gram was mined.
    """
    candidates = sorted(mined.ngrams.texts)
    plant = planted_grams(candidates, all_wordings())
    grams = {gram.text for gram in mined.library.grams}
    chance = set(random.Random(seed).sample(candidates, len(grams)))
    found = [name for name, wordings in STRATEGIES.items() if planted_grams(grams, wordings)]
    return {
        "precision": len(grams & plant) / len(grams),
        "recall": len(grams & plant) / max(len(plant), 1),
        "random_precision": len(chance & plant) / len(grams),
        "random_recall": len(chance & plant) / max(len(plant), 1),
        "strategies": len(found) / len(STRATEGIES),
    }


def show_mining(figures: dict[str, Any], console: Console) -> None:
    """Print what `run_mining` returned."""
    table = Table("phase", "seconds", title=figures["command"])
    for phase, seconds in figures["seconds"].items():
        table.add_row(phase, f"{seconds:.1f}")
    table.add_row("all", f"{figures['seconds_total']:.1f}")
    console.print(table)
    ngrams, plant = figures["ngrams"], figures["plant"]
    console.print(
        f"{figures['solutions']['used']} solutions, {figures['words']} words, {ngrams['ngrams']} n-grams, "
        f"{ngrams['clusters']} clusters, {ngrams['grams']} grams; peak {figures['peak_gib']} GiB on {figures['cores']} "
        f"cores at load {figures['load_average']}",
        highlight=False,
    )
    console.print(
        f"plant: precision {plant['precision']:.2f}, recall {plant['recall']:.2f}, "
        f"strategies {plant['strategies']:.0%}; "
        f"random n-grams {plant['random_precision']:.2f}, {plant['random_recall']:.2f}",
        highlight=False,
    )
