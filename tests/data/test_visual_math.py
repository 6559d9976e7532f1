import json
import re
from dataclasses import asdict
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmhicra.core.errors import DataError
from mmhicra.core.records import IMAGE_PLACEHOLDER, Problem
from mmhicra.core.resources import asset_path
from mmhicra.data.generated.drawing import SIDE, draw
from mmhicra.data.generated.tasks import TASKS
from mmhicra.data.generated.visual_math import (
    PHRASES,
    Plan,
    check_steps,
    error_kind,
    generate,
    plans,
    read_plan,
    regenerate,
    solve,
    split_of,
)

TRAIN = generate("train", 180, seed=5)
HELD_OUT = generate("held_out", 360, seed=5)
PUBLISHED = {g["text"] for g in json.loads(asset_path("strategic_grams/published_249.json").read_text())["grams"]}


def key(problem: Problem) -> str:
    return json.dumps(problem.facts["configuration"], sort_keys=True)


def test_equal_arguments_give_equal_problems_and_other_seeds_do_not():
    assert generate("train", 60, seed=5) == TRAIN[:60]
    assert all(a != b for a, b in zip(generate("train", 60, seed=6), TRAIN[:60], strict=True))


def test_ids_are_stable_and_unique():
    assert [p.id for p in TRAIN[:2]] == ["visual-math/train/5/000000", "visual-math/train/5/000001"]
    assert len({p.id for p in TRAIN + HELD_OUT}) == len(TRAIN) + len(HELD_OUT)


def test_the_splits_share_no_configuration_and_held_out_ones_are_distinct():
    train, held_out = {key(p) for p in TRAIN}, [key(p) for p in HELD_OUT]
    assert not train & set(held_out)
    assert len(set(held_out)) == len(held_out)
    assert all(split_of(p.facts["configuration"]) == "held_out" for p in HELD_OUT)


@pytest.mark.parametrize("task", TASKS)
def test_about_an_eighth_of_a_tasks_configurations_is_held_out(task):
    rng = Random(0)
    drawn = {json.dumps(c, sort_keys=True): c for c in (TASKS[task].sample(rng) for _ in range(3000))}
    share = sum(split_of(c) == "held_out" for c in drawn.values()) / len(drawn)
    assert 0.10 < share < 0.16
    assert len(drawn) > 1000
    assert len(generate("held_out", 80, seed=0, tasks=[task])) == 80


def test_six_tasks_take_turns_and_each_has_reliable_and_unreliable_plans():
    assert [p.task for p in TRAIN[:12]] == list(TASKS) * 2
    assert len(TASKS) == 6
    for task in TASKS:
        assert {plan.name: plan.reliable for plan in plans(task)} == {
            "careful": True,
            "short": True,
            "guess": False,
            "check": True,
        }


@pytest.mark.parametrize("problem", TRAIN[:6] + HELD_OUT[:6], ids=lambda p: p.id)
def test_a_problem_is_whole(problem):
    assert problem.question.count(IMAGE_PLACEHOLDER) == len(problem.images) == 1
    assert problem.images[0].open().size == (SIDE, SIDE)
    assert problem.images[0].reference == f"{problem.id}.png"
    assert json.loads(json.dumps(problem.facts)) == problem.facts


def independent_answer(problem: Problem) -> int:
    c = problem.facts["configuration"]
    match c["task"]:
        case "count":
            return sum(c["asked"] in cell for cell in c["cells"])
        case "bars":
            low, *_, high = sorted(c["heights"])
            return {"difference": high - low, "total": high + low, "lead": high - c["heights"][0]}[c["asked"]]
        case "table":
            return sum(row[c["heads"].index(c["asked"])] for row in c["rows"])
        case "sum":
            rows = [c["cells"][start : start + 3] for start in (0, 3, 6)]
            where, kind = c["asked"].split()
            if kind == "diagonal":
                return sum(row[i if where == "falling" else 2 - i] for i, row in enumerate(rows))
            index = {"top": 0, "left": 0, "middle": 1, "bottom": 2, "right": 2}[where]
            return sum((rows if kind == "row" else list(zip(*rows, strict=True)))[index])
        case "angle":
            return (len(c["angles"]) - 2) * 180 - sum(a for a in c["angles"] if a)
        case _:
            at = {colour: complex(*divmod(place, 3)) for colour, place in c["places"].items()}
            apart = at[c["asked"][0]] - at[c["asked"][1]]
            return int(abs(apart.real) + abs(apart.imag))


