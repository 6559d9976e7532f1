"""Rows of every layout become problems; images and placeholders by the documented rules."""

import base64
import io
import json
from pathlib import Path

import datasets
import pytest
from PIL import Image

from mmhicra.config import ColumnsConfig
from mmhicra.core.errors import DataError
from mmhicra.core.records import Problem, ProblemImage
from mmhicra.data.images import read_images, refuse_broken_images
from mmhicra.data.presets import choose_reader
from mmhicra.data.questions import Chat, place_images, read_chat
from mmhicra.data.sources import find_source

COLOURS = {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255)}


def png(name: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), COLOURS[name]).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    for name in COLOURS:
        (tmp_path / "images" / f"{name}.png").write_bytes(png(name))
    return tmp_path


def read(folder: Path, rows: list[dict], preset: str = "auto", **columns: str) -> tuple[str, list[Problem]]:
    """Write rows as JSON Lines and read them as problems; the preset that was used, and the problems."""
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = find_source(str(folder / "train.jsonl")).table("train")
    reader = choose_reader(preset, ColumnsConfig(**columns), table, None, "train")
    return reader.preset, [reader.read(row) for row in table.rows()]


def shown(problem: Problem) -> str:
    """Which of the test's images a problem shows, in order."""
    names = {pixel: name for name, pixel in COLOURS.items()}
    return "".join(names[image.open().getpixel((0, 0))] for image in problem.images)


LAYOUT_ROWS = {
    "virl39k": (
        {
            "qid": "q7",
            "question": "<image><image>Which is larger?\n(A) left (B) right",
            "answer": "\\boxed{B}",
            "image": ["images/a.png", "images/b.png"],
            "category": "Spatial",
            "source": "made",
            "PassRate_32BTrained": 0.5,
        },
        ("train/q7", "<image><image>Which is larger?\n(A) left (B) right", "ab", "B", "choice", "Spatial"),
    ),
    "geometry3k": (
        {"images": ["images/a.png"], "problem": "<image>Find x.", "answer": "2 \\sqrt { 221 }"},
        ("train/1", "<image>Find x.", "a", "2 \\sqrt { 221 }", "math", "all"),
    ),
    "intergps": (
        {
            "id": 5,
            "problem_text": "Find m \\angle 4.",
            "annotat_text": "Find $m \\angle 4$.",
            "choices": ["26", "39"],
            "answer": "B",
            "precise_value": [26.0, 39.0],
            "problem_type_goal": ["Angle", "Ratio"],
            "image": "images/c.png",
        },
        ("train/5", "<image>\nFind $m \\angle 4$.\n(A) 26 (B) 39", "c", "B", "choice", "Angle+Ratio"),
    ),
    "mmk12": (
        {"id": "k", "question": "How long?", "answer": "$1.5$", "subject": "math", "image": "images/a.png"},
        ("train/k", "<image>\nHow long?", "a", "1.5", "number", "math"),
    ),
    "mathvision": (
        {
            "id": "9",
            "question": "Which?\n<image1>",
            "options": ["red", "blue"],
            "answer": "A",
            "image": "images/b.png",
            "subject": "logic",
            "level": 2,
        },
        ("train/9", "Which?\n<image>\n(A) red (B) blue", "b", "A", "choice", "logic"),
    ),
    "mathvista": (
        {
            "pid": "3",
            "question": "How old?",
            "image": "images/a.png",
            "choices": None,
            "unit": "years",
            "precision": 1,
            "answer": "1.2",
            "question_type": "free_form",
            "answer_type": "float",
            "metadata": {"task": "word problem"},
        },
        ("train/3", "<image>\nHow old? (Unit: years)", "a", "1.2", "number", "word problem"),
    ),
    "messages": (
        {
            "id": "m",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": "images/b.png"},
                        {"type": "text", "text": "and"},
                        {"type": "image_url", "image_url": {"url": "images/a.png"}},
                        {"type": "text", "text": "differ by?"},
                    ],
                },
                {"role": "assistant", "content": "3 - 1 = 2, so \\boxed{2}."},
            ],
        },
        ("train/m", "<image>and<image>differ by?", "ba", "2", "number", "all"),
    ),
}


