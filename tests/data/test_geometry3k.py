"""Real data through the whole room: every row is used or listed, with the defects these files are known to have."""

import os
from collections import Counter
from pathlib import Path

import pytest

from mmhicra.config import ColumnsConfig, DataConfig
from mmhicra.data.dataset import load_problems
from mmhicra.data.presets import choose_reader
from mmhicra.data.sources import find_source
from mmhicra.records import IMAGE_PLACEHOLDER, Problem
from mmhicra.refusals import DataRefusal

SHARED = Path(os.environ.get("MMHICRA_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))

pytestmark = pytest.mark.skipif(
    not (SHARED / "geometry3k" / "train.jsonl").is_file(),
    reason="needs the real data sets: set MMHICRA_SHARED_DATA to their folder",
)


def read_all(file: Path) -> tuple[list[Problem], dict[str, str]]:
    """The problems of a file whose images are not there, and id -> reason of the refused rows."""
    table = find_source(str(file)).table("test")
    reader = choose_reader("auto", ColumnsConfig(), table, None, "test")
    problems, refused = [], {}
    for row in table.rows():
        try:
            problems.append(reader.read(row))
        except DataRefusal as reason:
            refused[reader.id_of(row)] = str(reason)
    return problems, refused


def test_geometry3k_all_420_and_60_rows_are_used():
    loaded = load_problems(DataConfig(source=str(SHARED / "geometry3k")), 0, held_out=60)
    assert (len(loaded.train), len(loaded.held_out), loaded.refused, loaded.preset) == (420, 60, [], "intergps")
    assert not {problem.id for problem in loaded.train} & {problem.id for problem in loaded.held_out}
    for problem in [*loaded.train, *loaded.held_out]:
        assert problem.kind == "choice"
        assert problem.question.count(IMAGE_PLACEHOLDER) == len(problem.images) == 1
        assert problem.answer in "ABCD"
        assert len(problem.choices) == len(problem.facts["precise_value"]) == 4
        assert all(
            f"({letter}) {choice}" in problem.question for letter, choice in zip("ABCD", problem.choices, strict=True)
        )
    assert Counter(problem.task for problem in loaded.train) == {
        "Length": 215,
        "Angle": 156,
        "Area": 37,
        "Ratio": 10,
        "Angle+Other": 2,
    }


def test_mathvision_sample_with_its_images():
    data = DataConfig(
        source=str(SHARED / "images_sample" / "questions.jsonl"), columns=ColumnsConfig(images="image_path")
    )
    loaded = load_problems(data, 0)
    assert (len(loaded.train), loaded.refused, loaded.preset) == (160, [], "mathvision")
    assert Counter(problem.kind for problem in loaded.train) == {"choice": 95, "number": 64, "math": 1}
    ant = next(problem for problem in loaded.train if problem.id == "questions/33")
    assert ant.question.startswith(f"{IMAGE_PLACEHOLDER}\nWhen the ant <image1> walks from home <image2>")
    graphs = next(problem for problem in loaded.train if problem.id == "questions/2673")
    assert graphs.question.endswith("(A) <image1> (B) <image2> (C) <image3> (D) <image4> (E) <image5>")


def test_mathvision_and_its_two_defects():
    problems, refused = read_all(SHARED / "mathvision" / "test.jsonl.gz")
    assert len(problems) == 3038
    assert refused == {
        "test/528": "question empty",
        "test/2830": "answer unusable: it has lost a backslash; write LaTeX in JSON with two backslashes",
    }
    assert Counter(problem.kind for problem in problems) == {"choice": 1534, "number": 1413, "math": 91}
    assert all(problem.question.count(IMAGE_PLACEHOLDER) == len(problem.images) == 1 for problem in problems)
    boxed = {problem.id: problem.answer for problem in problems if problem.id in ("test/2828", "test/2833")}
    assert boxed == {"test/2828": r"\frac{16}{7}", "test/2833": r"\frac{121}{180}"}


def test_mathvista_and_its_ambiguous_gold():
    problems, refused = read_all(SHARED / "mathvista" / "testmini.json.gz")
    assert len(problems) == 999
    assert refused == {"test/781": "answer unusable: choices C and D both read '18'"}
    assert Counter(problem.kind for problem in problems) == {"choice": 539, "number": 458, "math": 2}
    assert sum("(Unit: years)" in problem.question for problem in problems) == 49


def test_missing_images_are_listed_row_by_row():
    with pytest.raises(
        DataRefusal, match="none of its 304 rows can be used, first .*testmini.jsonl.gz:1: image missing"
    ):
        load_problems(DataConfig(source=str(SHARED / "mathvision" / "testmini.jsonl.gz")), 0)
