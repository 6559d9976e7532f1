"""Rows of data sets in every layout, mutated, beside whole ones.

Every row of the file must be used or listed. Nonsense is a row that is neither, an image of a row that no problem shows
and no line mentions, a used problem that cannot be written down, and a problem that cannot become a prompt.
"""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from faults import mutate
from faults.fuzz import Nonsense, Target
from made_data import MATHVISION, geometry3k_row, mathverse_row, mathvision_row, mathvista_rows
from PIL import Image

from mmhicra.config.loading import build_config
from mmhicra.config.model import ModelConfig
from mmhicra.data.dataset import Loaded, load_problems
from mmhicra.vlm.loading import load_processor
from mmhicra.vlm.processing import PromptBuilder

NAMES = ("a.png", "b.png", "c.jpg")
ELSEWHERE = ("image_path", "img", "picture", "media", "attachment", "screen", "IMAGE", "figure", "x")
"""Where rows keep images beside `image` and `images`."""


def layouts(rng: random.Random) -> list[dict[str, Any]]:
    """Two rows of one layout."""
    name = rng.choice(NAMES)
    kind = rng.randrange(8)
    if kind == 0:
        return [{"images": [name], "problem": f"<image>Find x, {n}.", "answer": str(n + 2)} for n in range(2)]
    if kind == 1:
        return [geometry3k_row(n * 5, "train", name, (64, 48), [1.0 + n, 2.5, 7.0, 30.0]) for n in range(2)]
    if kind == 2:
        return [mathvision_row(n, *MATHVISION[n][:5]) | {"image": name} for n in rng.sample(range(len(MATHVISION)), 2)]
    if kind == 3:
        return [row | {"image": name} for row in list(mathvista_rows().values())[:2]]
    if kind == 4:
        return [mathverse_row(n, "Text Lite", f"How long, {n}?", str(n + 3), {}) | {"image": name} for n in range(2)]
    if kind == 5:
        picture = {"type": "image", "image": name}
        said = [
            {"role": "user", "content": [picture, {"type": "text", "text": "How many?"}]},
            {"role": "assistant", "content": "It is \\boxed{4}."},
        ]
        return [{"id": str(n), "messages": said} for n in range(2)]
    if kind == 6:
        return [
            {"id": str(n), "question": "How long?", "answer": "$1.5$", "subject": "math", "image": name}
            for n in range(2)
        ]
    return [
        {"question": "Which is a mammal?", "choices": ["frog", "whale", "trout"], "answer": n, "image": name}
        for n in range(2)
    ]


def spoiled(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A row with something odd: a value, a column's name, an extra column, an image elsewhere."""
    kind = rng.randrange(6)
    if kind < 3:
        return mutate.change(row, rng, rng.randint(1, 2))
    if kind == 3:
        moved = dict(row)
        cell = moved.pop("image", None) or moved.pop("images", None)
        return moved if cell is None else moved | {rng.choice(ELSEWHERE): cell}
    if kind == 4:
        return row | {
            rng.choice(
                ["videos", "video", "audio", "choices", "options", "hint", "A", "id", "messages", "answer"]
            ): mutate.value(rng)
        }
    return row | {rng.choice(["image", "images", rng.choice(ELSEWHERE)]): image_cell(rng)}


def image_cell(rng: random.Random) -> Any:
    """What somebody might put where an image belongs."""
    name = rng.choice(NAMES)
    return rng.choice(
        [
            {"path": name},
            {"bytes": "aGVsbG8="},
            {"bytes": 7},
            {"bytes": None, "path": None},
            [name, None],
            [[name]],
            [name] * 3,
            "QUJD" * 200,
            "QUJD-_" * 80,
            f"./{name}",
            f"file://{name}",
            "s3://x/a.png",
            "data:image/png;base64,",
            "/dev/zero",
            "/etc/passwd",
            "..",
            f"{name}\x00",
            7,
            True,
            {"url": name},
            {"image": name},
            "x" * 2000,
            "\ud800.png",
        ]
    )


def write(rng: random.Random, folder: Path) -> None:
    """`train.jsonl` (or `.json`) and its images."""
    for number, name in enumerate(NAMES):
        Image.new("RGB", (56 + 8 * number, 60), ("red", "green", "blue")[number]).save(folder / name)
    rows = layouts(rng)
    rows += [spoiled(rng.choice(rows), rng) for _ in range(rng.randint(1, 3))]
    rng.shuffle(rows)
    if rng.random() < 0.1:
        rows = rows[:1]
    lines = [json.dumps(row, ensure_ascii=rng.random() < 0.7) for row in rows]
    content = "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"
    if rng.random() < 0.1:
        content += rng.choice(
            [b"[" * 100_000, b"nul\n", b"7\n", b"{}\n", b'"x"\n', b"[]\n", b"\xff\xfe\n", b"9" * 6000 + b"\n"]
        )
    if rng.random() < 0.1:
        content = mutate.spoil_bytes(content, rng)
    (folder / "train.jsonl").write_bytes(content)


@cache
def builder() -> PromptBuilder:
    """Of the tiny model."""
    parts = load_processor(ModelConfig(path="tiny_vlm"))
    return PromptBuilder(parts.processor, parts.family, parts.config, build_config(section("x")).data)


def section(source: str) -> dict[str, Any]:
    """The configuration of a case."""
    data = {
        "source": source,
        "max_refused_share": 1.0,
        "min_pixels": 3136,
        "max_pixels": 7056,
        "max_prompt_tokens": 2000,
    }
    return {"model": {"path": "tiny_vlm"}, "data": data}


def attempt(folder: Path) -> None:
    """Load the problems as a run does; count rows and images."""
    source = folder / "train.jsonl"
    data = build_config(section(str(source))).data
    loaded = load_problems(data, 0, [builder().check], refused_path=folder / "refused.jsonl")
    content = source.read_bytes()
    lines = [line for line in content.split(b"\n") if line.strip()]
    if len(loaded.train) + len(loaded.refused) != len(lines):
        raise Nonsense(f"{len(lines)} rows, {len(loaded.train)} used, {len(loaded.refused)} listed")
    for problem in loaded.train:
        json.dumps(
            [problem.id, problem.question, problem.answer, problem.task, problem.choices], ensure_ascii=False
        ).encode()
        builder().build(problem)
        place = int(problem.source.rpartition(":")[2])
        refuse_lost_images(json.loads(content.split(b"\n")[place - 1]), len(problem.images), loaded)


def refuse_lost_images(row: dict[str, Any], shown: int, loaded: Loaded) -> None:
    """Raises Nonsense if a column holds an image that the problem does not show and no note names it."""
    holding = [column for column, cell in row.items() if names_image(cell)]
    if holding and not shown and not any(column in note for note in loaded.notes for column in holding):
        raise Nonsense(f"columns {holding} hold images, the problem shows none, and no line says so: {loaded.notes}")


def names_image(cell: Any) -> bool:
    """Whether a cell names one of the images of the case."""
    if isinstance(cell, list):
        return any(names_image(one) for one in cell)
    return isinstance(cell, str) and cell in NAMES


TARGET = Target("rows", write, attempt, builder)
