"""Columns that hold something are read, refused or listed: what a row holds never goes missing in silence."""

import io
import json
from typing import Any

import datasets
import pytest
from PIL import Image

from mmhicra.config import DataConfig
from mmhicra.config.loading import build_config
from mmhicra.core.errors import ConfigError, DataError
from mmhicra.data.dataset import Loaded, load_problems, refuse_without_images


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 30), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def load(tmp_path):
    """(rows, settings of `data`) -> the problems of a JSON Lines file, or of parquet if a row holds bytes."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(png())

    def loaded(*rows: dict[str, Any], **settings: Any) -> Loaded:
        folder = tmp_path / "set"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        if any(
            isinstance(cell, dict) and isinstance(cell.get("bytes"), bytes) for row in rows for cell in row.values()
        ):
            datasets.Dataset.from_list(list(rows)).to_parquet(folder / "train.parquet")
        else:
            (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        tree = {"source": str(folder), "image_folder": str(tmp_path), "max_refused_share": 1.0, **settings}
        data: DataConfig = build_config({"data": tree}).data
        problems = load_problems(data, 0)
        refuse_without_images(problems, data)
        return problems

    return loaded


ROW = {"problem": "How many squares?", "answer": "3"}
LOST_NAMES = (
    *("image_path", "img", "img_path", "image_file", "picture", "image_url", "file_name", "images_path", "jpg"),
    *("figure", "media", "image_bytes", "image_base64", "Image", "IMAGE"),
)


@pytest.mark.parametrize("name", LOST_NAMES)
def test_images_are_found_under_every_usual_name_and_that_is_said(name, load):
    loaded = load({**ROW, name: "a.png"})
    assert [image.open().size for image in loaded.train[0].images] == [(30, 30)]
    assert f"images are read from {name}, by the name" in loaded.notes


def test_numbered_columns_hold_one_image_each(load):
    row = {
        "question": "<image 2> or <image 1>?",
        "answer": "A",
        "image_1": "a.png",
        "image_2": "b.png",
        "image_3": None,
    }
    (problem,) = load(row).train
    assert [image.reference for image in problem.images] == ["b.png", "a.png"]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"screen": {"bytes": png(), "path": None}}, "screen"),
        ({"attachment": "shots/a.png"}, "attachment"),
        ({"attachment": ["a.JPG"]}, "attachment"),
        ({"payload": "data:image/png;base64,AAAA"}, "payload"),
        ({"payload": "iVBORw0KGgoAAAANSUhEUg"}, "payload"),
        ({"images": ["a.png"], "diagram_file": "b.png"}, "diagram_file"),
        ({"image": {"bytes": png(), "path": "a.png"}, "second": {"bytes": png(), "path": "b.png"}}, "second"),
        ({"image": None, "images": [], "shot": "b.png"}, "shot"),
    ],
)
def test_a_column_of_images_that_no_role_takes_is_refused_by_name(row, column, load):
    with pytest.raises(DataError, match=rf"the column {column} seems to hold images .*data\.columns\.images"):
        load({**ROW, **row})
    taken = [name for name in ("image", "images") if row.get(name)]
    if taken:
        assert len(load({**ROW, **row}, columns={"images": [*taken, column]}).train[0].images) == 2
        assert len(load({**ROW, **row}, columns={"unused": [column]}).train[0].images) == 1


def test_several_columns_that_may_be_the_images_are_not_guessed(load):
    with pytest.raises(DataError, match="columns img, picture all seem to hold images"):
        load({**ROW, "img": "a.png", "picture": "b.png"})
    assert load({**ROW, "img": "a.png", "picture": "b.png"}, columns={"images": "img"}).train[0].images[
        0
    ].reference == ("a.png")


def test_a_path_beside_its_own_embedded_image_and_a_presets_other_column_are_no_loss(load):
    embedded = {"bytes": png(), "path": "a.png"}
    assert len(load({**ROW, "image": embedded, "image_path": "train/a.png"}).train) == 1
    (first, second) = load({**ROW, "image": "a.png", "images": []}, {**ROW, "image": None, "images": ["b.png"]}).train
    assert [p.images[0].reference for p in (first, second)] == ["a.png", "b.png"]


def test_another_image_of_the_same_name_is_not_the_same(load):
    """A depth map that is called like its photo, as data sets for both keep them."""
    photo, depth = ({"bytes": data, "path": "0001.png"} for data in (png(), png() + b"x"))
    assert len(load({**ROW, "image": photo, "thumbnail": dict(photo)}).train) == 1
    with pytest.raises(DataError, match=r"the column depth seems to hold images .* beside image and would not be"):
        load({**ROW, "image": photo, "depth": depth})


def test_columns_that_nothing_reads_are_listed(load):
    loaded = load({**ROW, "image": "a.png", "hint": "count", "unit": "cm", "width": 30, "meta": {"a": 1}})
    assert "columns that nothing reads: hint, unit, width, meta" in loaded.notes


def test_a_run_without_any_image_is_refused_unless_confirmed(load):
    with pytest.raises(DataError, match=r"no row has an image: set data\.columns\.images .* or to none .*problem, ans"):
        load(ROW)
    assert len(load(ROW, columns={"images": "none"}).train) == 1
    assert len(load(ROW, {**ROW, "image": "a.png"}).train) == 2  # text among images is no fault
    assert load({**ROW, "image": "a.png"}, columns={"images": "none"}).train[0].images == ()


MOVING = [
    {"problem": "<video>How many balls fall?", "videos": ["v.mp4"]},
    {"problem": "How many balls fall?", "videos": ["v.mp4"]},
    {"problem": "<video>\nHow many?", "video": "v.mp4"},
    {"problem": "<audio>How many?", "audio": "v.wav"},
    {"problem": "<video>How many?"},
    {"problem": "How many?", "audio": {"bytes": None, "path": "v.flac"}},
    {"problem": "How many?", "image": "v.mp4"},
    {"problem": "How many?", "clip": ["x.webm"]},
    {"messages": [{"role": "user", "content": "<video>How many?"}], "videos": ["v.mp4"]},
    {"messages": [{"role": "user", "content": [{"type": "video", "video": "v"}, {"type": "text", "text": "How?"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "input_audio"}, {"type": "text", "text": "How?"}]}]},
]


@pytest.mark.parametrize("row", MOVING)
def test_rows_with_video_or_audio_are_refused(row, load):
    with pytest.raises(DataError, match=r"row has (a video|audio): .*mmhicra trains on images only"):
        load({**row, "answer": "3"})


def test_a_video_left_out_on_purpose(load):
    row = {**ROW, "image": "a.png", "video": "v.mp4"}
    assert len(load(row, columns={"unused": ["video"]}).train) == 1


TEXTS = ("frog", "whale", "trout")
ASKED = "(A) frog (B) whale (C) trout"


@pytest.mark.parametrize("question", ["problem", "question", "annotat_text", "messages", "prompt", "conversations"])
@pytest.mark.parametrize("column", ["choices", "options", "letters", "option_a", "choice1"])
def test_choices_are_read_in_every_layout(question, column, load):
    chat = [{"role": "user", "content": "Which?"}]
    row: dict[str, Any] = {question: chat if question in ("messages", "prompt", "conversations") else "Which?"}
    if question == "annotat_text":
        row["problem_text"] = "Which?"
        column = "choices"
    kept = {
        "letters": dict(zip("ABC", TEXTS, strict=True)),
        "option_a": dict(zip(("option_a", "option_b", "option_c"), TEXTS, strict=True)),
        "choice1": dict(zip(("choice1", "choice2", "choice3"), TEXTS, strict=True)),
    }
    loaded = load({**row, **kept.get(column, {column: list(TEXTS)}), "answer": "B", "image": "a.png"})
    (problem,) = loaded.train
    assert (problem.choices, problem.answer, problem.kind) == (TEXTS, "B", "choice")
    assert ASKED in problem.question


def test_choices_under_another_name_are_refused_by_name(load):
    row = {**ROW, "image": "a.png", "answer": "B", "answer_options": list(TEXTS)}
    with pytest.raises(DataError, match=r"the column answer_options seems to hold choices .*data\.columns\.choices"):
        load(row)
    assert load(row, columns={"choices": "answer_options"}).train[0].choices == TEXTS
    assert load(row, columns={"choices": "none"}).train[0].choices == ()
    rows = [{**ROW, "image": "a.png", "answer": "B", name: list(TEXTS)} for name in ("choices", "options")]
    assert [problem.choices for problem in load(*rows).train] == [TEXTS, TEXTS]


@pytest.mark.parametrize(
    ("row", "preset", "answer"),
    [
        (
            {"prompt": [{"role": "user", "content": "<image>How many?"}], "reward_model": {"ground_truth": "3"}},
            "verl",
            "3",
        ),
        ({"prompt": [{"role": "user", "content": "How many?"}], "solution": "<answer>3</answer>"}, "trl", "3"),
        ({"messages": json.dumps([{"role": "user", "content": "How many?"}]), "answer": "3"}, "messages", "3"),
        ({"problem": "How many?", "solution": "<answer> 3 </answer>"}, "r1v", "3"),
        ({"prompt": "How many?", "solution": "3"}, "trl", "3"),
        (
            {"conversations": [{"from": "human", "value": "<image>\nHow?"}, {"from": "gpt", "value": "3"}]},
            "llava",
            "3",
        ),
    ],
)
def test_layouts_of_other_trainers(row, preset, answer, load):
    loaded = load({**row, "image": "a.png"})
    assert (loaded.preset, loaded.train[0].answer, len(loaded.train[0].images)) == (preset, answer, 1)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"prompt": "How many?", "gold": "3"},
            r"set data\.columns\.question \(perhaps prompt\) and data\.columns\.answer \(perhaps gold\)",
        ),
        (
            {"problem": "How many?", "gold": "3"},
            r"no answer column; set data\.columns\.answer \(perhaps gold\), or to none",
        ),
        (
            {"my_question": "How?", "gold": "3"},
            r"question \(perhaps my_question\) .*answer \(perhaps gold\); its columns",
        ),
    ],
)
def test_a_layout_that_is_not_known_is_refused_with_a_proposal(row, says, load):
    with pytest.raises(DataError, match=says):
        load({**row, "image": "a.png"})


def test_a_kind_for_the_whole_source_or_row_by_row(load):
    caption = "A small red square stands to the left of the middle on a white ground."
    box = {"problem": "Where?", "image": "a.png", "answer": [10, 20, 30, 40]}
    text = load({**ROW, "image": "a.png", "answer": caption}, box, columns={"kind": "text"}).train
    assert [(p.answer, p.kind) for p in text] == [(caption, "text"), ("[10, 20, 30, 40]", "text")]
    rows = [{**ROW, "image": "a.png", "how": how} for how in ("text", "Math", None, "guess")]
    loaded = load(*rows, columns={"kind": "how"})
    assert [problem.kind for problem in loaded.train] == ["text", "math", "number"]
    assert [row.reason for row in loaded.refused] == [
        "kind unreadable: 'guess'; write math, choice, number, text, box, boxes, point or nothing"
    ]


def test_other_columns_reach_custom_rewards(load):
    """A reward for grounding needs the size of the image, and whatever else the row says of its boxes."""
    row = {**ROW, "image": "a.png", "width": 112, "extra_info": {"format": "xyxy", "mask": None}, "note": None}
    loaded = load(row, columns={"facts": ["width", "extra_info.format", "note"]})
    assert loaded.train[0].facts == {"width": 112, "extra_info.format": "xyxy"}
    assert not any("nothing reads" in note for note in loaded.notes)
    with pytest.raises(DataError, match=r"data\.columns\.facts names height, which .* does not have; its columns are"):
        load(row, columns={"facts": ["height"]})


def test_rows_without_a_gold_for_custom_rewards(load):
    row = {"problem": "Describe.", "image": "a.png"}
    (problem,) = load(row, columns={"answer": "none"}).train
    assert (problem.answer, problem.kind) == ("", "text")


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_rows_without_ids_are_numbered_over_all_shards(form, tmp_path):
    for shard, count in enumerate((30, 20)):
        rows = [{"problem": f"{shard}.{n}?", "answer": "1"} for n in range(count)]
        file = tmp_path / f"train-{shard:05d}-of-00002.{form}"
        if form == "parquet":
            datasets.Dataset.from_list(rows).to_parquet(file)
        else:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_problems(DataConfig(source=str(tmp_path)), 0)
    assert [problem.id for problem in loaded.train] == [f"train/{n}" for n in range(1, 51)]
    assert loaded.refused == []
    assert loaded.train[30].source.endswith(f"train-00001-of-00002.{form}:1")


def test_ids_that_are_none_can_be_switched_off(load):
    rows = [{**ROW, "id": "img1", "image": "a.png"}] * 3
    assert [row.reason.partition("; ")[2] for row in load(*rows).refused] == [
        "data.columns.id: none numbers the rows"
    ] * 2
    assert [problem.id for problem in load(*rows, columns={"id": "none"}).train] == ["train/1", "train/2", "train/3"]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"question": "none"}, "columns.question cannot be none"),
        ({"images": []}, "a list names columns"),
        ({"choices": ["none", "a"]}, "a list names columns"),
        ({"images": "pic"}, "data.columns.images is pic, which"),
    ],
)
def test_contradictory_columns(columns, says, load):
    with pytest.raises((ConfigError, DataError), match=says.replace(".", r"\.")):
        load(ROW, columns=columns)


@pytest.mark.parametrize(
    "mark",
    [
        '<img src="a">',
        "</img>",
        "[IMAGE] and [IMAGE]",
        "[IMAGE_2]",
        "![](b.png)",
        "<|image_pad|> or <ImageHere>",
        "<|vision_start|><|image_pad|><|vision_end|><|vision_start|><|image_pad|><|vision_end|>",
    ],
)
def test_placeholders_of_other_tools_are_not_left_in_the_text(mark, load):
    with pytest.raises(DataError, match="placeholders unlike images: .* in the question; write <image> where"):
        load({**ROW, "problem": f"{mark} How many?", "image": "a.png"})


READ = [
    *("[IMAGE]", "{image}", "{{image}}", "[image_1]", "<ImageHere>", "<image-placeholder>", "<image_token>", "<img>"),
    *("<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|><|image_pad|>", "&lt;image&gt;"),
    *("![](a.png)", "![a square](images/a.png)"),
    "<image>",
    "<Image>",
    "<image_1>",
    "<image 1>",
    "<image:1>",
    "< image >",
    "<|image_1|>",
    "<image></image>",
]


@pytest.mark.parametrize("mark", READ)
def test_placeholders_that_are_read(mark, load):
    assert (
        load({**ROW, "problem": f"In {mark} how many?", "image": "a.png"}).train[0].question == "In <image> how many?"
    )


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("[IMAGE_2] then [IMAGE_1]", "ba"),
        ("![](b.png) then ![](a.png)", "ba"),
        ("<ImageHere> then <ImageHere>", "ab"),
        ("{image} then <|image_pad|>", "ab"),
    ],
)
def test_placeholders_of_other_tools_keep_their_order(text, order, load):
    (problem,) = load({**ROW, "problem": text, "images": ["a.png", "b.png"]}).train
    assert problem.question == "<image> then <image>"
    assert [image.reference for image in problem.images] == [f"{name}.png" for name in order]


def test_braces_and_brackets_that_are_no_placeholders(load):
    for text in (r"Is \text{image} a word?", "See [Figure 1].", "f(image) is {1, 2}"):
        assert load({**ROW, "problem": text, "image": "a.png"}).train[0].question == f"<image>\n{text}"