@pytest.mark.parametrize("preset", LAYOUT_ROWS)
@pytest.mark.parametrize("named", [True, False])
def test_a_row_of_each_layout(preset, named, folder):
    row, expected = LAYOUT_ROWS[preset]
    found, (problem,) = read(folder, [row], preset if named else "auto")
    assert found == preset
    said = (problem.id, problem.question, shown(problem), problem.answer, problem.kind, problem.task)
    assert said == expected
    assert problem.source == f"{folder.name}/train.jsonl:1"


def test_facts_keep_what_a_layout_knows_besides(folder):
    _, (problem,) = read(folder, [LAYOUT_ROWS["intergps"][0]])
    assert problem.facts == {"precise_value": [26.0, 39.0]}
    assert problem.choices == ("26", "39")


def test_hub_parquet_prefers_embedded_images_to_names(folder):
    """MathVision on the hub names `images/9.jpg`, which is not there, beside the decoded image."""
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "question": datasets.Value("string"),
            "options": datasets.List(datasets.Value("string")),
            "answer": datasets.Value("string"),
            "image": datasets.Value("string"),
            "decoded_image": datasets.Image(),
        }
    )
    row = {
        "id": "9",
        "question": "<image1>?",
        "options": [],
        "answer": "7",
        "image": "images/9.jpg",
        "decoded_image": {"bytes": png("c"), "path": "9.jpg"},
    }
    datasets.Dataset.from_list([row], features=features).to_parquet(folder / "test.parquet")
    table = find_source(str(folder)).table("test")
    reader = choose_reader("auto", ColumnsConfig(), table, None, table.split)
    (problem,) = [reader.read(row) for row in table.rows()]
    assert (reader.preset, shown(problem), problem.kind) == ("mathvision", "c", "number")
    assert problem.images[0].reference == f"{folder.name}/test.parquet:1#image1 (9.jpg)"


def test_columns_override_a_preset_one_by_one(folder):
    row = {"images": ["images/a.png"], "problem": "<image>x?", "gold": "5", "answer": "9", "meta": {"topic": "lines"}}
    found, (problem,) = read(folder, [row], answer="gold", task="meta.topic")
    assert (found, problem.answer, problem.task) == ("geometry3k", "5", "lines")


def test_auto_counts_a_mapped_column_as_found(folder):
    found, (problem,) = read(folder, [{"images": ["images/a.png"], "problem": "x?", "gold": "5"}], answer="gold")
    assert (found, problem.answer) == ("geometry3k", "5")


def test_columns_alone_are_enough(folder):
    found, (problem,) = read(
        folder, [{"q": "x?", "gold": "5", "pic": "images/b.png"}], question="q", answer="gold", images="pic"
    )
    assert (found, problem.question, problem.answer, shown(problem)) == ("columns", "<image>\nx?", "5", "b")


def test_text_only_rows_may_be_mixed_in(folder):
    rows = [{"question": "1+1?", "answer": 2}, {"question": "x?", "answer": 3.5, "image": "images/a.png"}]
    _, problems = read(folder, rows)
    assert [(p.question, shown(p), p.answer, p.kind) for p in problems] == [
        ("1+1?", "", "2", "number"),
        ("<image>\nx?", "a", "3.5", "number"),
    ]


