"""Questions, responses, subsets and results that are odd are refused by file and row."""

import json

import pytest

from mmhicra.cli import main
from mmhicra.core.errors import ConfigError
from mmhicra.evaluate.benchmarks.subsets import read_ids

MATHVISTA = {
    "pid": "1", "question": "Which?", "answer": "a", "question_type": "multi_choice", "answer_type": "text",
    "choices": ["a", "b"], "metadata": {"skills": ["x"], "task": "t"}, "response": "It is a.", "image": "a.png",
}  # fmt: skip
ODD = [
    ("metadata", "plain", "'metadata' is 'plain', not an object"),
    ("metadata", [1], r"'metadata' is [1], not an object"),
    ("metadata", {"skills": 7}, "skills in 'metadata' is 7, not a list of words"),
    ("metadata", {"skills": [None]}, "skills in 'metadata' is [None]"),
    ("choices", None, "is a choice question without choices (None)"),
    ("choices", "[" * 9000, "is a choice question without choices"),
    ("choices", 7, "is a choice question without choices (7)"),
    ("sample", "x", "'sample' is 'x', not a count"),
    ("sample", -1, "'sample' is -1, not a count"),
    ("sample", 1e300, "'sample' is 1e+300, not a count"),
    ("sample", 0.5, "'sample' is 0.5, not a count"),
    ("tokens", [1], "'tokens' is [1], not a count"),
    ("pid", None, "has no 'pid'"),
]


def score(row, tmp_path, *options, benchmark="mathvista"):
    path = tmp_path / "responses.jsonl"
    path.write_text(json.dumps(MATHVISTA | {"pid": "0"}) + "\n" + json.dumps(row) + "\n")
    return main(
        [
            "eval",
            "score",
            "--benchmark",
            benchmark,
            "--responses",
            str(path),
            "--out",
            str(tmp_path / "o.json"),
            *options,
        ]
    )


@pytest.mark.parametrize(("column", "value", "says"), ODD)
def test_an_odd_row_is_named(column, value, says, tmp_path, capsys):
    assert score(MATHVISTA | {column: value}, tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "responses.jsonl:2" in line
    assert says in line


@pytest.mark.parametrize(
    ("column", "value"),
    [("finish_reason", [1]), ("response", 7), ("response", {"a": 1}), ("extraction", [2]),
     ("metadata", '{"skills": []}'),
     ("metadata", None), ("precision", "x"), ("true_false", "yes"), ("response", "\ud800"), ("image", 7), ("unit", {})],
)  # fmt: skip
def test_what_can_be_read_is_scored(column, value, tmp_path, capsys):
    assert score(MATHVISTA | {column: value}, tmp_path) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b'{"benchmark": 7', b"{" * 9000, b'{"ids": 7, "benchmark": "emma"}', None]
)
def test_an_odd_subset_is_named(content, tmp_path):
    path = tmp_path / "ids.json"
    path.write_bytes(b"{}" if content is None else content)
    with pytest.raises(ConfigError, match=r"subset .*ids.json") as refusal:
        read_ids(str(path), "emma")
    assert len(str(refusal.value)) < 400
