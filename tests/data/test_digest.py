"""A data set has another digest if anything that a run reads of it is another."""

import io
from dataclasses import replace

import pytest
from PIL import Image

from mmhicra.core.errors import DataError
from mmhicra.core.records import Problem, ProblemImage
from mmhicra.data.digest import digest_problems
from mmhicra.data.stream import ProblemStream


def picture(colour):
    return Image.new("RGB", (8, 6), colour)


def encoded(colour):
    file = io.BytesIO()
    picture(colour).save(file, "PNG")
    return file.getvalue()


PROBLEM = Problem("a", "<image>Which?", (ProblemImage(picture("red"), "x.png"),), "A", "choice", ("frog", "whale"), "t")


@pytest.mark.parametrize(
    "change",
    [
        {"id": "b"},
        {"question": "<image>What?"},
        {"answer": "B"},
        {"kind": "text"},
        {"task": "u"},
        {"facts": {"width": 112}},
        {"choices": ("frog", "whale", "trout")},
        {"choices": ("whale", "frog")},
        {"images": (ProblemImage(picture("blue"), "x.png"),)},
        {"images": (ProblemImage(picture("red").resize((6, 8)), "x.png"),)},
        {"images": ()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_that_is_read_counts(change):
    assert digest_problems([replace(PROBLEM, **change)]) != digest_problems([PROBLEM])


def test_what_is_not_read_does_not_count():
    moved = (ProblemImage(picture("red"), "elsewhere.png"),)
    assert digest_problems([replace(PROBLEM, source="y.jsonl:3", images=moved)]) == digest_problems([PROBLEM])


def test_the_order_counts():
    other = replace(PROBLEM, id="b")
    assert digest_problems([PROBLEM, other]) != digest_problems([other, PROBLEM])


def test_bytes_count_by_their_content():
    def digest(colour):
        return digest_problems([replace(PROBLEM, images=(ProblemImage(encoded(colour), "x.png"),))])

    assert digest("red") == digest("red") != digest("blue")


def test_a_file_that_was_replaced_or_lost_is_seen_on_resume(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(encoded("red"))
    problem = replace(PROBLEM, images=(ProblemImage(path, "x.png"),))
    state = ProblemStream([problem], 0).state()
    ProblemStream([problem], 0).restore(state)
    for change in (lambda: path.write_bytes(encoded("blue")), path.unlink):
        change()
        with pytest.raises(DataError, match="cannot resume: problems of the training data changed"):
            ProblemStream([problem], 0).restore(state)