@pytest.mark.parametrize(
    ("preset", "columns", "says"),
    [
        (
            "auto",
            {"answer": "gold"},
            "data.columns.answer is gold, which {f}/train.jsonl does not have; its columns are: a, b",
        ),
        ("auto", {}, "fits no preset; set data.columns.question and data.columns.answer; its columns are: a, b"),
        (
            "geometry3k",
            {},
            "has no question column for preset geometry3k; set data.columns.question; its columns are: a, b",
        ),
        (
            "mmk12",
            {"question": "a"},
            "has no answer column for preset mmk12; set data.columns.answer; its columns are: a, b",
        ),
    ],
)
def test_missing_columns_are_refused_with_those_there_are(preset, columns, says, folder):
    with pytest.raises(DataError) as refusal:
        read(folder, [{"a": 1, "b": 2}], preset, **columns)
    assert says.format(f=folder.name) in str(refusal.value)


def as_base64(folder: Path) -> str:
    return base64.b64encode(png("a")).decode()


IMAGE_CELLS = {
    "PIL": lambda folder: Image.new("RGB", (8, 6), COLOURS["a"]),
    "bytes": lambda folder: png("a"),
    "datasets bytes": lambda folder: {"bytes": png("a"), "path": None},
    "datasets path": lambda folder: {"bytes": None, "path": "images/a.png"},
    "relative path": lambda folder: "images/a.png",
    "absolute path": lambda folder: str(folder / "images" / "a.png"),
    "file link": lambda folder: f"file://{folder}/images/a.png",
    "base64": as_base64,
    "base64 in lines": lambda folder: "\n".join(as_base64(folder)[i : i + 60] for i in range(0, 400, 60)),
    "data link": lambda folder: "data:image/png;base64," + as_base64(folder),
}


@pytest.mark.parametrize("form", IMAGE_CELLS)
def test_image_cells_of_every_form_open_alike(form, folder):
    cell = IMAGE_CELLS[form](folder)
    for images in (read_images(cell, folder, "t:1"), read_images([cell], folder, "t:1")):
        (image,) = images
        assert image.open().size == (8, 6)
        assert image.open().getpixel((0, 0)) == COLOURS["a"]
        assert len(image.reference) < 100
        assert as_base64(folder)[:30] not in image.reference


def test_a_jpeg_in_base64_is_not_an_absolute_path(folder):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), COLOURS["a"]).save(buffer, "JPEG")
    text = base64.b64encode(buffer.getvalue()).decode()
    assert text.startswith("/9j/")
    (image,) = read_images(text, folder, "t:1")
    assert image.payload == buffer.getvalue()


@pytest.mark.parametrize("cell", [None, "", [], [None]])
def test_no_image(cell, folder):
    assert read_images(cell, folder, "t:1") == ()


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("https://example.org/a.png", "image is a link: t:1#image1; download it and give its path"),
        (7, "image unreadable: t:1#image1 is a int, not a path, bytes or base64"),
        ("data:image/png;base64,???", "image unreadable: t:1#image1 is not whole base64"),
        ("x!" * 2000, "image unreadable: t:1#image1 is neither a path nor base64 (4000 characters)"),
        ({"bytes": None, "path": None}, "image unreadable: t:1#image1 is a NoneType, not a path, bytes or base64"),
    ],
)
def test_image_cells_that_are_none(cell, says, folder):
    with pytest.raises(DataError) as refusal:
        read_images(cell, folder, "t:1")
    assert str(refusal.value) == says


