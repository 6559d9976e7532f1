"""Every format gives the same rows, images undecoded; every broken source is refused in one line."""

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmhicra.core.errors import DataError
from mmhicra.data import sources
from mmhicra.data.sources import find_source

ROWS = [
    {"id": "a", "problem": "<image>How many?", "answer": "1", "images": ["images/a.png"]},
    {"id": "b", "problem": "Wie viele? ä", "answer": "2", "images": []},
    {"id": "c", "problem": "<image>Où?", "answer": "3", "images": ["images/c.png"]},
]


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


def lines(rows: list) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_jsonl(folder: Path) -> None:
    (folder / "train.jsonl").write_text(lines(ROWS))


def write_jsonl_gz(folder: Path) -> None:
    (folder / "train.jsonl.gz").write_bytes(gzip.compress(lines(ROWS).encode()))


def write_json_list(folder: Path) -> None:
    (folder / "train.json").write_text(json.dumps(ROWS))


def write_json_map(folder: Path) -> None:
    (folder / "train.json").write_text(json.dumps({row["id"]: row for row in ROWS}))


def write_lines_named_json(folder: Path) -> None:
    (folder / "train.json.gz").write_bytes(gzip.compress(lines(ROWS).encode()))


def write_parquet(folder: Path) -> None:
    datasets.Dataset.from_list(ROWS).to_parquet(folder / "train.parquet")


def write_shards(folder: Path) -> None:
    (folder / "data").mkdir()
    datasets.Dataset.from_list(ROWS[:2]).to_parquet(folder / "data" / "train-00000-of-00002.parquet")
    datasets.Dataset.from_list(ROWS[2:]).to_parquet(folder / "data" / "train-00001-of-00002.parquet")


