import json
from functools import cache
from itertools import product
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageChops
from transformers import AutoProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from mmhicra.core.errors import DataError
from mmhicra.core.records import IMAGE_PLACEHOLDER
from mmhicra.core.resources import asset_path
from mmhicra.data.generated.drawing import SIDE
from mmhicra.data.generated.ledger import (
    CONNECTIVES,
    DOUBTS,
    LARGEST_SUM,
    PHRASES,
    TASKS,
    check_steps,
    error_kind,
    generate,
    read_plan,
    regenerate,
    right_plans,
    solve,
    split_of,
)
from mmhicra.data.generated.visual_math import WrongStep
from mmhicra.hicra.grams import GramLibrary, normalise
from mmhicra.hicra.planning import PlanningMatcher
from tools.tiny_vlm.warmup_report import boxed, respond

FOLDER = asset_path("lab_vlm")
TRAIN = generate("train", 160, seed=5)
HELD_OUT = generate("held_out", 160, seed=5)
problems = st.builds(
    lambda seed, task: generate("train", 1, seed, [task])[0], st.integers(0, 10**6), st.sampled_from(TASKS)
)


def plan_sequences(rows, most=3):
    attempts = st.lists(st.sampled_from(sorted(PHRASES)), min_size=1, max_size=most)
    return st.lists(attempts, min_size=rows, max_size=rows)


@cache
def load_tokenizer():
    return AutoTokenizer.from_pretrained(asset_path("tiny_vlm"))


def replace_last(text, old, new):
    head, found, tail = text.rpartition(old)
    assert found
    return head + new + tail


def independent_total(row, plan):
    first, middle, third = row
    if plan == "even":
        return 3 * middle
    return 2 * first + middle if plan == "mirror" else first + middle + (0 if third is None else third)


@settings(max_examples=100, deadline=None)
@given(problem=problems)
def test_only_the_right_plans_reach_the_answer(problem):
    rows = problem.facts["configuration"]["rows"][: int(problem.task[6])]
    rule = problem.task[8:]
    right = tuple("careful" if row[2] is not None else rule for row in rows)
    assert right_plans(problem) == right
    for row, plan in zip(rows, right, strict=True):
        hidden = 2 * row[1] - row[0] if rule == "even" else row[0]
        third = hidden if row[2] is None else row[2]
        assert 1 <= third <= 9
        assert [name for name in PHRASES if independent_total(row, name) == row[0] + row[1] + third] == [plan]
    sums = {
        choice: sum(independent_total(row, plan) for row, plan in zip(rows, choice, strict=True))
        for choice in product(PHRASES, repeat=len(rows))
    }
    assert [choice for choice, total in sums.items() if str(total) == problem.answer] == [right]
    assert max(sums.values()) <= LARGEST_SUM


@settings(max_examples=100, deadline=None)
@given(problem=problems, data=st.data())
def test_a_solution_is_read_back_and_right_exactly_if_its_adopted_plans_are(problem, data):
    choices = data.draw(plan_sequences(len(problem.facts["rows"])))
    solution = solve(problem, choices, Random(0))
    assert read_plan(solution.text, problem) == solution.choices == tuple(map(tuple, choices))
    assert check_steps(solution.text, problem) is None
    assert solution.text.endswith(f"\\boxed{{{solution.answer}}}")
    assert solution.correct == (solution.answer == problem.answer)
    assert solution.correct == (tuple(row[-1] for row in choices) == right_plans(problem))
    # a right solution that failed could not be read
    assert error_kind(solution.text, problem) == ("execution" if solution.correct else "planning")


@settings(max_examples=60, deadline=None)
@given(problem=problems, data=st.data())
def test_the_published_grams_in_a_solution_are_the_announced_ones_and_nothing_else(problem, data):
    choices = data.draw(plan_sequences(len(problem.facts["rows"])))
    text = solve(problem, choices, Random(0)).text
    tokenizer = load_tokenizer()
    matches = PlanningMatcher(GramLibrary.load("published_249"), tokenizer).matches(tokenizer(text).input_ids)
    spans = {(match.start_char, match.end_char) for match in matches}
    outermost = sorted(s for s in spans if not any(o != s and o[0] <= s[0] and s[1] <= o[1] for o in spans))
    found = [normalise(text[start:end]) for start, end in outermost]
    known = {
        normalise(phrase).rstrip(":,"): name
        for name, phrases in [*PHRASES.items(), ("doubt", DOUBTS), ("next", CONNECTIVES)]
        for phrase in phrases
    }
    expected = []
    for number, row in enumerate(choices):
        expected += ["next"] if number else []
        for place, plan in enumerate(row):
            expected += ["doubt", plan] if place else [plan]
    assert [known.get(gram, gram) for gram in found] == expected


