r"""The embedded default task: visual maths drawn from a seed, with known plans and known intermediate values.

Every image is 84x84 pixels, a square of three rows and columns of cells (see `visual_drawing`). Six tasks:

| task  | the image                    | the question                         | the guess, and when it is right        |
|-------|------------------------------|--------------------------------------|----------------------------------------|
| count | coloured shapes and gaps     | how many have a colour or shape      | rows are alike: equal row counts       |
| bars  | three bars of height 1 to 9  | difference, total, lead of extremes  | outer bars are the extremes            |
| table | headings A, B, C, two rows   | the sum of the numbers under one     | headings are in order                  |
| sum   | nine numbers                 | the sum of a row, column or diagonal | steps are even: an arithmetic sequence |
| angle | triangle or quadrilateral    | the missing angle                    | two angles are alike: symmetry         |
| grid  | three coloured shapes        | steps between two, along the grid    | both share a row                       |

A solution follows one of four plans, and says which by a Strategic Gram of the published list:

* `careful` writes down what the image shows, then computes in small steps: right whenever it is carried out well.
* `short` computes at once: the same mathematics with fewer words, less reliable where there is much to see.
* `guess` makes an assumption that few images fit: a wrong plan, even when carried out perfectly.
* `check` guesses, doubts, and goes the careful way: right, but twice as long.

Other words of a solution avoid the published grams, so a planning mask marks exactly the choices. Since every value a
solution states is known beforehand (`Problem.facts`), `read_plan` and `check_steps` tell a wrong plan from a wrong
execution without a judge. Configurations, not pictures, are split into `train` and `held_out` by a stable hash.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from mmhicra.core.errors import DataError
from mmhicra.core.records import IMAGE_PLACEHOLDER, Problem, ProblemImage
from mmhicra.data.generated.drawing import draw
from mmhicra.data.generated.tasks import TASKS, Configuration, Route, Step

Split = Literal["train", "held_out"]
ErrorKind = Literal["planning", "execution"]

HELD_OUT_PER_MILLE = 130
LUCK = 0.25
"""Share of problems whose guess happens to give the answer, the same for every task."""
GIVE_UP_AFTER = 20_000
"""Draws without a fresh configuration after which a task counts as exhausted."""

PHRASES: dict[str, tuple[str, ...]] = {
    "careful": ("Let's break this down:", "Step by step:"),
    "short": ("A simpler approach is", "We can use"),
    "guess": ("It seems", "We can see"),
    "check": ("Let me verify:", "Wait, that's not right:"),
}
"""How a solution announces each plan: Strategic Grams of the published list, with the colon that follows some."""

_PLAN_OF_PHRASE = {phrase.lower().rstrip(":"): plan for plan, phrases in PHRASES.items() for phrase in phrases}
_ANY_PHRASE = re.compile("|".join(re.escape(phrase) for phrase in _PLAN_OF_PHRASE), re.IGNORECASE)
_TRAINING_ID = re.compile(r"visual-math/train/(-?\d+)/(\d+)")
_VALUE = re.compile(r"\d+|\b(?:red|green|blue|circle|square|triangle|none|[ABC])\b")


@dataclass(frozen=True)
class Plan:
    """A way to solve a problem.

    Attributes:
        name: `careful`, `short`, `guess` or `check`.
        phrases: the Strategic Grams that announce it.
        reliable: whether carrying it out without a mistake always gives the answer.
    """

    name: str
    phrases: tuple[str, ...]
    reliable: bool


@dataclass(frozen=True)
class Solution:
    """A worked solution of a problem; `correct` says whether its plan leads to the gold answer here."""

    text: str
    plan: str
    answer: str
    correct: bool


@dataclass(frozen=True)
class WrongStep:
    """The first value that is not what its plan calls for; `found` is None where the response stops short."""

    plan: str
    name: str
    expected: str | None
    found: str | None


def plans(task: str) -> tuple[Plan, ...]:
    """The plans of a task, `check` (guess, then careful) last.

    Raises:
        DataError: there is no such task.
    """
    _known(task)
    return tuple(Plan(name, phrases, name != "guess") for name, phrases in PHRASES.items())


def generate(split: Split, count: int, seed: int, tasks: Sequence[str] | None = None) -> list[Problem]:
    """Draw `count` problems, the tasks taking turns; equal arguments give equal problems.

    Held-out problems of one call have distinct configurations.

    Raises:
        DataError: a task is unknown, or has too few held-out configurations.
    """
    names = [_known(task) for task in (TASKS if tasks is None else tasks)]
    if not names and count:
        raise DataError("data.tasks is empty: name at least one of " + ", ".join(TASKS))
    taken: set[str] = set()
    return [_draw_problem(split, seed, index, names[index % len(names)], taken) for index in range(count)]


def regenerate(problem_id: str, task: str) -> Problem:
    """Draw the training problem of an id once more: it is a function of its id and its task.

    Raises:
        DataError: the id is not that of a training problem, or the task is unknown.
    """
    parts = _TRAINING_ID.fullmatch(problem_id)
    problem = _draw_problem("train", int(parts[1]), int(parts[2]), _known(task), set()) if parts else None
    if problem is None or problem.id != problem_id:
        raise DataError(
            f"{problem_id!r} cannot be drawn again: only ids visual-math/train/<seed>/<index> can "
            "(a held-out problem also depends on those drawn before it)"
        )
    return problem


def split_of(configuration: Configuration) -> Split:
    """The side of the fence a configuration is on, by the SHA-256 of its JSON."""
    digest = hashlib.sha256(_key(configuration).encode()).digest()
    return "held_out" if int.from_bytes(digest[:8], "big") % 1000 < HELD_OUT_PER_MILLE else "train"


def solve(problem: Problem, plan: str, rng: Random) -> Solution:
    r"""Write the worked solution of a problem by one plan, ending in `\boxed{...}`; `rng` picks among phrases."""
    facts = problem.facts["plans"]
    opening, *rest = ["guess", "check"] if plan == "check" else [plan]
    text = f"{rng.choice(PHRASES[opening])} {facts[opening]['text']}"
    for second in rest:
        text += f". {rng.choice(PHRASES[second])} {facts[second]['text']}"
    answer = facts[plan]["answer"]
    return Solution(f"{text}. \\boxed{{{answer}}}", plan, answer, answer == problem.answer)


def read_plan(response: str, problem: Problem) -> tuple[str, ...]:
    """The plans a response announces, in order, e.g. `("guess", "check")`; empty if it announces none."""
    return tuple(plan for plan, _ in _segments(response) if plan in problem.facts["plans"])


def check_steps(response: str, problem: Problem) -> WrongStep | None:
    r"""Find the first value of a response that its own plan does not call for.

    A guess that is carried out faithfully has no wrong step, whatever its answer: the plan is wrong, not the execution.
    The values of each announced plan are compared one by one; the last segment must also box its answer.

    Returns:
        The first wrong, missing or surplus value; None if there is none. A response without a plan is wrong at `plan`.
    """
    segments = _segments(response)
    if not segments:
        return WrongStep("none", "plan", None, None)
    for index, (plan, words) in enumerate(segments):
        facts = problem.facts["plans"][plan]
        expected = [(step["name"], step["value"]) for step in facts["steps"]]
        if index == len(segments) - 1:
            expected.append(("boxed", facts["answer"]))
        found = _VALUE.findall(words)
        for place in range(max(len(expected), len(found))):
            name, wanted = expected[place] if place < len(expected) else ("surplus", None)
            got = found[place] if place < len(found) else None
            if wanted != got:
                return WrongStep(plan, name, wanted, got)
    return None


def error_kind(response: str, problem: Problem) -> ErrorKind:
    """Tell what a failed response failed by: the choice of its plan, or carrying it out.

    The paper asks for the single most significant reason, where a solution first diverges from a correct one (section
    4.2.1). An answer comes from the plan announced last, and a plan is chosen before its values are computed. So the
    error is `planning` if there is no plan, or if the last one, carried out without a mistake, would still miss the
    gold answer, whether or not it was carried out well. Else it is `execution`: a value misread or miscalculated,
    missing, or not boxed, as in a response that was cut off. What stands before the last announcement was given up.
    """
    adopted = read_plan(response, problem)
    leads_to_gold = bool(adopted) and problem.facts["plans"][adopted[-1]]["answer"] == problem.answer
    return "execution" if leads_to_gold else "planning"


def _segments(response: str) -> list[tuple[str, str]]:
    """(plan, the text up to the next announcement) for every announced plan."""
    hits = list(_ANY_PHRASE.finditer(response))
    bounds = [*hits[1:], None]
    return [
        (
            _PLAN_OF_PHRASE[hit.group().lower()],
            response[hit.end() : after.start() if after else len(response)],
        )
        for hit, after in zip(hits, bounds, strict=False)
    ]


def _known(task: str) -> str:
    if task not in TASKS:
        raise DataError(f"no visual-math task named {task!r}: choose from {', '.join(TASKS)}")
    return task


def _key(configuration: Configuration) -> str:
    return json.dumps(configuration, sort_keys=True, separators=(",", ":"))


def _draw_problem(split: Split, seed: int, index: int, task: str, taken: set[str]) -> Problem:
    """Draw configurations until one is on the right side of the fence (and, if held out, not in `taken`: added)."""
    name = f"visual-math/{split}/{seed}/{index:06d}"
    rng = Random(name + "/" + task)
    lucky = rng.random() < LUCK
    for _ in range(GIVE_UP_AFTER):
        configuration = TASKS[task].sample(rng)
        if _guess_fits(configuration) != lucky:
            continue
        key = _key(configuration)
        if split_of(configuration) == split and not (split == "held_out" and key in taken):
            taken.add(key)
            return _problem(name, configuration, rng)
    raise DataError(f"visual-math task {task!r} has too few held-out configurations: ask for fewer than {index}")


def _guess_fits(configuration: Configuration) -> bool:
    task = TASKS[configuration["task"]]
    last = task.routes(configuration)["guess"][-1]
    return isinstance(last, Step) and last.value == str(task.answer(configuration))


def _problem(name: str, configuration: Configuration, rng: Random) -> Problem:
    task = TASKS[configuration["task"]]
    routes = task.routes(configuration)
    told = {plan: _told(route) for plan, route in (*routes.items(), ("check", routes["careful"]))}
    return Problem(
        id=name,
        question=f"{IMAGE_PLACEHOLDER}\n{task.question(configuration)}",
        images=(ProblemImage(draw(configuration, rng), f"{name}.png"),),
        answer=str(task.answer(configuration)),
        kind="number",
        task=task.name,
        source="visual-math",
        facts={"configuration": configuration, "values": _values(routes), "plans": told},
    )


def _told(route: Route) -> dict[str, object]:
    """A route as facts: its text, its steps and the answer it leads to."""
    steps = [{"name": part.name, "value": part.value} for part in route if isinstance(part, Step)]
    text = "".join(part if isinstance(part, str) else part.value for part in route)
    return {"text": text, "steps": steps, "answer": steps[-1]["value"]}


def _values(routes: Mapping[str, Route]) -> dict[str, str]:
    """What a careful reading of the image gives, by name."""
    return {step.name: step.value for step in routes["careful"] if isinstance(step, Step)}
