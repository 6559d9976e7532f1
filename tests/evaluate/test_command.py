"""`mmhicra eval score` on files of the official layouts, made here."""

from __future__ import annotations

import gzip
import json

import pytest

from mmhicra.cli import main
from mmhicra.core.intervals import Z95
from mmhicra.evaluate.comparison import _compare, mcnemar
from mmhicra.evaluate.scoring.records import SampleRecord
from mmhicra.evaluate.scoring.score import _against_labels

QUESTIONS = [
    {"id": "1", "question": "How many?<image1>", "options": [], "answer": "7", "level": 1, "subject": "counting"},
    {
        "id": "2",
        "question": "Which?",
        "options": ["3", "5", "7", "8", "9"],
        "answer": "B",
        "level": 2,
        "subject": "logic",
    },
    {"id": "3", "question": "How long?", "options": [], "answer": r"\frac{1}{2}", "level": 2, "subject": "logic"},
]
ANSWERS = {"1": r"So \boxed{7}", "2": r"\boxed{\textbf{(B)} 5}", "3": "It is 0.5."}


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def files(tmp_path):
    questions = write_lines(tmp_path / "test.jsonl", QUESTIONS)
    responses = write_lines(tmp_path / "mine.jsonl", [{"id": i, "response": text} for i, text in ANSWERS.items()])
    return ["--benchmark", "mathvision", "--questions", questions, "--responses", responses]


def score(arguments, out, capsys):
    assert main(["eval", "score", *arguments, "--json", "--out", str(out)]) == 0
    return json.loads(capsys.readouterr().out)


def test_both_modes_their_files_and_their_comparison(files, tmp_path, capsys):
    official = score(files, tmp_path / "official.json", capsys)
    robust = score([*files, "--mode", "robust"], tmp_path / "robust.json", capsys)
    assert (official["score"]["correct"], robust["score"]["correct"]) == (2, 3)
    assert official["official_scores"]["-level2"] == "1/2=50.0%"
    assert json.loads((tmp_path / "robust.json").read_text()) == robust
    lines = [json.loads(line) for line in (tmp_path / "robust.samples.jsonl").read_text().splitlines()]
    assert (lines[0]["id"], lines[0]["correct"], lines[0]["method"]) == ("1", True, "boxed")
    assert main(["eval", "score", "--compare", str(tmp_path / "official.json"), str(tmp_path / "robust.json")]) == 0
    said = capsys.readouterr().out
    assert "difference +33.33 points" in said
    assert "mode: official against robust" in said


def test_a_table_for_a_person(files, tmp_path, capsys):
    assert main(["eval", "score", *files, "--out", str(tmp_path / "x.json")]) == 0
    said = capsys.readouterr().out
    assert "66.67" in said
    assert "subject: counting" in said
    assert "0 missing" in said.replace("\n", " ")


def test_questions_without_a_response_are_counted_and_listed(files, tmp_path, capsys):
    write_lines(tmp_path / "mine.jsonl", [{"id": "1", "response": "7", "finish_reason": "length"}])
    result = score(files, tmp_path / "x.json", capsys)
    assert (result["counts"]["missing"], result["missing"], result["counts"]["truncated"]) == (2, ["2", "3"], 1)


def test_mathvista_output_as_published_gzipped(tmp_path, capsys):
    rows = {
        "1": {"pid": "1", "question": "Is it?", "choices": ["Yes", "No"], "precision": None, "answer": "No",
              "question_type": "multi_choice", "answer_type": "text", "metadata": {"task": "t", "skills": ["a", "b"]},
              "response": "The answer is (B) No.", "extraction": "A", "true_false": False},
        "2": {"pid": "2", "question": "How much?", "choices": None, "precision": 1.0, "answer": "1.5",
              "question_type": "free_form", "answer_type": "float", "metadata": {"task": "t", "skills": ["a"]},
              "response": "The total is $1.46.", "extraction": "1.46", "true_false": True},
    }  # fmt: skip
    path = tmp_path / "output_mine.json.gz"
    path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    arguments = ["--benchmark", "mathvista", "--responses", str(path)]
    assert score(arguments, tmp_path / "x.json", capsys)["score"]["correct"] == 2
    stored = score([*arguments, "--stage", "equality"], tmp_path / "x.json", capsys)
    assert (stored["score"]["correct"], stored["labels"]["agreement"]) == (1, 1.0)
    assert stored["official_scores"]["skills"]["a"] == {"accuracy": 0.5, "correct": 1, "total": 2}


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        ([{"id": "9", "response": "7"}], [], "the first has id 9"),
        ([{"response": "7"}], [], "has no 'id'"),
        ([{"id": "1"}], [], "has no 'response'"),
        ([{"id": "1", "response": "7"}] * 2, [], "the id 1 occurs twice"),
        ([{"id": "1", "response": "7"}], ["--stage", "equality"], "leave --stage equality out"),
        ([{"id": "1", "response": "7"}], ["--integer-rule", "legacy"], "is a rule of mathvista"),
    ],
)
def test_refusals_name_what_is_wrong(files, tmp_path, capsys, rows, more, said):
    write_lines(tmp_path / "mine.jsonl", rows)
    assert main(["eval", "score", *files, *more, "--out", str(tmp_path / "x.json")]) == 2
    assert said in capsys.readouterr().err


def test_the_paired_test_is_the_exact_one():
    assert mcnemar(0, 0) == 1
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(3, 3) == 1


def test_a_difference_is_second_minus_first_clustered_by_problem():
    """Six responses to three problems; the variance is that of the problems' sums, with the factor G / (G - 1)."""
    pairs = [(False, True), (False, True), (True, True), (False, False), (True, False), (False, True)]
    found = _compare(pairs, ["a", "a", "b", "b", "c", "c"], ("odd",))
    mean = (3 - 1) / 6
    sums = [2 - 2 * mean, 0 - 2 * mean, 0 - 2 * mean]
    half = Z95 * (3 / 2 * sum(total**2 for total in sums)) ** 0.5 / 6
    assert (found.shared, found.only_first, found.only_second, found.warnings) == (6, 1, 3, ("odd",))
    assert (found.first, found.second) == (2 / 6, 4 / 6)
    change = found.difference
    assert (change.mean, change.low, change.high) == pytest.approx((mean, mean - half, mean + half))
    assert found.p == mcnemar(1, 3)
    alone = _compare([(False, True)] * 2, ["a", "a"], ())
    assert (alone.difference.low, alone.difference.high) == (0.0, 2.0), "one problem says nothing"


def test_agreement_with_labels_is_told_over_all_and_over_what_was_answered():
    verdicts = [(True, True, "7"), (True, False, "7"), (True, False, None), (False, False, None), (False, True, "8")]
    records = [
        SampleRecord(str(number), correct, extracted, "boxed", extracted, "7", "", label=label)
        for number, (correct, label, extracted) in enumerate(verdicts)
    ]
    assert _against_labels(records) == pytest.approx(
        {
            "labelled": 5,
            "agree": 2,
            "agreement": 0.4,
            "answered": 3,
            "agreement_where_answered": 1 / 3,
            "their_score": 0.4,
            "our_score": 0.6,
            "difference_points": 20.0,
        }
    )