def test_a_relative_path_without_a_folder_names_the_setting():
    with pytest.raises(DataError, match="image path has no folder: images/a.png; set data.image_folder"):
        read_images("images/a.png", None, "t:1")


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_truncated_image_is_caught(suffix):
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(buffer, suffix)
    whole = buffer.getvalue()
    assert refuse_broken_images(Problem("1", "?", (ProblemImage(whole, "whole"),), "1")) is None
    for kept in (len(whole) * 2 // 3, len(whole) // 3, 20):
        reason = refuse_broken_images(Problem("1", "?", (ProblemImage(whole[:kept], "cut"),), "1"))
        assert reason is not None
        assert reason.startswith("image broken: cut (")


def pictures(count: int) -> tuple[ProblemImage, ...]:
    return tuple(ProblemImage(png(name), name) for name in "abc"[:count])


@pytest.mark.parametrize(
    ("text", "count", "expected", "order"),
    [
        ("Why?", 0, "Why?", ""),
        ("Why?", 1, "<image>\nWhy?", "a"),
        ("Why?", 2, "<image><image>\nWhy?", "ab"),
        ("<image>Why <image>?", 2, "<image>Why <image>?", "ab"),
        ("<image2> or <image1>?", 2, "<image> or <image>?", "ba"),
        ("<image 1>, <image 2>, <image 1>?", 2, "<image>, <image>, <image>?", "aba"),
    ],
)
def test_placeholders(text, count, expected, order):
    question, images = place_images(text, pictures(count))
    assert (question, "".join(image.reference for image in images)) == (expected, order)


@pytest.mark.parametrize(
    ("text", "count", "says"),
    [
        ("<image> <image>", 1, "2 placeholders, 1 images"),
        ("<image>", 0, "1 placeholders, 0 images"),
        ("<image>", 2, "1 placeholders, 2 images"),
        ("<image3>", 2, "<image3> named, 2 images"),
        ("<image1>", 2, "<image1> named, 2 images"),
        ("<image0>", 1, "<image0> named, 1 images"),
        ("<image1> <image2>", 1, "<image1>, <image2> named, 1 images"),
        ("<image> <image1>", 2, "<image> beside numbered ones; write one kind"),
    ],
)
def test_placeholders_unlike_images_are_refused(text, count, says):
    with pytest.raises(DataError) as refusal:
        place_images(text, pictures(count))
    assert str(refusal.value) == f"placeholders unlike images: {says}"


def test_a_merged_picture_goes_in_front_and_keeps_the_names_drawn_in_it():
    question, images = place_images("From <image1> to <image2>?", pictures(1), merged=True)
    assert question == "<image>\nFrom <image1> to <image2>?"
    assert len(images) == 1


def test_images_of_a_chat_may_stand_in_a_column():
    messages = [{"role": "user", "content": [{"type": "image", "image": None}, {"type": "text", "text": "x?"}]}]
    assert read_chat(messages, ["a.png"]) == Chat("<image>x?", ["a.png"])


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ("x?", "messages unreadable: not a list of turns with a role and a content"),
        ([], "messages unreadable: turns none; write system (or not), user, assistant (or not)"),
        ([{"role": "user", "content": "x?"}] * 2, "messages unreadable: turns user, user; write"),
        (
            [{"role": "user", "content": "x?"}, {"role": "tool", "content": "1"}],
            "messages unreadable: turns user, tool; write",
        ),
        (
            [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}],
            "row has a video: an item of type video; mmhicra trains on images only",
        ),
    ],
)
def test_chats_that_are_not_one_question_are_refused(messages, says):
    with pytest.raises(DataError) as refusal:
        read_chat(messages, None)
    assert str(refusal.value).startswith(says)


def test_a_chat_kept_by_arrow_reads_like_the_original(folder):
    """Arrow gives every item every key, None where the original had none."""
    content = [{"type": "image", "image": {"bytes": png("b"), "path": None}}, {"type": "text", "text": "x?"}]
    item = {"type": datasets.Value("string"), "text": datasets.Value("string"), "image": datasets.Image()}
    features = datasets.Features(
        {
            "messages": datasets.List({"role": datasets.Value("string"), "content": datasets.List(item)}),
            "solution": datasets.Value("string"),
        }
    )
    row = {"messages": [{"role": "user", "content": content}], "solution": "<answer>4</answer>"}
    datasets.Dataset.from_list([row], features=features).save_to_disk(folder / "chat")
    table = find_source(str(folder / "chat")).table("train")
    reader = choose_reader("auto", ColumnsConfig(), table, None, "train")
    (problem,) = [reader.read(row) for row in table.rows()]
    assert (problem.question, shown(problem), problem.answer) == ("<image>x?", "b", "4")