@settings(max_examples=100, deadline=None)
@given(problem=problems, data=st.data())
def test_a_wrong_value_is_found_and_is_an_error_of_execution(problem, data):
    right = [[plan] for plan in right_plans(problem)]
    text = solve(problem, right, Random(0)).text
    numbers = [place for place, character in enumerate(text) if character.isdigit() and not text[place - 1].isdigit()]
    at = data.draw(st.sampled_from(numbers))
    broken = f"{text[:at]}9{text[at:]}"
    wrong = check_steps(broken, problem)
    assert wrong is not None
    assert wrong.found == f"9{wrong.expected}"
    assert error_kind(broken, problem) == "execution"


def three_rows():
    return next(p for p in TRAIN if right_plans(p) == ("careful", "even", "careful"))


def test_the_first_divergence_decides_what_kind_of_error_it_is():
    problem = three_rows()
    wrong_second = solve(problem, [["careful"], ["mirror"], ["careful"]], Random(0)).text
    first, second, *_ = (row["plans"] for row in problem.facts["rows"])
    slip_first = wrong_second.replace(first["careful"]["text"], "9 + 9 + 9 = 99")
    assert error_kind(slip_first, problem) == "execution"
    slip_second = wrong_second.replace(second["mirror"]["text"], "9 + 9 + 9 = 99")
    assert error_kind(slip_second, problem) == "planning"
    doubted = solve(problem, [["even", "careful"], ["even"], ["careful"]], Random(0)).text
    slip_doubted = doubted.replace(first["even"]["text"], "9 + 9 + 9 = 99", 1)
    assert check_steps(slip_doubted, problem) == WrongStep(
        "even", "row 1 first", first["even"]["steps"][0]["value"], "9"
    )
    slip_box = replace_last(slip_doubted, problem.answer, "44")
    assert error_kind(slip_box, problem) == "execution"
    cut = doubted[: doubted.rindex(" = ")]
    assert error_kind(cut, problem) == "execution"


def test_missing_unannounced_and_surplus_rows_are_errors_of_planning():
    problem = three_rows()
    good = solve(problem, [[plan] for plan in right_plans(problem)], Random(0)).text
    sentences = good.split(". ")
    short = ". ".join([*sentences[:2], "9 + 9 = 18", sentences[-1]])
    long = ". ".join([*sentences[:3], sentences[2], *sentences[3:]])
    phrase = next(phrase for phrase in PHRASES["even"] if phrase[1:] in sentences[1])
    unannounced = good.replace(f"{phrase[0].lower()}{phrase[1:]} ", "")
    assert unannounced != good
    for response, row, plans in (
        (short, "row 3", (("careful",), ("even",), ())),
        (long, "row 4", (("careful",), ("even",), ("careful",), ("careful",))),
        (unannounced, "row 2", (("careful",), (), ("careful",))),
        ("\\boxed{9}", "row 1", ((), (), ())),
    ):
        assert read_plan(response, problem) == plans
        assert check_steps(response, problem) == WrongStep("none", row, None, None)
        assert error_kind(response, problem) == "planning"


