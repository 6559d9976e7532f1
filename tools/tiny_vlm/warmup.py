"""Teaches the tiny VLM to see, to reckon and to write worked solutions, and leaves the choice of plan to RL.

`python -m tools.tiny_vlm.warmup --out assets/tiny_vlm --seed 0`

First seeing: the vision tower alone, with throw-away linear probes on its nine output tokens. Then skills: the language
model alone, on naming cells, facts, counting, sums, and worked solutions by every plan alike. Last habits: worked
solutions in the proportions of `HABITS`, most of them guesses. Only problems of the `train` split are ever shown.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image
from rich import print_json
from rich.progress import Progress
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from mmhicra.core.records import Problem
from mmhicra.core.resources import asset_path
from mmhicra.data.generated.tasks import COLOURS, CORNERS, SHAPES, TASKS
from mmhicra.data.generated.visual_math import PHRASES, generate
from tools.tiny_vlm.tiny import IMAGE, TURN_END, build_model, build_processor, chat_text, save, train_tokenizer
from tools.tiny_vlm.warmup_lessons import Lesson, counting, facts, named_cells, reckoning, vocabulary_texts, worked
from tools.tiny_vlm.warmup_report import measure

HABITS = {"careful": 0.11, "short": 0.11, "guess": 0.67, "check": 0.11}
"""How often the finished model chooses each plan, about."""
EVERY_PLAN = dict.fromkeys(PHRASES, 1.0)
PROGRAM = "python -m tools.tiny_vlm.warmup"
MEASURED_PROBLEMS = 360
GRAMS = "strategic_grams/published_249.json"
MERGED_TOKENS = 9
CHUNK = 192
"""Problems of a task drawn at a time."""
VOCABULARY_PROBLEMS = 960


@dataclass(frozen=True)
class Stage:
    """A stretch of language training.

    Attributes:
        steps: optimizer steps.
        mix: lesson kind -> share; which kinds there are, is for whoever draws the lessons to say.
        plans: plan -> share of the worked solutions.
    """

    steps: int
    mix: Mapping[str, float]
    plans: Mapping[str, float]


LANGUAGE = (
    Stage(250, {"names": 0.7, "counting": 0.2, "reckoning": 0.1}, EVERY_PLAN),
    Stage(1100, {"names": 0.05, "facts": 0.35, "counting": 0.1, "reckoning": 0.2, "worked": 0.3}, EVERY_PLAN),
    Stage(1500, {"facts": 0.13, "counting": 0.02, "reckoning": 0.1, "worked": 0.75}, EVERY_PLAN),
    Stage(300, {"worked": 1.0}, HABITS),
)
SEEING_STEPS, SEEING_BATCH = 400, 48
LANGUAGE_BATCH = 32
PEAK_RATE = 2e-3


class Pupil:
    """The model with its processor, and how lessons become its inputs."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor) -> None:
        self.model, self.processor, self.tokenizer = model, processor, processor.tokenizer
        self.prompt_ids = lru_cache(maxsize=4096)(self._prompt_ids)
        self.image_id: int = self.tokenizer.convert_tokens_to_ids(IMAGE)
        self.end_id: int = self.tokenizer.convert_tokens_to_ids(TURN_END)

    def _prompt_ids(self, question: str) -> list[int]:
        text = chat_text(self.processor, question).replace(IMAGE, IMAGE * MERGED_TOKENS)
        return self.tokenizer(text).input_ids

    def pixels(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """`pixel_values` and `image_grid_thw` of a batch of PIL images."""
        return dict(self.processor.image_processor(images=images, return_tensors="pt"))

    def batch(self, lessons: list[Lesson]) -> tuple[dict[str, Tensor], Tensor]:
        """Model inputs, right-padded, and labels with -100 where nothing is taught."""
        rows, taught = [], []
        for lesson in lessons:
            prompt = self.prompt_ids(lesson.question)
            row, labels = list(prompt), [-100] * len(prompt)
            for text, is_taught in lesson.response:
                ids = self.tokenizer(text).input_ids
                row += ids
                labels += ids if is_taught else [-100] * len(ids)
            rows.append(torch.tensor([*row, self.end_id]))
            taught.append(torch.tensor([*labels, self.end_id]))
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        labels = nn.utils.rnn.pad_sequence(taught, batch_first=True, padding_value=-100)
        lengths = torch.tensor([len(row) for row in rows])
        inputs = {
            "input_ids": ids,
            "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
            "mm_token_type_ids": (ids == self.image_id).long(),
        }
        images = [image.open() for lesson in lessons for image in lesson.images]
        return inputs | (self.pixels(images) if images else {}), labels


class Stream:
    """Training problems without end."""

    def __init__(self, seed: int) -> None:
        self._next_seed = 100_000 * (seed + 1)
        self._waiting: dict[str, list[Problem]] = {task: [] for task in TASKS}
        self._turn = 0

    def of(self, task: str) -> Problem:
        """The next problem of a task."""
        if not self._waiting[task]:
            self._waiting[task] = generate("train", CHUNK, self._next_seed, [task])
            self._next_seed += 1
        return self._waiting[task].pop()

    def any(self) -> Problem:
        """The next problem, the tasks taking turns."""
        self._turn += 1
        return self.of(list(TASKS)[self._turn % len(TASKS)])


def optimize(
    parameters: list[nn.Parameter],
    steps: int,
    loss_at: Callable[[int], Tensor],
    progress: Progress,
    name: str,
) -> None:
    """AdamW with a linear rise over 40 steps and a cosine fall to a twentieth."""
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    bar = progress.add_task(name, total=steps)
    for step in range(steps):
        fall = 0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min((step + 1) / 40, fall)
        loss = loss_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress.update(bar, advance=1, description=f"{name} {loss.item():.3f}")
        if step % 50 == 49 and not progress.console.is_terminal:
            progress.console.print(f"{name}: step {step + 1} of {steps}, loss {loss.item():.4f}")


GLYPHS = ("none", "?", "A", "B", "C", *map(str, range(1, 10)), *(str(10 * tens) for tens in range(4, 15)))
"""What can be written in a cell."""


def probe_targets(problem: Problem) -> Tensor:
    """(9, 6) int64: colour, shape, glyph, bar height, row and column of each cell; -100 where not asked."""
    c = problem.facts["configuration"]
    targets = torch.full((MERGED_TOKENS, 6), -100)
    targets[:, 4], targets[:, 5] = torch.arange(9) // 3, torch.arange(9) % 3
    if c["task"] == "grid":
        targets[:, 0] = 3
        for colour, place in c["places"].items():
            targets[place, 0] = COLOURS.index(colour)
    elif c["task"] == "count":
        for place, cell in enumerate(c["cells"]):
            targets[place, 0] = COLOURS.index(cell[0]) if cell else 3
            targets[place, 1] = SHAPES.index(cell[1]) if cell else 3
    elif c["task"] == "bars":
        targets[:, 3] = torch.tensor(c["heights"] * 3) - 1
    else:
        targets[:, 2] = torch.tensor([GLYPHS.index(word) for word in written(problem)])
    return targets


def written(problem: Problem) -> list[str]:
    """What is written in each of the nine cells, `none` where nothing is."""
    c = problem.facts["configuration"]
    if c["task"] == "sum":
        return [str(cell) for cell in c["cells"]]
    if c["task"] == "table":
        return [*c["heads"], *map(str, c["rows"][0]), *map(str, c["rows"][1])]
    words = ["none"] * MERGED_TOKENS
    for cell, angle in zip(CORNERS[c["figure"]], c["angles"], strict=True):
        words[cell] = "?" if angle is None else str(angle)
    return words


def learn_to_see(pupil: Pupil, stream: Stream, progress: Progress, seed: int) -> None:
    """Train the vision tower alone, with linear probes that are thrown away."""
    tower = pupil.model.model.visual
    sizes = (4, 4, len(GLYPHS), 9, 3, 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probes = nn.ModuleList(nn.Linear(tower.config.out_hidden_size, size) for size in sizes)

    def loss_at(step: int) -> Tensor:
        problems = [stream.any() for _ in range(SEEING_BATCH)]
        targets = torch.stack([probe_targets(problem) for problem in problems]).flatten(0, 1)
        pixels = pupil.pixels([problem.images[0].open() for problem in problems])
        tokens = tower(pixels["pixel_values"], grid_thw=pixels["image_grid_thw"]).pooler_output
        logits = [probe(tokens) for probe in probes]
        if step % 100 == 99:
            right = [
                (logit.argmax(1) == target)[target >= 0].float().mean().item()
                for logit, target in zip(logits, targets.T, strict=True)
            ]
            progress.console.print("seen: " + " ".join(f"{share:.3f}" for share in right))
        return torch.stack(
            [nn.functional.cross_entropy(logit, target) for logit, target in zip(logits, targets.T, strict=True)]
        ).sum()

    optimize([*tower.parameters(), *probes.parameters()], SEEING_STEPS, loss_at, progress, "seeing")


def lessons_at(stage: Stage, stream: Stream, rng: Random, count: int) -> list[Lesson]:
    """Draw `count` lessons."""
    makers: dict[str, Callable[[], Lesson]] = {
        "names": lambda: named_cells(stream.any(), rng),
        "facts": lambda: facts(stream.any(), rng),
        "counting": lambda: counting(stream.of("count"), rng),
        "reckoning": lambda: reckoning(rng),
        "worked": lambda: worked(stream.any(), stage.plans, rng),
    }
    return [makers[kind]() for kind in rng.choices(list(stage.mix), weights=list(stage.mix.values()), k=count)]


def learn_to_talk(
    pupil: Pupil,
    stages: Sequence[Stage],
    draw_lessons: Callable[[Stage, int], list[Lesson]],
    progress: Progress,
    rng: Random,
) -> None:
    """Train the language model, the vision tower frozen, through `stages`; `rng` shuffles batches of alike length."""
    pupil.model.model.visual.requires_grad_(False)
    parameters = [parameter for parameter in pupil.model.parameters() if parameter.requires_grad]
    ends = [sum(stage.steps for stage in stages[: number + 1]) for number in range(len(stages))]
    drawn: list[list[Lesson]] = []

    def loss_at(step: int) -> Tensor:
        stage = stages[next(number for number, end in enumerate(ends) if step < end)]
        if not drawn or step in ends:
            lessons = draw_lessons(stage, 8 * LANGUAGE_BATCH)
            lessons.sort(key=lambda lesson: sum(len(text) for text, _ in lesson.response))
            drawn[:] = [lessons[start : start + LANGUAGE_BATCH] for start in range(0, len(lessons), LANGUAGE_BATCH)]
            rng.shuffle(drawn)
        inputs, labels = pupil.batch(drawn.pop())
        logits = pupil.model(**inputs).logits[:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())

    optimize(parameters, ends[-1], loss_at, progress, "language")


def warm_up(seed: int, progress: Progress) -> Pupil:
    """Make a tiny VLM and teach it."""
    rng = Random(f"warm-up/{seed}")
    stream = Stream(seed)
    grams = [gram["text"] for gram in json.loads(asset_path(GRAMS).read_text("utf-8"))["grams"]]
    texts = vocabulary_texts([stream.any() for _ in range(VOCABULARY_PROBLEMS)], grams, rng)
    processor = build_processor(train_tokenizer(texts))
    pupil = Pupil(build_model(processor.tokenizer, seed), processor)
    learn_to_see(pupil, stream, progress, seed)
    learn_to_talk(pupil, LANGUAGE, lambda stage, count: lessons_at(stage, stream, rng, count), progress, rng)
    return pupil


def versions() -> dict[str, str]:
    """What the result depends on besides this repository."""
    packages = ("torch", "torchvision", "transformers", "tokenizers", "pillow")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def run(
    program: str,
    description: str,
    warm_up: Callable[[int, Progress], Pupil],
    report: Callable[[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, int], dict[str, Any]],
    arguments: list[str] | None,
) -> int:
    """The command `program`: warm up, write the folder, measure it as written, and write `warmup.json` beside it.

    Args:
        program: what the user called, for help and for the record.
        description: one line for help.
        warm_up: makes the model of a seed.
        report: measures (model as written, processor, seed); JSON-able.
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, e.g. assets/tiny_vlm")
    parser.add_argument("--seed", type=int, default=0, help="a different seed makes a different model")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    with Progress() as progress:
        pupil = warm_up(options.seed, progress)
    save(pupil.model, pupil.processor, options.out)
    seconds = time.perf_counter() - started
    written = Qwen2_5_VLForConditionalGeneration.from_pretrained(options.out, dtype=torch.float32)
    figures = {
        "command": f"{program} --out {options.out} --seed {options.seed}",
        "seed": options.seed,
        "seconds": round(seconds),
        "versions": versions(),
        **report(written, pupil.processor, options.seed),
    }
    (options.out / "warmup.json").write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    print_json(data=figures)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Make the tiny VLM and measure it on held-out problems (see `run`)."""

    def report(model: Any, processor: Any, seed: int) -> dict[str, Any]:
        return measure(model, processor, generate("held_out", MEASURED_PROBLEMS, seed), seed)

    return run(PROGRAM, "Teach the tiny VLM to see and to write solutions.", warm_up, report, arguments)


if __name__ == "__main__":
    sys.exit(main())
