"""Whole files through the whole room: every row is used or listed, with the defects the real files have."""

from collections import Counter
from pathlib import Path

import pytest

from mmhicra.config import ColumnsConfig, DataConfig
from mmhicra.core.errors import DataError
from mmhicra.core.records import IMAGE_PLACEHOLDER, Problem
from mmhicra.data.dataset import load_problems
from mmhicra.data.presets import choose_reader
from mmhicra.data.sources import find_source

TASKS = {"Length": 215, "Angle": 156, "Area": 37, "Ratio": 10, "Angle+Other": 2}
MADE_TASKS = {"Length": 6, "Angle": 6, "Area": 6, "Ratio": 6}
MATHVISION_DEFECTS = {
    "test/528": "question empty",
    "test/2830": "answer unusable: it has lost a backslash; write LaTeX in JSON with two backslashes",
}


def read_all(file: Path) -> tuple[list[Problem], dict[str, str]]:
    """The problems of a file whose images are not there, and id -> reason of the refused rows."""
    table = find_source(str(file)).table("test")
    reader = choose_reader("auto", ColumnsConfig(), table, None, "test")
    problems, refused = [], {}
    for row in table.rows():
        try:
            problems.append(reader.read(row))
        except DataError as reason:
            refused[reader.id_of(row)] = str(reason)
    return problems, refused


def test_all_rows_of_geometry3k_are_used(data_folder):
    rows = (420, 60) if data_folder.real else (24, 20)
    loaded = load_problems(DataConfig(source=str(data_folder / "geometry3k")), 0, held_out=rows[1])
    assert ((len(loaded.train), len(loaded.held_out)), loaded.refused, loaded.preset) == (rows, [], "intergps")
    assert not {problem.id for problem in loaded.train} & {problem.id for problem in loaded.held_out}
    for problem in [*loaded.train, *loaded.held_out]:
        assert problem.kind == "choice"
        assert problem.question.count(IMAGE_PLACEHOLDER) == len(problem.images) == 1
        assert problem.answer in "ABCD"
        assert len(problem.choices) == len(problem.facts["precise_value"]) == 4
        assert all(
            f"({letter}) {choice}" in problem.question for letter, choice in zip("ABCD", problem.choices, strict=True)
        )
    assert Counter(problem.task for problem in loaded.train) == (TASKS if data_folder.real else MADE_TASKS)


def test_mathvision_sample_with_its_images(data_folder):
    source = str(data_folder / "images_sample" / "questions.jsonl")
    loaded = load_problems(DataConfig(source=source, columns=ColumnsConfig(images="image_path")), 0)
    kinds = Counter(problem.kind for problem in loaded.train)
    assert (loaded.refused, loaded.preset) == ([], "mathvision")
    if data_folder.real:
        assert kinds == {"choice": 95, "number": 64, "math": 1}
        ant = next(problem for problem in loaded.train if problem.id == "questions/33")
        assert ant.question.startswith(f"{IMAGE_PLACEHOLDER}\nWhen the ant <image1> walks from home <image2>")
        graphs = next(problem for problem in loaded.train if problem.id == "questions/2673")
        assert graphs.question.endswith("(A) <image1> (B) <image2> (C) <image3> (D) <image4> (E) <image5>")
    else:
        assert kinds == {"choice": 5, "number": 5, "math": 4}


def test_mathvision_and_its_two_defects(data_folder):
    problems, refused = read_all(data_folder / "mathvision" / "test.jsonl.gz")
    assert refused == MATHVISION_DEFECTS
    kinds = {"choice": 1534, "number": 1413, "math": 91} if data_folder.real else {"choice": 5, "number": 5, "math": 4}
    assert Counter(problem.kind for problem in problems) == kinds
    assert all(problem.question.count(IMAGE_PLACEHOLDER) == len(problem.images) == 1 for problem in problems)
    if data_folder.real:
        boxed = {problem.id: problem.answer for problem in problems if problem.id in ("test/2828", "test/2833")}
        assert boxed == {"test/2828": r"\frac{16}{7}", "test/2833": r"\frac{121}{180}"}


def test_mathvista_and_its_gold_that_two_options_read(data_folder):
    problems, refused = read_all(data_folder / "mathvista" / "testmini.json.gz")
    twice = "test/781" if data_folder.real else "test/11"
    assert refused == {}
    assert next(problem.answer for problem in problems if problem.id == twice) == "C"
    kinds = {"choice": 540, "number": 458, "math": 2} if data_folder.real else {"choice": 4, "number": 6, "math": 1}
    assert Counter(problem.kind for problem in problems) == kinds
    assert sum("(Unit: years)" in problem.question for problem in problems) == (49 if data_folder.real else 1)


def test_missing_images_are_listed_row_by_row(data_folder):
    count = 304 if data_folder.real else 6
    with pytest.raises(
        DataError, match=f"none of its {count} rows can be used, first .*testmini.jsonl.gz:1: image missing"
    ):
        load_problems(DataConfig(source=str(data_folder / "mathvision" / "testmini.jsonl.gz")), 0)
