"""Seeded nonsense in every cell: each row is used, or refused with a reason that can be written; nothing is raised."""

import base64
import io
import json
import random

import pytest
from PIL import Image

from mmhicra.config import ColumnsConfig, DataConfig
from mmhicra.core.errors import DataError
from mmhicra.data.dataset import load_problems
from mmhicra.data.digest import digest_problems

pytestmark = pytest.mark.slow

ROWS, SEEDS = 150, range(4)


def encoded(mode: str = "RGB", form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (31, 29)).save(buffer, form)
    return buffer.getvalue()


PICTURES = [encoded(), encoded("I;16"), encoded("F", "TIFF"), encoded("P", "GIF"), encoded("L", "JPEG")]
TEXT = base64.b64encode(PICTURES[0]).decode()


def nested(depth: int) -> list:
    cell: list = []
    for _ in range(depth):
        cell = [cell]
    return cell


def odd_texts(draw: random.Random) -> list[str]:
    return [
        "",
        " ",
        "\x00",
        "\ud800",
        "a\udfff b",
        "x" * draw.choice([255, 256, 1001, 5000]),
        "[" * draw.randrange(2000),
        "A. 1\nB. 3",
        "(a) 1 (b) 2",
        '["1", "3"]',
        "{'A': 1, 'B': 2}",
        "[1, 2",
        "<image>" * draw.randrange(4),
        "<image1> <image>",
        "<video>",
        "[IMAGE] how?",
        r"\boxed{" * draw.randrange(300),
        r"\boxed{3}",
        "$" * draw.randrange(500),
        "<answer>" * draw.randrange(300) + "</answer>",
        "10^{10^{10}}",
        "((((1))))" * 50,
        "\U0001f642" * draw.randrange(50),
        "等边三角形",
        "~nobody/a.png",
        "/dev/random",
        "..",
        "b'" + TEXT + "'",
        "b'\\x89PNG'",
        "data:image/png;base64," + TEXT[: draw.randrange(len(TEXT))],
        "data:text/plain,hello",
        TEXT.replace("+", "-").replace("/", "_").rstrip("="),
        "\x1b[31mred\u2028",
        "nan",
        "-inf",
        "none",
    ]


def odd_cell(draw: random.Random) -> object:
    """Any JSON value, most of them texts."""
    picture = draw.choice(PICTURES)
    others = [
        None,
        True,
        -1,
        10**30,
        0.5,
        float("nan"),
        float("inf"),
        [],
        {},
        [None, ""],
        nested(draw.choice([3, 100, 900])),
        {"bytes": list(picture)},
        {"bytes": base64.b64encode(picture).decode(), "path": "\ud800"},
        {"bytes": 7},
        {"bytes": [300]},
        {"bytes": "x"},
        {"path": None, "bytes": None},
        {"A": "5", "C": "6"},
        {"label": ["A", "B"], "text": ["5", "6"]},
        [{"role": "user", "content": draw.choice(odd_texts(draw))}],
        [{"role": "user", "content": [{"type": "text", "text": 7}]}],
        [{"from": "human", "value": None}, {"from": "gpt", "value": 3}],
        [draw.choice(odd_texts(draw)) for _ in range(draw.randrange(30))],
    ]
    return draw.choice(others if draw.random() < 0.4 else odd_texts(draw))


NAMES = [
    "id",
    "problem",
    "answer",
    "images",
    "image_path",
    "choices",
    "options",
    "A",
    "B",
    "task",
    "kind",
    "video",
    "w",
]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_odd_row_is_used_or_refused_with_a_reason(seed, tmp_path):
    draw = random.Random(seed)
    lines = []
    for number in range(ROWS):
        row: dict[str, object] = {"id": number, "problem": f"How many, {number}?", "answer": "3", "images": None}
        for name in draw.sample(NAMES, draw.randrange(1, 4)):
            row[name] = odd_cell(draw)
        line = json.dumps(row).encode()
        lines.append(line if draw.random() < 0.9 else line[: draw.randrange(len(line))] + bytes([draw.randrange(256)]))
    lines.append(b"[" * 100_000)
    (tmp_path / "train.jsonl").write_bytes(b"\n".join(lines))
    columns = draw.choice([{"choices": "none"}, {"images": "none"}, {"id": "none", "kind": "kind"}, {"kind": "text"}])
    mapping = ColumnsConfig(**{"images": "images", "choices": "choices", **columns})
    data = DataConfig(source=str(tmp_path), columns=mapping, max_refused_share=1.0)
    listed = tmp_path / "refused.jsonl"
    loaded = load_problems(data, seed, refused_path=listed)
    read = sum(bool(line.replace(b"\n", b"").strip()) for line in lines)
    assert abs(len(loaded.train) + len(loaded.refused) - read) <= lines_broken_by_chance(lines)
    assert len(loaded.train) > 0
    assert all(row.reason and row.where for row in loaded.refused)
    assert [json.loads(line)["reason"] for line in listed.read_text(encoding="utf-8").splitlines()] == [
        row.reason for row in loaded.refused
    ]
    for problem in loaded.train:  # what rollout files, seeds and pages do with it
        json.dumps([problem.id, problem.question, problem.answer, problem.choices], ensure_ascii=False).encode()
    assert len(digest_problems(loaded.train)) == 64


def lines_broken_by_chance(lines: list[bytes]) -> int:
    """A cut line may end in a newline byte, which makes a blank line."""
    return sum(line.endswith(b"\n") for line in lines)


@pytest.mark.parametrize("seed", range(150))
def test_every_odd_image_cell_is_read_or_refused(seed, tmp_path):
    from mmhicra.core.records import Problem
    from mmhicra.data.images import read_images, refuse_broken_images

    draw = random.Random(seed)
    data = bytearray(draw.choice(PICTURES))
    for _ in range(draw.randrange(8)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    cell: object = bytes(data[: draw.randrange(len(data) + 1)]) if draw.random() < 0.5 else odd_cell(draw)
    try:
        images = read_images(cell, tmp_path, "t:1")
    except DataError:
        return
    reason = refuse_broken_images(Problem("1", "?", images, "1"))
    assert reason is None or reason.startswith(("image broken: ", "image missing: "))
