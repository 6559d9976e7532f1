"""Teaches the tiny VLM the ledger (`data.ledger`), and leaves every choice of plan and every doubt to RL.

`python -m tools.tiny_vlm.ledger_warmup --out assets/lab_vlm --seed 0`

It starts from the shipped tiny VLM, which tells the digits and the question mark apart as it is, so the vision tower
stays as it is. First come reading and sums, then worked solutions in which every plan is carried out on every kind of
row, and last the bad habits: plans and doubts drawn from `HABITS` and `DOUBT`, mostly whatever the image and the
question say. Only problems of the `train` split are ever shown.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

import torch
from rich.progress import Progress
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from mmhicra.core.records import IMAGE_PLACEHOLDER, Problem
from mmhicra.core.resources import asset_path
from mmhicra.data.generated.ledger import PHRASES, generate, right_plans, solve
from tools.tiny_vlm.ledger_report import measure
from tools.tiny_vlm.warmup import CHUNK, Pupil, Stage, learn_to_talk, run
from tools.tiny_vlm.warmup_lessons import Lesson, Piece

RIGHT = "right"
"""Among the shares of plans: whichever is the right one for the row."""
EVERY_PLAN = {**dict.fromkeys(PHRASES, 1.0), RIGHT: 3.0}
"""Every plan is learned on every kind of row, but image and question leave a mark on the choice that RL can amplify."""
HABITS = {"careful": 0.32, "even": 0.22, "mirror": 0.22, RIGHT: 0.24}
"""How often the finished model chooses each plan, about: mostly whatever the row."""
DOUBT = 0.25
"""How often the first attempt at a row is doubted, right or not; the second never is, or responses grow too long."""
PROGRAM = "python -m tools.tiny_vlm.ledger_warmup"
MEASURED_PROBLEMS = 480
STAGES = (
    Stage(150, {"names": 0.1, "facts": 0.25, "reckoning": 0.3, "worked": 0.35}, EVERY_PLAN),
    Stage(450, {"facts": 0.05, "reckoning": 0.15, "worked": 0.8}, EVERY_PLAN),
    Stage(150, {"worked": 1.0}, HABITS),
)


def draw_problems(seed: int) -> Iterator[Problem]:
    """Training problems without end."""
    while True:
        seed += 1
        yield from generate("train", CHUNK, seed)


def draw_choices(problem: Problem, plans: Mapping[str, float], rng: Random) -> list[list[str]]:
    """A plan for each row, drawn from the shares `plans`; after a doubt (see `DOUBT`) another draw."""
    names, weights = list(plans), list(plans.values())
    draws = [rng.choices(names, weights, k=1 + (rng.random() < DOUBT)) for _ in problem.facts["rows"]]
    return [
        [right if name == RIGHT else name for name in drawn]
        for right, drawn in zip(right_plans(problem), draws, strict=True)
    ]


def worked(problem: Problem, plans: Mapping[str, float], rng: Random) -> Lesson:
    """A worked solution with plans drawn by `draw_choices`."""
    choices = draw_choices(problem, plans, rng)
    return Lesson(problem.question, problem.images, ((solve(problem, choices, rng).text, True),))


def _cells(problem: Problem) -> list[list[str]]:
    return [["?" if cell is None else str(cell) for cell in row] for row in problem.facts["configuration"]["rows"]]


def named_cells(problem: Problem) -> Lesson:
    """Every cell by name, in reading order."""
    names = "".join(f" {cell}" for row in _cells(problem) for cell in row)
    return Lesson(f"{IMAGE_PLACEHOLDER}\nName the cells.", problem.images, ((names, True),))


def facts(problem: Problem, rng: Random) -> Lesson:
    """Rows and single cells of an image, each after its cue."""
    cues = []
    for number, row in enumerate(_cells(problem), 1):
        cues += [(f"row {number}", " ".join(row))]
        cues += [(f"row {number} column {column}", cell) for column, cell in enumerate(row, 1)]
    pieces: list[Piece] = []
    for cue, fact in rng.sample(cues, 6):
        pieces += [(f" {cue}:", False), (f" {fact},", True)]
    return Lesson(f"{IMAGE_PLACEHOLDER}\nAnswer each.", problem.images, tuple(pieces))


def reckoning(rng: Random) -> Lesson:
    """Text only: sums of the addends that rows have, and of the totals that they come to."""
    pieces: list[Piece] = []
    for number in range(10):
        if number % 2:
            a, b = rng.randint(3, 27), rng.randint(3, 18)
            given, total = f"{a} + {b}", a + b
        else:
            row = [rng.randint(1, 6), rng.randint(1, 6), rng.randint(0, 6)]
            given, total = " + ".join(map(str, row)), sum(row)
        pieces += [(f" {given} =", False), (f" {total},", True)]
    return Lesson("Answer each.", (), tuple(pieces))


def lessons_at(stage: Stage, problems: Iterator[Problem], rng: Random, count: int) -> list[Lesson]:
    """Draw `count` lessons of the kinds `names`, `facts`, `reckoning` and `worked`."""
    makers: dict[str, Callable[[], Lesson]] = {
        "names": lambda: named_cells(next(problems)),
        "facts": lambda: facts(next(problems), rng),
        "reckoning": lambda: reckoning(rng),
        "worked": lambda: worked(next(problems), stage.plans, rng),
    }
    return [makers[kind]() for kind in rng.choices(list(stage.mix), weights=list(stage.mix.values()), k=count)]


def warm_up(seed: int, progress: Progress) -> Pupil:
    """Teach a copy of the shipped tiny VLM."""
    folder = asset_path("tiny_vlm")
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    pupil = Pupil(model, AutoProcessor.from_pretrained(folder))
    rng = Random(f"ledger-warm-up/{seed}")
    problems = draw_problems(100_000 * (seed + 1))
    learn_to_talk(pupil, STAGES, lambda stage, count: lessons_at(stage, problems, rng, count), progress, rng)
    return pupil


def main(arguments: list[str] | None = None) -> int:
    """Make the model of the lab and measure it on held-out problems (see `warmup.run`)."""

    def report(model: Any, processor: Any, seed: int) -> dict[str, Any]:
        return measure(model, processor, generate("held_out", MEASURED_PROBLEMS, seed), seed)

    return run(PROGRAM, "Teach the tiny VLM the ledger, with bad habits.", warm_up, report, arguments)


if __name__ == "__main__":
    sys.exit(main())