def test_answers_are_right():
    for problem in TRAIN + HELD_OUT:
        assert problem.answer == str(independent_answer(problem)), problem.facts["configuration"]


@pytest.mark.parametrize("plan", PHRASES)
def test_worked_solutions_follow_their_plan_without_a_wrong_step(plan):
    for number, problem in enumerate(TRAIN):
        solution = solve(problem, plan, Random(number))
        assert solution.text.endswith(f"\\boxed{{{solution.answer}}}")
        assert solution.correct == (solution.answer == problem.answer)
        assert solution.correct or plan == "guess"
        assert check_steps(solution.text, problem) is None
        assert read_plan(solution.text, problem) == (("guess", "check") if plan == "check" else (plan,))


@pytest.mark.slow
def test_a_guess_pays_in_about_a_quarter_of_the_problems_of_every_task():
    for task in TASKS:
        some = generate("train", 400, seed=1, tasks=[task])
        assert 0.18 < sum(solve(p, "guess", Random(0)).correct for p in some) / 400 < 0.33


def corrupt(problem: Problem, plan: str, which: int) -> tuple[str, str, str, str]:
    """A solution with one wrong value: the response, the value's name, what it should be and what it is."""
    steps = problem.facts["plans"][plan]["steps"]
    text = solve(problem, plan, Random(0)).text
    place = text.rindex(problem.facts["plans"][plan]["text"])
    values = [step["value"] for step in steps] + [problem.facts["plans"][plan]["answer"]]
    for value in values[:which]:
        place = text.index(value, place) + len(value)
    at = text.index(values[which], place)
    wrong = "red" if values[which] == "blue" else "997" if values[which].isdigit() else "blue"
    name = steps[which]["name"] if which < len(steps) else "boxed"
    return text[:at] + wrong + text[at + len(values[which]) :], name, values[which], wrong


@settings(max_examples=100, deadline=None)
@given(problem=st.sampled_from(TRAIN), plan=st.sampled_from(sorted(PHRASES)), data=st.data())
def test_a_corrupted_step_is_found(problem, plan, data):
    broken = data.draw(st.integers(0, len(problem.facts["plans"][plan]["steps"])), label="which value")
    response, name, expected, wrong = corrupt(problem, plan, broken)
    found = check_steps(response, problem)
    assert found is not None
    assert asdict(found) == {"plan": plan, "name": name, "expected": expected, "found": wrong}


@settings(max_examples=100, deadline=None)
@given(problem=st.sampled_from(TRAIN), plan=st.sampled_from(sorted(PHRASES)), data=st.data())
def test_a_wrong_value_is_an_execution_error_unless_the_plan_misses_the_answer_anyway(problem, plan, data):
    broken = data.draw(st.integers(0, len(problem.facts["plans"][plan]["steps"])), label="which value")
    response, *_ = corrupt(problem, plan, broken)
    misses = not solve(problem, plan, Random(0)).correct
    assert error_kind(response, problem) == ("planning" if misses else "execution")


UNLUCKY = [problem for problem in TRAIN if not solve(problem, "guess", Random(0)).correct]


@settings(max_examples=50, deadline=None)
@given(problem=st.sampled_from(UNLUCKY), data=st.data())
def test_the_plan_announced_last_decides(problem, data):
    guess = solve(problem, "guess", Random(1)).text
    assert error_kind(guess, problem) == "planning"
    careful, *_ = corrupt(problem, "careful", data.draw(st.integers(0, 2), label="which value"))
    assert error_kind(f"{guess} {careful}", problem) == "execution"
    assert error_kind(f"{careful} {guess}", problem) == "planning"


