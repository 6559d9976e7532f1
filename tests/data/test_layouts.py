"""What people bring from other tools: each file of `layouts/` gives the right problems, by `auto` and by name."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmhicra.config import DataConfig
from mmhicra.config.data import ColumnsConfig
from mmhicra.core.errors import DataError
from mmhicra.core.records import Problem
from mmhicra.data.dataset import Loaded, load_problems

FILES = Path(__file__).parent / "layouts"
SYSTEM = "A conversation between User and Assistant. Think first."

LAYOUTS: dict[str, tuple[str, list[tuple[str, list[str], str, str, str]]]] = {
    "trl.jsonl": (
        "trl",
        [
            ("<image>\nHow many squares?", ["red"], "1", "number", SYSTEM),
            ("<image>Which colour?", ["blue"], "blue", "text", ""),
        ],
    ),
    "trl_texts.jsonl": (
        "trl",
        [
            ("<image>\nHow many squares are in the picture?", ["red"], "1", "number", ""),
            ("What is 17 + 25?", [], "42", "number", ""),
        ],
    ),
    "verl.jsonl": (
        "verl",
        [("<image>Find x.", ["red"], "3", "number", SYSTEM), ("What is 3 + 4?", [], "7", "number", "")],
    ),
    "easyr1.jsonl": ("geometry3k", [("<image>Find x.", ["red"], r"2 \sqrt{221}", "math", "")]),
    "r1v.jsonl": (
        "r1v",
        [
            ("<image>\nHow many squares are there?", ["red"], "1", "number", ""),
            ("<image>\nWhich is larger? (A) red (B) blue", ["blue"], "B", "choice", ""),
        ],
    ),
    "vlm_r1.jsonl": (
        "llava",
        [
            (
                "<image>Please provide the bounding box of the red square.",
                ["red"],
                '{"bbox_2d": [10, 10, 30, 30], "label": "square"}',
                "box",
                "",
            )
        ],
    ),
    "vlm_r1_rec.jsonl": (
        "r1v",
        [
            (
                "<image>\nPlease provide the bounding box of the red square.",
                ["red"],
                "[10.0, 10.0, 30.0, 30.0]",
                "box",
                "",
            )
        ],
    ),
    "llava.jsonl": ("llava", [("<image>\n<image>\nWhat differs?", ["red", "blue"], "the colour", "text", SYSTEM)]),
    "swift.jsonl": ("messages", [("<image>How many squares?", ["red"], "1", "number", SYSTEM)]),
    "swift_query.jsonl": (
        "swift",
        [("<image>How many squares?", ["red"], "1", "number", SYSTEM), ("What is 2 + 2?", [], "4", "number", "")],
    ),
    "scienceqa.jsonl": (
        "scienceqa",
        [
            (
                "<image>\nMammals feed their young with milk.\nWhich of these is a mammal?\n"
                "(A) frog (B) whale (C) trout",
                ["red"],
                "B",
                "choice",
                "",
            ),
            ("How many legs has a dog?\n(A) 1 (B) 2 (C) 3 (D) 4", [], "D", "choice", ""),
        ],
    ),
    "mmmu.jsonl": (
        "mmmu",
        [
            (
                "Compare <image> with <image>. Which is blue?\n(A) the first (B) the second",
                ["red", "blue"],
                "B",
                "choice",
                "",
            )
        ],
    ),
    "table.csv": (
        "geometry3k",
        [
            ("<image>\nHow many squares, in all?", ["red"], "1", "number", ""),
            ("<image>\nWhich is blue?\n(A) red (B) blue", ["blue"], "B", "choice", ""),
            ("What is\n2 + 2?", [], "4", "number", ""),
        ],
    ),
    "table.tsv": ("geometry3k", [("<image>\nHow many squares?", ["red"], "1", "number", "")]),
    "folder": (
        "mmk12",
        [
            ("<image>\nWhich colour?", ["0001"], "red", "text", ""),
            ("<image>\nWhich colour?", ["0002"], "blue", "text", ""),
        ],
    ),
}
"""File -> the preset that `auto` finds, and of each problem question, images, answer, kind and system turn."""
ALSO = {"swift.jsonl": "swift", "folder": "imagefolder", "vlm_r1.jsonl": "messages"}
"""Files that another preset reads alike."""


def read(source: Path, **settings: Any) -> Loaded:
    return load_problems(DataConfig(source=str(source), **{"max_refused_share": 1.0, **settings}), 0)


def told(problem: Problem) -> tuple[str, list[str], str, str, str]:
    names = [Path(image.reference.rstrip(")").rpartition("(")[2]).stem for image in problem.images]
    return problem.question, names, problem.answer, problem.kind, problem.system


@pytest.mark.parametrize("file", LAYOUTS)
def test_files_of_other_tools_by_auto_and_by_name(file):
    preset, expected = LAYOUTS[file]
    for asked in ("auto", preset, *([ALSO[file]] if file in ALSO else [])):
        loaded = read(FILES / file, preset=asked)
        assert loaded.preset == (preset if asked == "auto" else asked)
        assert [told(problem) for problem in loaded.train] == expected, asked
        assert not loaded.refused


PARQUET = ("trl", "trl_texts", "verl", "r1v", "llava", "swift_query", "scienceqa", "vlm_r1_rec")


@pytest.mark.parametrize("name", PARQUET)
def test_the_same_rows_as_shards_of_parquet_with_embedded_images(name, tmp_path):
    """Parquet fills up objects, makes lists of one type and embeds images; shards number their rows anew."""
    rows = [json.loads(line) for line in (FILES / f"{name}.jsonl").read_text().splitlines()]
    (tmp_path / "data").mkdir()
    for shard, row in enumerate(rows):
        for column in {"image", "images"} & row.keys():
            row[column] = embedded(row[column])
        if isinstance(row.get("prompt"), list):  # Arrow has no columns of text in one row and lists in another
            row["prompt"] = [{**turn, "content": as_text(turn["content"])} for turn in row["prompt"]]
        table = pa.Table.from_pylist([row])
        pq.write_table(table, tmp_path / "data" / f"train-{shard:05d}-of-{len(rows):05d}.parquet")
    preset, expected = LAYOUTS[f"{name}.jsonl"]
    loaded = read(tmp_path)
    assert loaded.preset == preset
    assert [told(problem) for problem in loaded.train] == expected
    assert len({problem.id for problem in loaded.train}) == len(rows)


def embedded(cell: Any) -> Any:
    if isinstance(cell, list):
        return [embedded(one) for one in cell]
    return cell and {"bytes": (FILES / cell).read_bytes(), "path": Path(cell).name}


def as_text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(item.get("text", "<image>") for item in content)


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize(
    "place", ["{split}-{n:05d}-of-00002.{form}", "data/{split}-{n:05d}-of-00002.{form}", "{split}/{n}.{form}"]
)
def test_sharded_folders(form, place, tmp_path):
    cells = {"csv": ",", "tsv": "\t"}
    for split, count in (("train", 3), ("val", 1)):
        for n in range(2):
            file = tmp_path / place.format(split=split, n=n, form=form)
            file.parent.mkdir(exist_ok=True, parents=True)
            rows = [{"problem": f"{split} {n} {k}?", "answer": str(k)} for k in range(count)]
            if form == "jsonl":
                file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            else:
                lines = [cells[form].join(rows[0]), *(cells[form].join(row.values()) for row in rows)]
                file.write_text("\n".join(lines) + "\n")
    loaded = load_problems(DataConfig(source=str(tmp_path)), 0, held_out=2)
    assert [problem.question for problem in loaded.train] == [f"train {n} {k}?" for n in range(2) for k in range(3)]
    assert len({problem.id for problem in loaded.train}) == 6
    assert sorted(problem.question for problem in loaded.held_out) == ["val 0 0?", "val 1 0?"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("problem,problem,answer\n1,2,3\n", "two columns 'problem'"),
        ("problem,answer\n1+1?,2\n1+2?,3,4\n", "3 cells, 2 columns"),
        ('problem,answer\n1+1?,2\n"1+2?,3\n', "nothing behind it is read"),
        ("problem,answer\n", "has no rows"),
        ("", "has no rows"),
        (b"problem,answer\n\xff,2\n", "is not UTF-8"),
    ],
)
def test_broken_tables_are_refused_by_file_or_row(text, says, tmp_path):
    file = tmp_path / "train.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        reasons = [row.reason for row in read(file).refused]
    except DataError as refusal:
        reasons = [str(refusal)]
    assert any(says in reason for reason in reasons)


def test_a_byte_order_mark_and_carriage_returns_are_no_part_of_a_table(tmp_path):
    (tmp_path / "train.csv").write_bytes("\ufeffproblem,answer\r\n1+1?,2\r\n\r\n".encode())
    assert [(p.question, p.answer) for p in read(tmp_path / "train.csv").train] == [("1+1?", "2")]


@pytest.mark.parametrize(
    ("row", "preset", "says"),
    [
        ({"prompt": "x?", "solution": "3"}, "geometry3k", "or data.preset: trl, whose columns it has"),
        ({"conversations": [{"from": "human", "value": "x?"}], "answer": "3"}, "mmk12", "or data.preset: llava"),
        ({"prompt": "x?", "gold": "3"}, "auto", "preset verl comes nearest, which reads a question from prompt"),
        ({"query": "x?", "response": "3", "history": [["a", "b"]]}, "auto", "earlier turns in the column history"),
        ({"messages": [{"role": "system", "content": "<image>"}, {"role": "user", "content": "x?"}], "answer": "1"},
         "auto", "an image in the system's turn"),
    ],
)  # fmt: skip
def test_refusals_name_the_preset_or_the_turn(row, preset, says, tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    try:
        reasons = [row.reason for row in read(tmp_path / "train.jsonl", preset=preset).refused]
    except DataError as refusal:
        reasons = [str(refusal)]
    assert any(says in reason for reason in reasons), reasons


CELLS = {
    "a list in a list": [["red.png"], ["blue.png"]],
    "an object of lists": {"bytes": [None, None], "path": ["red.png", "blue.png"]},
    "None among them": [None, "red.png", "blue.png"],
    "text of a list": "['red.png', 'blue.png']",
}


@pytest.mark.parametrize("form", CELLS)
def test_nested_image_cells(form, tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps({"problem": "x?", "answer": "1", "images": CELLS[form]}) + "\n")
    (problem,) = read(tmp_path / "train.jsonl", image_folder=str(FILES / "images")).train
    assert told(problem)[:2] == ("<image><image>\nx?", ["red", "blue"])


@pytest.mark.parametrize("turns", [
    {"role": ["system", "user"], "content": ["Be brief.", "x?"]},
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "x?"}]}],
    json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x?"}]),
    [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "x?"}],
])  # fmt: skip
@pytest.mark.parametrize("column", ["messages", "prompt", "conversations"])
def test_chats_in_every_form_keep_their_system_turn(turns, column, tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps({column: turns, "answer": "1"}) + "\n")
    (problem,) = read(tmp_path / "train.jsonl").train
    assert (problem.system, problem.question) == ("Be brief.", "x?")


ODD_ROWS: dict[str, tuple[dict[str, Any], tuple[str, str, str, tuple[str, ...]]]] = {
    "verl's objects as JSON text": (
        {"prompt": json.dumps([{"role": "user", "content": "x?"}]), "reward_model": json.dumps({"ground_truth": "3"})},
        ("x?", "3", "", ()),
    ),
    "a gold in a list": (
        {"prompt": [{"role": "user", "content": "x?"}], "reward_model": {"ground_truth": ["3"]}},
        ("x?", "3", "", ()),
    ),
    "TRL's completion as a turn": (
        {"prompt": [{"role": "user", "content": "x?"}], "completion": [{"role": "assistant", "content": "$3$"}]},
        ("x?", "3", "", ()),
    ),
    "a developer's turn": (
        {"prompt": [{"role": "developer", "content": "Think."}, {"role": "user", "content": "x?"}], "solution": "3"},
        ("x?", "3", "Think.", ()),
    ),
    "choices as numpy writes them": (
        {"question": "x?", "choices": "['red' 'blue']", "answer": "B"},
        ("x?\n(A) red (B) blue", "B", "", ("red", "blue")),
    ),
    "labelled choices and a labelled gold": (
        {"question": "x?", "choices": ["A. red", "B. blue", None], "answer": "B. blue"},
        ("x?\n(A) red (B) blue", "B", "", ("red", "blue")),
    ),
    "None in every column that may have it": (
        {"problem": "x?", "solution": "3", "image": None, "images": [None], "choices": [None, None], "id": None},
        ("x?", "3", "", ()),
    ),
}


@pytest.mark.parametrize("name", ODD_ROWS)
def test_odd_rows(name, tmp_path):
    row, expected = ODD_ROWS[name]
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    (problem,) = read(tmp_path / "train.jsonl").train
    assert (problem.question, problem.answer, problem.system, problem.choices) == expected


@pytest.mark.parametrize("delimiter", ["\t", ";", ","])
def test_tables_named_csv_with_other_delimiters(delimiter, tmp_path):
    lines = [delimiter.join(cells) for cells in (("problem", "answer"), ("1 + 1?", "2"))]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    assert [(p.question, p.answer) for p in read(tmp_path / "train.csv").train] == [("1 + 1?", "2")]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [(2, "C"), (2.0, "C"), ("2", "C"), ("2.0", "C"), ("C", "C"), ("c", "C"), ("trout", "C"), (7, None), ("7", None)],
)
def test_answers_of_scienceqa_count_from_0(answer, letter, tmp_path):
    row = {"question": "Which?", "choices": ["frog", "whale", "trout", None], "hint": ""}
    rows = [{**row, "answer": one} for one in ("A", answer)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = read(tmp_path / "train.jsonl")
    assert [problem.answer for problem in loaded.train] == ["A", *([letter] if letter else [])]


GOLDS = [
    ([10, 20, 30, 40], "box", "[10, 20, 30, 40]"),
    ([[10, 20, 30, 40]], "box", "[[10, 20, 30, 40]]"),
    ([[1, 2, 3, 4], [5, 6, 7, 8]], "boxes", "[[1, 2, 3, 4], [5, 6, 7, 8]]"),
    ({"bbox_2d": [1, 2, 3, 4], "label": "cat"}, "box", '{"bbox_2d": [1, 2, 3, 4], "label": "cat"}'),
    ('[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [5, 6, 7, 8]}]', "boxes", None),
    ({"point_2d": [5, 6]}, "point", '{"point_2d": [5, 6]}'),
    ("{'bbox': [0.1, 0.2, 0.3, 0.4]}", "box", None),
]


@pytest.mark.parametrize(("cell", "kind", "answer"), GOLDS)
def test_boxes_and_points_are_kept_as_the_row_has_them(cell, kind, answer, tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps({"problem": "Where?", "answer": cell}) + "\n")
    for columns in (ColumnsConfig(), ColumnsConfig(kind=kind)):
        (problem,) = read(tmp_path / "train.jsonl", columns=columns).train
        assert (problem.kind, problem.answer) == (kind, cell if answer is None else answer)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("box", ["[10, 20, 30, 40]", "<|box_start|>(1,2),(3,4)<|box_end|>"], ["left", [1, 2, 3]]),
        ("boxes", [[[1, 2, 3, 4]], "[[1, 2, 3, 4], [5, 6, 7, 8]]", []], ["left", [[1, 2]]]),
        ("point", [[5, 6], "(5, 6)", {"point": [5, 6]}], ["left", 5, [[1, 2], [3, 4]]]),
    ],
)
def test_a_kind_of_the_configuration_is_checked(kind, good, bad, tmp_path):
    rows = [{"problem": "Where?", "answer": answer} for answer in (*good, *bad)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = read(tmp_path / "train.jsonl", columns=ColumnsConfig(kind=kind))
    assert ([p.kind for p in loaded.train], len(loaded.refused)) == ([kind] * len(good), len(bad))


def test_golds_that_no_term_reads_may_be_anything_or_missing(tmp_path):
    caption = "A small red square stands to the left of the middle on a white ground."
    rows = [{"problem": "x?", "answer": answer} for answer in (["3", "three"], {"value": 3}, "", None, caption)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(source=str(tmp_path / "train.jsonl"), max_refused_share=1.0)
    assert len(load_problems(data, 0).refused) == 4
    loaded = load_problems(data, 0, raw=[""])
    assert [p.answer for p in loaded.train] == ['["3", "three"]', '{"value": 3}', "", "", caption]
    (tmp_path / "train.jsonl").write_text(json.dumps({"problem": "Describe."}) + "\n")
    with pytest.raises(DataError, match="has no answer column"):
        load_problems(data, 0)
    loaded = load_problems(data, 0, raw=[""])
    assert [p.answer for p in loaded.train] == [""]
    assert "no column holds gold answers, and no term of the reward reads them" in loaded.notes