def test_a_problem_is_whole_and_its_image_shows_its_rows():
    for problem in TRAIN[:16]:
        assert problem.question.count(IMAGE_PLACEHOLDER) == len(problem.images) == 1
        assert problem.images[0].open().size == (SIDE, SIDE)
        assert (problem.source, problem.kind) == ("visual-ledger", "number")
        assert json.loads(json.dumps(problem.facts)) == problem.facts
        assert problem.question.endswith(("the steps are even.", "the ends are alike."))
    one, other = (next(p for p in TRAIN if p.facts["configuration"]["rows"][0][2] == third) for third in (None, 1))
    corner = (2 * SIDE // 3, 0, SIDE, SIDE // 3)
    shown = [p.images[0].open().convert("L").crop(corner) for p in (one, other)]
    assert ImageChops.difference(*shown).getbbox() is not None


def test_one_row_two_rows_and_all_rows_come_one_to_one_to_two_and_both_kinds_equally():
    counts = [len(p.facts["rows"]) for p in TRAIN]
    assert [counts.count(rows) for rows in (1, 2, 3)] == [40, 40, 80]
    assert {task: sum(p.task == task for p in TRAIN) for task in TASKS} == dict(
        zip(TASKS, (20, 20, 20, 20, 40, 40), strict=True)
    )
    hidden = [row["kind"] == "hidden" for p in TRAIN for row in p.facts["rows"]]
    assert 0.4 < sum(hidden) / len(hidden) < 0.6


def test_a_training_problem_is_a_function_of_its_id_and_task():
    for problem in TRAIN[:24]:
        again = regenerate(problem.id, problem.task)
        assert again == problem
    assert generate("train", 8, seed=6) != TRAIN[:8]
    with pytest.raises(DataError, match="cannot be drawn again"):
        regenerate(HELD_OUT[0].id, HELD_OUT[0].task)


def test_the_splits_share_no_image_and_held_out_images_are_distinct():
    keys = [[json.dumps(p.facts["configuration"]["rows"]) for p in some] for some in (TRAIN, HELD_OUT)]
    assert not set(keys[0]) & set(keys[1])
    assert len(set(keys[1])) == len(HELD_OUT)
    assert {split_of(p.facts["configuration"]) for p in HELD_OUT} == {"held_out"}
    assert {split_of(p.facts["configuration"]) for p in TRAIN} == {"train"}


def test_solutions_fit_the_rollout_limit():
    def longest(attempts):
        texts = [
            solve(p, [["even"] * number for number in attempts], Random(seed)).text
            for seed, p in enumerate(TRAIN)
            if len(p.facts["rows"]) == 3
        ]
        return max(len(ids) for ids in load_tokenizer()(texts).input_ids)

    assert longest((1, 1, 1)) <= 70
    assert longest((2, 2, 1)) <= 110
    assert longest((2, 2, 2)) <= 128


def test_what_cannot_be_drawn_or_solved_is_refused():
    with pytest.raises(DataError, match=r"'maze'.*ledger1_even"):
        generate("train", 1, seed=0, tasks=["maze"])
    with pytest.raises(DataError, match=r"data\.tasks is empty"):
        generate("train", 1, seed=0, tasks=[])
    with pytest.raises(ValueError, match="3 rows that count"):
        solve(three_rows(), [["even"]], Random(0))


# ---- the shipped model


def test_the_shipped_model_is_the_tiny_vlm_taught_something_else():
    own, tiny = (
        Qwen2_5_VLForConditionalGeneration.from_pretrained(f, dtype="auto") for f in (FOLDER, asset_path("tiny_vlm"))
    )
    assert {parameter.dtype for parameter in own.parameters()} == {torch.bfloat16}
    assert (FOLDER / "tokenizer.json").read_bytes() == (asset_path("tiny_vlm") / "tokenizer.json").read_bytes()
    weights, before = own.state_dict(), tiny.state_dict()
    assert weights.keys() == before.keys()
    assert {name for name in weights if torch.equal(weights[name], before[name])} == {
        name for name in weights if ".visual." in name
    }


@pytest.mark.slow
def test_the_shipped_model_answers_in_form():
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32)
    some = HELD_OUT[:48]
    responses = respond(model, AutoProcessor.from_pretrained(FOLDER), some, seed=0, max_new_tokens=128)
    assert sum(boxed(response) is not None for response in responses) >= 46
    announced = [row for r, p in zip(responses, some, strict=True) for row in read_plan(r, p)]
    assert sum(bool(row) for row in announced) >= 0.95 * len(announced)
    assert {row[0] for row in announced if row} == set(PHRASES)
    assert sum(check_steps(r, p) is None for r, p in zip(responses, some, strict=True)) >= 36


def test_the_report_says_how_the_model_was_made_and_what_is_left_to_learn():
    report = json.loads((FOLDER / "warmup.json").read_text())
    assert report["seed"] == 0
    assert "tools.tiny_vlm.ledger_warmup" in report["command"]
    assert 0.1 <= report["accuracy"] <= 0.27
    assert report["accuracy_by_rows"]["1"] > report["accuracy_by_rows"]["2"] > report["accuracy_by_rows"]["3"]
    assert report["boxed"] >= 0.98
    assert report["share_of_errors"]["planning"] > report["share_of_errors"]["execution"] > 0
    assert all(forced["accuracy"] >= 0.95 for forced in report["forced_plans"].values())
    assert 0.15 <= report["doubted_when_right"] <= 0.35
    assert report["tokens_max"] <= 128
