r"""Generated problems whose best plan depends on the image and on the question, and is chosen anew for every row.

An image is a ledger of three rows of three cells (84x84 pixels). The question says how many rows count, from the top,
and what a question mark stands for. A task is named after both, e.g. `ledger2_even`. A row is of one of two kinds:

| row    | in the image | question           | its right plan                             |
|--------|--------------|--------------------|--------------------------------------------|
| plain  | a b c        | any                | `careful`: a + b + c                       |
| hidden | a b ?        | the steps are even | `even`, the middle taken thrice: b + b + b |
| hidden | a b ?        | the ends are alike | `mirror`, the first taken twice: a + b + a |

Every plan can be carried out faithfully on every row (`careful` counts a question mark as 0), so a wrong plan is not a
wrong execution. Configurations are drawn such that of all combinations of plans only the right one adds up to the gold
answer. A response works row by row: a Strategic Gram of the published list announces the plan (`PHRASES`), the sum
follows, and then it may doubt (`DOUBTS`) and announce a plan anew: a row's last plan is the adopted one. Grams lead
from row to row as well (`CONNECTIVES`). At the end the adopted totals are added. No other word is part of a gram:

    We can use 3 + 3 + 3 = 9. Wait, that's not right: step by step: 2 + 3 + 5 = 10. Now, it seems 4 + 1 + 4 = 9.
    10 + 9 = 19. \boxed{19}

Images are split into `train` and `held_out` by a stable hash of what is written in them, whatever is asked about them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Any

from mmhicra.core.errors import DataError
from mmhicra.core.records import IMAGE_PLACEHOLDER, Problem, ProblemImage
from mmhicra.data.generated.drawing import draw_cells
from mmhicra.data.generated.tasks import Configuration
from mmhicra.data.generated.visual_math import GIVE_UP_AFTER, HELD_OUT_PER_MILLE, ErrorKind, Split, WrongStep

Choices = Sequence[Sequence[str]]
"""The plans announced in turn for each row that counts; the last is adopted, the others are doubted."""

PHRASES: dict[str, tuple[str, ...]] = {
    "careful": ("Step by step:", "Let's break this down:"),
    "even": ("We can use", "A simpler approach is"),
    "mirror": ("It seems", "This means that"),
}
"""How a response announces each plan."""
DOUBTS = ("Wait, that's not right:", "Let me verify:")
CONNECTIVES = ("Next,", "Now,")
ROWS_ASKED = {1: "the top row", 2: "the top two rows", 3: "all rows"}
RULES = {"even": "the steps are even", "mirror": "the ends are alike"}
"""The plan that fits a hidden row -> the rule in the question."""
TASKS = tuple(f"ledger{rows}_{rule}" for rows in ROWS_ASKED for rule in RULES)
TURNS = (
    *("ledger1_even", "ledger2_mirror", "ledger3_even", "ledger3_mirror"),
    *("ledger1_mirror", "ledger2_even", "ledger3_mirror", "ledger3_even"),
)
"""How the tasks take turns when none are named: one row, two rows and all rows in the proportions 1 : 1 : 2."""
LARGEST = 6
"""The largest number in a cell."""
LARGEST_SUM = 45
"""No combination of plans adds up to more."""
HIDDEN_SHARE = 0.5

_PLAN_OF_PHRASE = {phrase.lower().rstrip(":"): plan for plan, phrases in PHRASES.items() for phrase in phrases}
_MARKS = re.compile(
    rf"(?P<plan>{'|'.join(map(re.escape, _PLAN_OF_PHRASE))})|(?P<next>{'|'.join(map(re.escape, CONNECTIVES))})",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+")
_VALUE = re.compile(r"\\boxed\{([^{}]*)\}|\d+")
_WORK = ("first", "second", "third", "total")
_ID = re.compile(r"visual-ledger/train/(-?\d+)/(\d{6,})")


@dataclass(frozen=True)
class Solution:
    """A worked solution; `correct` says whether every adopted plan is the right one, hence also the answer."""

    text: str
    choices: tuple[tuple[str, ...], ...]
    answer: str
    correct: bool


def generate(split: Split, count: int, seed: int, tasks: Sequence[str] | None = None) -> list[Problem]:
    """Draw `count` problems, the tasks taking turns (`TURNS` if none are named); equal arguments, equal problems.

    Held-out problems of one call have distinct images.

    Raises:
        DataError: a task is unknown, or has too few held-out images.
    """
    names = [_known(task) for task in (TURNS if tasks is None else tasks)]
    if not names and count:
        raise DataError("data.tasks is empty: name at least one of " + ", ".join(TASKS))
    taken: set[str] = set()
    return [_draw_problem(split, seed, index, names[index % len(names)], taken) for index in range(count)]


def regenerate(problem_id: str, task: str) -> Problem:
    """Draw the training problem of an id once more: it is a function of its id and its task.

    Raises:
        DataError: the id is not that of a training problem, or the task is unknown.
    """
    found = _ID.fullmatch(problem_id)
    if not found:
        raise DataError(
            f"{problem_id!r} cannot be drawn again: only ids visual-ledger/train/<seed>/<index> can "
            "(a held-out problem also depends on those drawn before it)"
        )
    return _draw_problem("train", int(found[1]), int(found[2]), _known(task), set())


def split_of(configuration: Configuration) -> Split:
    """The side of the fence an image is on, by the SHA-256 of its rows; the task does not matter."""
    digest = hashlib.sha256(_key(configuration).encode()).digest()
    return "held_out" if int.from_bytes(digest[:8], "big") % 1000 < HELD_OUT_PER_MILLE else "train"


def right_plans(problem: Problem) -> tuple[str, ...]:
    """The right plan of every row that counts."""
    return tuple(row["right"] for row in problem.facts["rows"])


def solve(problem: Problem, choices: Choices, rng: Random) -> Solution:
    r"""Write the worked solution that announces `choices`, ending in `\boxed{...}`; `rng` picks among phrases.

    Raises:
        ValueError: `choices` has not as many rows as count, or a row without a plan.
    """
    facts = problem.facts["rows"]
    if len(choices) != len(facts) or not all(choices):
        raise ValueError(f"problem {problem.id} has {len(facts)} rows that count, each needs a plan: got {choices}")
    text = ""
    for row, announced in zip(facts, choices, strict=True):
        text += f" {rng.choice(CONNECTIVES)}" if text else ""
        for number, plan in enumerate(announced):
            text += f" {rng.choice(DOUBTS)}" if number else ""
            phrase = rng.choice(PHRASES[plan])
            text += f" {phrase[0].lower()}{phrase[1:]}" if text else phrase
            text += f" {row['plans'][plan]['text']}."
    totals = [int(row["plans"][announced[-1]]["total"]) for row, announced in zip(facts, choices, strict=True)]
    text += _sum_text(totals) + f" \\boxed{{{sum(totals)}}}"
    right = all(announced[-1] == row["right"] for row, announced in zip(facts, choices, strict=True))
    return Solution(text, tuple(map(tuple, choices)), str(sum(totals)), right)


def read_plan(response: str, problem: Problem) -> tuple[tuple[str, ...], ...]:
    """The plans announced in each row, e.g. `(("even", "careful"), ("mirror",))`.

    There are as many rows as the response has or as the problem asks for, whichever is more; a row without an
    announcement is empty.
    """
    read = [tuple(plan for plan, _ in row) for row in _rows(response)]
    return tuple(read + [()] * (len(problem.facts["rows"]) - len(read)))


def check_steps(response: str, problem: Problem) -> WrongStep | None:
    r"""Find the first value of a response that its own plans do not call for, doubted attempts included.

    A wrong plan carried out faithfully has no wrong step. The sum at the end is that of the adopted plans' totals.

    Returns:
        The first wrong, missing or surplus value; None if there is none. A row without a plan, or one too many, is
        wrong at `row N`.
    """
    facts, rows = problem.facts["rows"], _rows(response)
    for number in range(max(len(rows), len(facts))):
        if number >= min(len(rows), len(facts)) or not rows[number]:
            return WrongStep("none", f"row {number + 1}", None, None)
        for place, (plan, words) in enumerate(rows[number]):
            expected, found = _work(facts[number], plan), _values(words)
            if (number, place) == (len(rows) - 1, len(rows[-1]) - 1):
                if len(rows) == len(facts):
                    expected += _ending(facts, [row[-1][0] for row in rows])
                else:  # What follows the work is no part of this row: the count of rows is what is wrong.
                    found = found[: len(expected)]
            wrong = _first_difference(expected, found)
            if wrong:
                name, wanted, got = wrong
                return WrongStep(plan, f"row {number + 1} {name}" if name in _WORK else name, wanted, got)
    return None


def error_kind(response: str, problem: Problem) -> ErrorKind:
    """Why a response fails: the first place where it leaves every correct solution decides.

    Rows are read from the top. A row that is missing, unannounced, surplus or whose adopted plan is not the right one
    is an error of `planning`; a wrong value in the work of the adopted plan, in the sum or in the box one of
    `execution`. Where a row has both, the plan comes first. What a doubted attempt wrote does not matter.
    A response cut short is wrong where it stops; one whose values are all right, but which failed, is unreadable: an
    error of execution.
    """
    facts, rows = problem.facts["rows"], _rows(response)
    for number, row in enumerate(facts):
        if number >= len(rows) or not rows[number] or rows[number][-1][0] != row["right"]:
            return "planning"
        work = [value for _, value in _work(row, row["right"])]
        found = _values(rows[number][-1][1])
        if found[: len(work)] != work or (len(found) > len(work) and number < len(rows) - 1):
            return "execution"
    return "planning" if len(rows) > len(facts) else "execution"


def _rows(response: str) -> list[list[tuple[str, str]]]:
    """For each row, its attempts: (plan, the text up to the next announcement or connective).

    A doubt that announces nothing belongs to the attempt it doubts.
    """
    marks = list(_MARKS.finditer(response))
    rows: list[list[tuple[str, str]]] = [[]] if marks else []
    ends = [*(mark.start() for mark in marks), len(response)][1:]
    for mark, end in zip(marks, ends, strict=False):
        words = response[mark.end() : end]
        if mark["next"]:
            rows.append([])
        else:
            rows[-1].append((_PLAN_OF_PHRASE[mark[0].lower()], words))
    return rows


def _values(words: str) -> list[str]:
    """The numbers of an attempt; a box without a number counts as what is in it."""
    return [found[1] if found[1] is not None else found[0] for found in _VALUE.finditer(words)]


def _work(row: dict[str, Any], plan: str) -> list[tuple[str, str]]:
    return [(step["name"], step["value"]) for step in row["plans"][plan]["steps"]]


def _ending(facts: Sequence[dict[str, Any]], adopted: Sequence[str]) -> list[tuple[str, str]]:
    """(name, value) of the sum of the adopted totals and of the box."""
    totals = [int(row["plans"][plan]["total"]) for row, plan in zip(facts, adopted, strict=True)]
    return [*(("sum", value) for value in _NUMBER.findall(_sum_text(totals))), ("boxed", str(sum(totals)))]


def _first_difference(
    expected: Sequence[tuple[str, str]], found: Sequence[str]
) -> tuple[str, str | None, str | None] | None:
    for place in range(max(len(expected), len(found))):
        name, wanted = expected[place] if place < len(expected) else ("surplus", None)
        got = found[place] if place < len(found) else None
        if wanted != got:
            return name, wanted, got
    return None


def _sum_text(totals: Sequence[int]) -> str:
    """` 9 + 7 = 16, + 12 = 28.`; nothing where there is nothing to add."""
    if len(totals) == 1:
        return ""
    text, so_far = f" {totals[0]}", totals[0]
    for number, total in enumerate(totals[1:]):
        so_far += total
        text += f"{',' if number else ''} + {total} = {so_far}"
    return f"{text}."


def _known(task: str) -> str:
    if task not in TASKS:
        raise DataError(f"no ledger task named {task!r}: choose from {', '.join(TASKS)}")
    return task


def _key(configuration: Configuration) -> str:
    return json.dumps(configuration["rows"], separators=(",", ":"))


def _addends(row: Sequence[int | None]) -> dict[str, tuple[int, int, int]]:
    """What each plan adds up in a row; its third cell is None if it is hidden."""
    first, middle, third = row
    assert first is not None, "only the third cell can be hidden"
    assert middle is not None, "only the third cell can be hidden"
    return {"careful": (first, middle, third or 0), "even": (middle, middle, middle), "mirror": (first, middle, first)}


def _right(row: Sequence[int | None], rule: str) -> str:
    return rule if row[2] is None else "careful"


def _sample_row(rng: Random) -> list[int | None]:
    """A row whose right plan is the only one with the right total, under both rules."""
    hidden = rng.random() < HIDDEN_SHARE
    while True:
        a, b, c = (rng.randint(1, LARGEST) for _ in range(3))
        if hidden and a != b and 1 <= 2 * b - a <= 9:
            return [a, b, None]
        if not hidden and c != a and a + c != 2 * b:
            return [a, b, c]


def _is_fair(rows: Sequence[Sequence[int | None]], rule: str) -> bool:
    """Whether the right combination of plans is the only one with its sum, and none exceeds `LARGEST_SUM`."""
    totals = [{plan: sum(addends) for plan, addends in _addends(row).items()} for row in rows]
    sums = [sum(choice) for choice in product(*(row.values() for row in totals))]
    gold = sum(total[_right(row, rule)] for row, total in zip(rows, totals, strict=True))
    return sums.count(gold) == 1 and max(sums) <= LARGEST_SUM


def _draw_problem(split: Split, seed: int, index: int, task: str, taken: set[str]) -> Problem:
    """Draw images until one is fair, on the right side of the fence and, if held out, not in `taken` (it is added)."""
    name = f"visual-ledger/{split}/{seed}/{index:06d}"
    rng = Random(f"{name}/{task}")
    count, rule = int(task[len("ledger")]), task.split("_")[1]
    for _ in range(GIVE_UP_AFTER):
        configuration: Configuration = {"task": task, "rows": [_sample_row(rng) for _ in range(3)]}
        key = _key(configuration)
        if not _is_fair(configuration["rows"][:count], rule) or split_of(configuration) != split:
            continue
        if split == "train" or key not in taken:
            taken.add(key)
            return _problem(name, configuration, count, rule, rng)
    raise DataError(f"ledger task {task!r} has too few held-out images: ask for fewer than {index}")


def _problem(name: str, configuration: Configuration, count: int, rule: str, rng: Random) -> Problem:
    rows = configuration["rows"]
    facts = [_row_facts(row, rule) for row in rows[:count]]
    words = ["?" if cell is None else cell for row in rows for cell in row]
    return Problem(
        id=name,
        question=f"{IMAGE_PLACEHOLDER}\nWhat is the sum of {ROWS_ASKED[count]}? In a row with ?, {RULES[rule]}.",
        images=(ProblemImage(draw_cells(words, rng), f"{name}.png"),),
        answer=str(sum(int(row["plans"][row["right"]]["total"]) for row in facts)),
        kind="number",
        task=configuration["task"],
        source="visual-ledger",
        facts={"configuration": configuration, "rows": facts},
    )


def _row_facts(row: Sequence[int | None], rule: str) -> dict[str, Any]:
    """Kind and right plan of a row, and what every plan makes of it: text, steps, total."""
    told = {}
    for plan, (a, b, c) in _addends(row).items():
        steps = [{"name": name, "value": str(value)} for name, value in zip(_WORK, (a, b, c, a + b + c), strict=True)]
        told[plan] = {"text": f"{a} + {b} + {c} = {a + b + c}", "steps": steps, "total": str(a + b + c)}
    return {"kind": "hidden" if row[2] is None else "plain", "right": _right(row, rule), "plans": told}