@pytest.mark.parametrize("problem", UNLUCKY[:12], ids=lambda p: p.id)
def test_a_response_cut_off_is_judged_by_the_plan_it_had_reached(problem):
    phrase = PHRASES["careful"][0]
    careful = f"{phrase} {problem.facts['plans']['careful']['text']}. \\boxed{{{problem.answer}"
    kinds = [error_kind(careful[:end], problem) for end in range(len(careful) + 1)]
    announced = len(phrase.rstrip(":"))
    assert kinds == ["planning"] * announced + ["execution"] * (len(kinds) - announced)
    check = solve(problem, "check", Random(0)).text
    doubt = min(check.find(phrase.rstrip(":")) for phrase in PHRASES["check"] if phrase.rstrip(":") in check)
    assert error_kind(check[:doubt], problem) == "planning"
    assert error_kind(check[: doubt + 30], problem) == "execution"


def test_a_training_problem_is_drawn_again_from_its_id_and_task():
    assert [regenerate(p.id, p.task) for p in TRAIN] == TRAIN
    with pytest.raises(DataError, match="held_out.*cannot be drawn again"):
        regenerate(HELD_OUT[0].id, HELD_OUT[0].task)
    with pytest.raises(DataError, match="cannot be drawn again"):
        regenerate("visual-math/train/5/1", "count")
    with pytest.raises(DataError, match="'maze'"):
        regenerate(TRAIN[0].id, "maze")


def test_stopping_short_adding_values_and_planless_answers_are_wrong_steps():
    problem = TRAIN[0]
    careful = solve(problem, "careful", Random(0)).text
    short = check_steps(careful[: careful.index("\\boxed")], problem)
    assert short is not None
    assert (short.name, short.found) == ("boxed", None)
    surplus = check_steps(careful + " 12", problem)
    assert surplus is not None
    assert (surplus.name, surplus.found) == ("surplus", "12")
    none = check_steps(f"\\boxed{{{problem.answer}}}", problem)
    assert none is not None
    assert none.name == "plan"


def spans(phrases: set[str], text: str) -> set[tuple[int, int]]:
    """Where any of the phrases stands in a text, as whole words, overlaps included."""
    hits = (re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", text.lower()) for phrase in phrases)
    return {hit.span() for hits_of_one in hits for hit in hits_of_one}


@pytest.mark.parametrize("plan", PHRASES)
def test_the_published_grams_in_a_solution_are_its_plan_phrases_and_nothing_else(plan):
    announced = {phrase.lower().rstrip(":") for phrases in PHRASES.values() for phrase in phrases}
    assert announced <= PUBLISHED
    for number, problem in enumerate(TRAIN):
        text = solve(problem, plan, Random(number)).text
        choices = spans(announced, text)
        assert len(choices) == (2 if plan == "check" else 1)
        assert all(
            any(first <= start and end <= last for first, last in choices) for start, end in spans(PUBLISHED, text)
        )


def test_images_differ_with_the_configuration_and_with_nothing_else_but_chance():
    for task in TASKS:
        configurations = [p.facts["configuration"] for p in TRAIN if p.task == task]
        shown = {json.dumps({**c, "asked": ""}, sort_keys=True): c for c in configurations}
        assert len({draw(c, Random(0)) for c in shown.values()}) == len(shown)
        assert draw(configurations[0], Random(1)) == draw(dict(configurations[0]), Random(1))


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(DataError, match=r"'maze'.*count"):
        generate("train", 1, seed=0, tasks=["maze"])
    with pytest.raises(DataError, match=r"data\.tasks is empty"):
        generate("train", 1, seed=0, tasks=[])
    with pytest.raises(DataError, match="'bars' has too few held-out"):
        generate("held_out", 2000, seed=0, tasks=["bars"])


def test_plans_are_records():
    assert plans("sum")[0] == Plan("careful", PHRASES["careful"], True)
