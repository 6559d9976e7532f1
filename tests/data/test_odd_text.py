"""Texts and files that cannot be kept: a row that holds one is refused and listed, the rest is used."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmhicra.config import ColumnsConfig, DataConfig
from mmhicra.core.errors import DataError
from mmhicra.data import json_files
from mmhicra.data.dataset import Loaded, load_problems
from mmhicra.data.refused import RefusedRow, write_refused
from mmhicra.data.sources import find_source

GOOD = {"id": "good", "problem": "1 + 1?", "answer": "2"}


def load(folder: Path, *lines: Any) -> Loaded:
    """A file of these lines and a good row."""
    written = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in [*lines, GOOD]]
    (folder / "train.jsonl").write_bytes(b"\n".join(written))
    columns = ColumnsConfig(task="task" if any(isinstance(line, dict) and "task" in line for line in lines) else None)
    data = DataConfig(source=str(folder / "train.jsonl"), max_refused_share=1.0, columns=columns)
    loaded = load_problems(data, 0, refused_path=folder / "refused.jsonl")
    assert [problem.id for problem in loaded.train] == ["train/good"]
    listed = [json.loads(line) for line in (folder / "refused.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["reason"] for row in listed] == [row.reason for row in loaded.refused]
    return loaded


HALF = "it holds half of a character (U+D83D); write the text anew as UTF-8"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"problem": "a\ud83d?"}, f"question unreadable: {HALF}"),
        ({"answer": "\ud83d"}, f"answer unreadable: {HALF}"),
        ({"id": "\ud83d"}, f"id unreadable: {HALF}"),
        ({"task": "a\ud83d"}, f"task unreadable: {HALF}"),
        ({"choices": ["\ud83d", "1"], "answer": "B"}, f"choices unreadable: {HALF}"),
        ({"images": ["\ud83d.png"]}, f"image unreadable: the path \\ud83d.png of {{where}}#image1: {HALF}"),
        ({"problem": "a\x00?"}, "question unreadable: it holds a NUL character; take it out"),
        ({"answer": "\x00"}, "answer unusable: it has lost a backslash; write LaTeX in JSON with two backslashes"),
        ({"id": "a\x00"}, "id unreadable: it holds a NUL character; take it out"),
        ({"id": "\x1b[31m"}, "id unreadable: control characters; data.columns.id: none numbers the rows of train"),
        ({"id": "a\nb"}, "id unreadable: control characters; data.columns.id: none numbers the rows of train"),
        ({"id": "con" * 900}, "id unreadable: 2700 characters, more than 300; data.columns.id: none numbers the rows"),
        ({"id": [1]}, "id unreadable: a list, not text or a number"),
        ({"task": {"a": 1}}, "task unreadable: a dict, not text"),
        ({"problem": ["a"]}, "question unreadable: a list, not text; data.preset: messages reads chats"),
        ({"problem": {"a": 1}}, "question unreadable: a dict, not text"),
        ({"answer": "x" * 9, "problem": "\ud83d\ud83d"}, f"question unreadable: {HALF}"),
    ],
)
def test_a_row_with_text_that_cannot_be_kept_is_refused(row, reason, tmp_path):
    (refused,) = load(tmp_path, {"id": 1, "problem": "?", "answer": "1", "task": "t", "images": [], **row}).refused
    assert refused.reason.startswith(reason.format(where=refused.where))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[" * 100_000, "row unreadable: nested too deeply"),
        (b'{"a":' * 50_000, "row unreadable: nested too deeply"),
        (b'{"problem": "half', "row unreadable: Unterminated string"),
        (b'{"problem": "\xff\xfe?", "answer": "1"}', "row unreadable: 'utf-8' codec can't decode"),
        (b"\x00\x01", "row unreadable: "),
        (b"1" * 5000, "row unreadable: Exceeds the limit"),
        (b"null", "row unreadable: a NoneType, not an object"),
        (b'{"problem": "a?", "answer": "1", "problem": "b?"}', "row unreadable: the key 'problem' is there twice"),
        (b'{"problem": "a?", "answer": "1", "m": {"a": 1, "a": 1}}', "row unreadable: the key 'a' is there twice"),
    ],
)
def test_a_bad_line_costs_that_line(line, reason, tmp_path):
    (refused,) = load(tmp_path, line).refused
    assert refused.reason.startswith(reason)


def test_a_row_nested_just_below_the_limit(tmp_path):
    cell: Any = []
    for _ in range(900):
        cell = [cell]
    for name in ("id", "problem", "answer", "images", "choices", "task", "video", "other"):
        row = {"id": 1, "problem": "?", "answer": "1", name: cell}
        rows = find_rows(tmp_path, row)
        assert len(rows.train) + len(rows.refused) == 2


def find_rows(folder: Path, *rows: Any) -> Loaded:
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, GOOD]))
    return load_problems(DataConfig(source=str(folder / "train.jsonl"), max_refused_share=1.0), 0)


def test_a_file_without_a_single_row_says_why(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(b"[" * 100_000 + b"\n[1]\n")
    with pytest.raises(DataError, match="none of its rows can be read, first .*train.jsonl:1: row unreadable: nested"):
        load_problems(DataConfig(source=str(tmp_path)), 0)


def test_the_list_of_refused_rows_takes_anything(tmp_path):
    row = RefusedRow("a\ud800.jsonl", 1, "\udfff" * 5000, "it is \x1b[31m\ud800\nbad" + "x" * 9000, "\ud800?")
    write_refused(tmp_path / "refused.jsonl", [row])
    (line,) = (tmp_path / "refused.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["reason"].startswith("it is \\x1b[31m\\ud800 badxxx")
    assert len(line) < 4000


def test_parquet_with_one_text_that_is_not_utf_8(tmp_path):
    texts = pa.Array.from_buffers(
        pa.string(),
        3,
        [None, pa.py_buffer(np.array([0, 2, 4, 6], np.int32).tobytes()), pa.py_buffer(b"a?\xff\xfec?")],
    )
    pq.write_table(pa.table({"problem": texts, "answer": ["1", "2", "3"]}), tmp_path / "train.parquet")
    loaded = load_problems(DataConfig(source=str(tmp_path), max_refused_share=1.0), 0)
    assert [problem.question for problem in loaded.train] == ["a?", "c?"]
    assert [(row.row, row.kind) for row in loaded.refused] == [(2, "row unreadable")]


def test_a_gzipped_bomb_is_refused_after_a_small_part_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "SUSPICIOUS", 1 << 20)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as stream:
        for _ in range(16):
            stream.write(b"\n" * (1 << 20))
    for name in ("train.jsonl.gz", "val.json.gz"):
        (tmp_path / name).write_bytes(packed.getvalue())
        with pytest.raises(DataError, match=r"expands from [\d,]+ bytes to more than 200 times as many"):
            find_source(str(tmp_path / name)).table("train")


def test_a_line_longer_than_any_row_is_refused_and_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "LONGEST_LINE", 3 << 20)
    long = {"problem": "?", "answer": "1", "other": "x" * (4 << 20)}
    (refused,) = load(tmp_path, long).refused
    assert refused.reason.startswith("row unreadable: a line of 4,19")


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
def test_lines_are_the_same_whatever_the_chunks(chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "_CHUNK", chunk)
    (tmp_path / "train.jsonl").write_bytes(b'\n{"a": 1}\n\n  \n{"a": 22}\r\n{"a": 3}')
    rows = list(find_source(str(tmp_path)).table("train").rows())
    assert [(row.number, row.cells) for row in rows] == [(2, {"a": 1}), (5, {"a": 22}), (6, {"a": 3})]
