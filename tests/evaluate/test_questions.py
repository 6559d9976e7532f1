"""Which questions a benchmark's configuration asks, and how."""

import json

import pytest
from PIL import Image

from mmhicra.config import BenchmarkConfig
from mmhicra.evaluate import questions
from mmhicra.evaluate.questions import load_question_set
from mmhicra.evaluate.runner import score_responses
from mmhicra.evaluate.scoring.records import Response
from mmhicra.rewards.workers import Verifier


@pytest.fixture
def source(tmp_path):
    """Six questions of MathVision whose images lie in another folder."""
    (tmp_path / "pictures").mkdir()
    rows = []
    for number in range(6):
        Image.new("RGB", (60, 60 + number)).save(tmp_path / "pictures" / f"{number}.png")
        row = {"id": str(number), "question": f"What ({number})? <image1>", "options": [], "image": f"{number}.png"}
        rows.append({**row, "answer": "7", "level": 1, "subject": "counting"})
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def asked(folder, **options):
    given = {"source": str(folder / "test.jsonl"), "images": str(folder / "pictures"), **options}
    return load_question_set(BenchmarkConfig(name="mathvision", **given))


def test_subset_and_limit_choose_the_questions_in_their_order(source):
    (source / "some.txt").write_text("5\n1\n3\n")
    for options, ids in (
        ({}, ["0", "1", "2", "3", "4", "5"]),
        ({"limit": 2}, ["0", "1"]),
        ({"subset": str(source / "some.txt")}, ["1", "3", "5"]),
        ({"subset": str(source / "some.txt"), "limit": 2}, ["1", "3"]),
    ):
        found = asked(source, **options)
        assert [item.id for item in found.items] == ids
        assert [problem.id for problem in found.problems] == [f"mathvision/{identity}" for identity in ids]
        assert all(problem.images[0].open().height == 60 + int(problem.id[-1]) for problem in found.problems)
        assert found.facts()["count"] == len(ids)
        assert (found.facts()["limit"], found.facts()["subset"]) == (options.get("limit"), options.get("subset"))


def test_a_prompt_may_be_named_and_is_the_first_of_the_card_otherwise(source):
    plain, boxed = asked(source), asked(source, prompt="boxed")
    assert plain.prompt == plain.card.prompts[0]
    assert boxed.prompt == "boxed"
    assert plain.problems[0].question == asked(source, prompt=plain.prompt).problems[0].question
    assert plain.problems[0].question != boxed.problems[0].question


def test_a_result_says_how_long_responses_were_and_how_they_came_about(source):
    found = asked(source, limit=3)
    said = [(r" So \boxed{7} ", 10), (r"\boxed{8}", 20), (r"\boxed{X Y}", None)]
    responses = [[Response(i.id, text, tokens=n)] for i, (text, n) in zip(found.items, said, strict=True)]
    scores = score_responses(found, responses, Verifier(workers=1), {"seed": 5})
    assert scores.keys() == set(found.card.modes)
    for scored in scores.values():
        assert scored.result["tokens"] == 15
        assert scored.result["score"]["correct"] == 1
        assert (scored.result["generation"]["seed"], scored.result["generation"]["prompt"]) == (5, found.prompt)
        assert (scored.result["missing"], scored.result["counts"]["missing"]) == ([], 0)
    assert [record.extracted for record in scores["robust"].records] == ["7", "8", "X Y"]


def test_source_split_and_images_are_those_that_are_configured(monkeypatch):
    told = []
    monkeypatch.setattr(questions, "load_questions", lambda benchmark, *about: told.append(about) or [])
    load_question_set(BenchmarkConfig(name="emma", source="there", split="validation", images="pictures"))
    load_question_set(BenchmarkConfig(name="emma"))
    assert told == [("there", "validation", "pictures"), (None, None, None)]