def write_saved(folder: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(folder)


def write_saved_splits(folder: Path) -> None:
    part = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": part, "test": part.select([0])}).save_to_disk(folder)


WRITERS = [
    write_jsonl,
    write_jsonl_gz,
    write_json_list,
    write_json_map,
    write_lines_named_json,
    write_parquet,
    write_shards,
    write_saved,
    write_saved_splits,
]


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_rows(write, tmp_path):
    write(tmp_path)
    (tmp_path / "._train-00000-of-00002.parquet").write_bytes(b"Mac OS X")
    (tmp_path / "._train.jsonl").write_bytes(b"Mac OS X")
    assert not [split for split in find_source(str(tmp_path)).splits if split.startswith(".")]
    table = find_source(str(tmp_path)).table("train")
    rows = list(table.rows())
    assert [dict(row.cells) for row in rows] == ROWS
    assert table.columns == ("id", "problem", "answer", "images")
    assert table.folder == tmp_path
    assert [row.fault for row in rows] == ["", "", ""]
    numbers = [1, 2, 1] if write is write_shards else [1, 2, 3]
    assert [row.number for row in rows] == numbers
    assert all(row.source.startswith(f"{tmp_path.name}") for row in rows)
    assert list(table.rows()) == rows, "a table can be read twice"


def test_a_file_is_one_split_whatever_it_is_called(tmp_path):
    write_jsonl(tmp_path)
    table = find_source(str(tmp_path / "train.jsonl")).table("validation")
    assert table.name == f"{tmp_path.name}/train.jsonl"
    assert [row.where for row in table.rows()] == [f"{tmp_path.name}/train.jsonl:{n}" for n in (1, 2, 3)]


@pytest.mark.parametrize("saved", [False, True])
def test_image_columns_stay_encoded(saved, tmp_path):
    features = datasets.Features({"images": datasets.List(datasets.Image()), "problem": datasets.Value("string")})
    rows = [{"images": [{"bytes": png(), "path": "a.png"}], "problem": "?"}, {"images": [], "problem": "text"}]
    part = datasets.Dataset.from_list(rows, features=features)
    part.save_to_disk(tmp_path / "set") if saved else part.to_parquet(tmp_path / "set.parquet")
    table = find_source(str(tmp_path / ("set" if saved else "set.parquet"))).table("train")
    assert [dict(row.cells) for row in table.rows()] == rows


def test_line_numbers_are_those_of_an_editor_and_broken_lines_are_kept(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"a": 1}\n\n{"a": 2\n[3]\n{"b": 4}\n')
    table = find_source(str(tmp_path / "train.jsonl")).table("train")
    first, broken, other, last = table.rows()
    assert table.columns == ("a", "b")
    assert (first.number, broken.number, other.number, last.number) == (1, 3, 4, 5)
    assert broken.fault.startswith("row unreadable: ")
    assert other.fault == "row unreadable: a list, not an object"
    assert not first.fault
    assert not last.fault


def empty_parquet(folder: Path) -> None:
    datasets.Dataset.from_dict({"problem": []}).to_parquet(folder / "train.parquet")


def empty_saved(folder: Path) -> None:
    datasets.Dataset.from_dict({"problem": []}).save_to_disk(folder)


def half_parquet(folder: Path) -> None:
    write_parquet(folder)
    whole = (folder / "train.parquet").read_bytes()
    (folder / "train.parquet").write_bytes(whole[: len(whole) // 2])


def half_gz(folder: Path) -> None:
    write_jsonl_gz(folder)
    whole = (folder / "train.jsonl.gz").read_bytes()
    (folder / "train.jsonl.gz").write_bytes(whole[: len(whole) // 2])


def half_saved(folder: Path) -> None:
    write_saved(folder)
    (folder / "data-00000-of-00001.arrow").unlink()


def shards(folder, *numbers):
    folder.mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"train-{number:05d}-of-00003.jsonl").write_text('{"a": 1}\n')


def shards_twice(folder):
    shards(folder, 0, 1, 2)
    shards(folder / "data", 0)


def file_beside_shards(folder):
    shards(folder, 0, 1, 2)
    (folder / "train.jsonl").write_text('{"a": 1}\n')


def file_twice(folder):
    (folder / "data").mkdir()
    for place in (folder, folder / "data"):
        (place / "train.jsonl").write_text('{"a": 1}\n')


def column_twice(folder):
    columns = [pa.array(["a?"]), pa.array(["1"]), pa.array(["2"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["problem", "answer", "answer"]), folder / "train.parquet")


def two_formats(folder: Path) -> None:
    write_jsonl(folder)
    write_parquet(folder)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda folder: None, "holds no data files"),
        (lambda folder: (folder / "train.xlsx").write_text("a,b\n1,2\n"), "holds no data files"),
        (lambda folder: (folder / "train.jsonl").write_text("\n"), "has no rows"),
        (lambda folder: (folder / "train.json").write_text("[]"), "has no rows"),
        (empty_parquet, "has no rows"),
        (empty_saved, "not a whole saved data set"),
        (half_parquet, "not a whole parquet file"),
        (half_gz, "cannot be read"),
        (half_saved, "not a whole saved data set"),
        (two_formats, "more than once (train.jsonl, train.parquet)"),
        (lambda folder: shards(folder, 0, 2), "lacks 1 of the 3 shards of the split train, first train-00001-of-00003"),
        (lambda folder: shards(folder, 0), "lacks 2 of the 3 shards of the split train, first train-00001-of-00003"),
        (shards_twice, "more than once (data/train-00000-of-00003.jsonl, "),
        (file_beside_shards, "more than once (train-00000-of-00003.jsonl, train-00001-of-00003.jsonl, train-00002"),
        (file_twice, "more than once (data/train.jsonl, train.jsonl)"),
        (column_twice, "has two columns answer: rename or drop one"),
        (lambda folder: (folder / "train.json").write_text('[{"a": 1},'), "is not JSON"),
        (lambda folder: (folder / "train.json").write_text('"text"'), "must hold a list of objects"),
        (lambda folder: (folder / "val.jsonl").write_text("{}\n"), "has no split train, it has: val"),
    ],
)
def test_a_broken_folder_is_refused_in_one_line(write, says, tmp_path):
    write(tmp_path)
    with pytest.raises(DataError) as refusal:
        find_source(str(tmp_path)).table("train")
    assert says in str(refusal.value)
    assert tmp_path.name in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["nowhere/train.jsonl", "nowhere", "/no/where", "here/owner-name"])
def test_a_missing_path_is_refused_without_asking_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(DataError, match=rf"data\.eval_source: {name} does not exist"):
        find_source(name, "data.eval_source")


def test_an_unknown_format_is_refused_with_those_we_read(tmp_path):
    (tmp_path / "train.xlsx").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="has no format we read: convert it to parquet, jsonl"):
        find_source(str(tmp_path / "train.xlsx"))


def test_a_hub_id_offline_is_refused_in_one_line():
    code = (
        "from mmhicra.data.sources import find_source\n"
        "from mmhicra.core.errors import DataError\n"
        "try: find_source('hiyouga/no-such-geometry')\n"
        "except DataError as refusal: print(refusal)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith(
        "data.source: hiyouga/no-such-geometry is no local path, and not to be had from the hub"
    )
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_the_hub_reader_on_a_repository_folder(tmp_path, monkeypatch):
    """`load_dataset` takes a local copy of a hub repository for the repository itself."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    write_shards(tmp_path / "set")
    source = sources._hub_source(str(tmp_path / "set"), "data.source")
    table = source.table("train")
    assert list(source.splits) == ["train"]
    assert [dict(row.cells) for row in table.rows()] == ROWS
    assert table.folder is None


def test_a_configuration_is_named_after_a_colon(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("mini", "text_only"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"question": name}) + "\n")
    configs = [
        {"config_name": name, "data_files": [{"split": name, "path": f"{name}.jsonl"}]}
        for name in ("mini", "text_only")
    ]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    source = sources._hub_source(f"{folder}:text_only", "data.source")
    assert list(source.splits) == ["text_only"]
    assert [row.cells["question"] for row in source.table("text_only").rows()] == ["text_only"]
