"""The six tasks of the embedded visual maths: what is asked, and four ways to go about it.

A task is a sampler of configurations (the logical content of an image, JSON-able), a question, and one `Route` for each
plan. A route is worked text whose values are marked as `Step`s, so that a response can be checked value by value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

Configuration = dict[str, Any]

COLOURS = ("red", "green", "blue")
SHAPES = ("circle", "square", "triangle")
NOTHING = "none"
LETTERS = ("A", "B", "C")
LINES: dict[str, tuple[int, int, int]] = {
    "top row": (0, 1, 2),
    "middle row": (3, 4, 5),
    "bottom row": (6, 7, 8),
    "left column": (0, 3, 6),
    "middle column": (1, 4, 7),
    "right column": (2, 5, 8),
    "falling diagonal": (0, 4, 8),
    "rising diagonal": (6, 4, 2),
}
BAR_QUESTIONS = {
    "difference": "How much taller is the tallest bar than the shortest?",
    "total": "How tall are the tallest and the shortest bar together?",
    "lead": "How much taller is the tallest bar than the first?",
}
CORNERS = {"triangle": (1, 6, 8), "quadrilateral": (0, 2, 6, 8)}
"""The cells of a figure's corners, in reading order."""
ANGLE_SUMS = {"triangle": 180, "quadrilateral": 360}


@dataclass(frozen=True)
class Step:
    """A value that a worked solution states: `name` says which, for whoever reads the error."""

    name: str
    value: str


Route = tuple[str | Step, ...]
"""Worked text after the plan phrase, without the boxed answer; the last step is the answer."""


@dataclass(frozen=True)
class Task:
    """One kind of problem.

    Attributes:
        name: what `Problem.task` says.
        sample: draws a configuration.
        question: the text after the image.
        routes: plan -> route, for the plans `careful`, `short` and `guess`.
        answer: the gold answer.
    """

    name: str
    sample: Callable[[Random], Configuration]
    question: Callable[[Configuration], str]
    routes: Callable[[Configuration], dict[str, Route]]
    answer: Callable[[Configuration], int]


def _sum_steps(values: Sequence[int], total: str = "total", addend: str = "addend") -> Route:
    """`1 + 2 + 0 = 3`."""
    route: list[str | Step] = []
    for number, value in enumerate(values, 1):
        route += [" + " if route else "", Step(f"{addend} {number}", str(value))]
    return (*route, " = ", Step(total, str(sum(values))))


def _difference_steps(high: int, low: int) -> Route:
    """`8 - 3 = 5`."""
    return (Step("high", str(high)), " - ", Step("low", str(low)), " = ", Step("difference", str(high - low)))


# ---- count: how many shapes have an attribute


def cell_word(cell: Sequence[str], asked: str) -> str:
    """The colour or the shape of a cell, whichever is asked about."""
    return cell[0 if asked in COLOURS else 1] if cell else NOTHING


def _row_words(c: Configuration) -> list[list[str]]:
    words = [cell_word(cell, c["asked"]) for cell in c["cells"]]
    return [words[0:3], words[3:6], words[6:9]]


def _row_counts(c: Configuration) -> list[int]:
    return [row.count(c["asked"]) for row in _row_words(c)]


def _sample_count(rng: Random) -> Configuration:
    filled = rng.choice((0.35, 0.6, 0.9))
    cells = [[rng.choice(COLOURS), rng.choice(SHAPES)] if rng.random() < filled else [] for _ in range(9)]
    return {"task": "count", "cells": cells, "asked": rng.choice(COLOURS + SHAPES)}


def _tally(c: Configuration, rows: int) -> list[str | Step]:
    """`red 1 blue 1 none 1, ...`: each cell of the first rows with the count so far."""
    route: list[str | Step] = []
    count = 0
    for number, words in enumerate(_row_words(c)[:rows], 1):
        route += [", "] if route else []
        for column, word in enumerate(words, 1):
            count += word == c["asked"]
            route += [" " if column > 1 else "", Step(f"cell {number},{column}", word), " "]
            route.append(Step(f"count at {number},{column}", str(count)))
    return route


def _routes_count(c: Configuration) -> dict[str, Route]:
    counts = _row_counts(c)
    return {
        "careful": tuple(_tally(c, rows=3)),
        "short": ("the rows, ", *_sum_steps(counts)),
        "guess": ("the rows are alike, ", *_tally(c, rows=1), ". ", *_sum_steps([counts[0]] * 3)),
    }


def _question_count(c: Configuration) -> str:
    asked = c["asked"]
    return f"How many {asked} shapes are there?" if asked in COLOURS else f"How many {asked}s are there?"


# ---- bars: compare three bars


def _bar_pair(c: Configuration, assumed: bool) -> tuple[int, int]:
    """The two heights that the question is about; `assumed`: as if the outer bars were the extremes."""
    heights = c["heights"]
    pool = [heights[0], heights[2]] if assumed else heights
    return max(pool), heights[0] if c["asked"] == "lead" else min(pool)


def _sample_bars(rng: Random) -> Configuration:
    heights = [rng.randint(1, 9) for _ in range(3)]
    return {"task": "bars", "heights": heights, "asked": rng.choice(sorted(BAR_QUESTIONS))}


def _routes_bars(c: Configuration) -> dict[str, Route]:
    def combine(assumed: bool) -> Route:
        high, low = _bar_pair(c, assumed)
        return _sum_steps([high, low]) if c["asked"] == "total" else _difference_steps(high, low)

    bars: list[str | Step] = []
    for number, height in enumerate(c["heights"], 1):
        bars += [" " if bars else "", Step(f"bar {number}", str(height))]
    return {
        "careful": (*bars, ". ", *combine(False)),
        "short": ("the extremes, ", *combine(False)),
        "guess": ("the outer bars are the extremes, ", *combine(True)),
    }


def _answer_bars(c: Configuration) -> int:
    high, low = _bar_pair(c, assumed=False)
    return high + low if c["asked"] == "total" else high - low


# ---- table: find a column by its heading, then add


def _sample_table(rng: Random) -> Configuration:
    heads = rng.sample(LETTERS, 3)
    rows = [[rng.randint(1, 9) for _ in range(3)] for _ in range(2)]
    return {"task": "table", "heads": heads, "rows": rows, "asked": rng.choice(LETTERS)}


def _column(c: Configuration, index: int) -> list[int]:
    return [row[index] for row in c["rows"]]


def _routes_table(c: Configuration) -> dict[str, Route]:
    def found(index: int) -> Route:
        return ("column ", Step("column", str(index + 1)), ", ", *_sum_steps(_column(c, index)))

    heads: list[str | Step] = []
    for number, head in enumerate(c["heads"], 1):
        heads += [" " if heads else "", Step(f"heading {number}", head)]
    true, assumed = c["heads"].index(c["asked"]), LETTERS.index(c["asked"])
    return {
        "careful": (*heads, ", ", *found(true)),
        "short": found(true),
        "guess": ("the headings are in order, ", *found(assumed)),
    }


# ---- sum: add the numbers along a line of a square


def _sample_sum(rng: Random) -> Configuration:
    return {"task": "sum", "cells": [rng.randint(1, 9) for _ in range(9)], "asked": rng.choice(sorted(LINES))}


def _line(c: Configuration) -> list[int]:
    return [c["cells"][cell] for cell in LINES[c["asked"]]]


def _routes_sum(c: Configuration) -> dict[str, Route]:
    a, b, d = _line(c)
    return {
        "careful": (*_sum_steps([a, b], "partial sum"), ", ", *_sum_steps([a + b, d], addend="later addend")),
        "short": _sum_steps([a, b, d]),
        "guess": ("the steps are even, ", *_sum_steps([b, b, b])),
    }


# ---- angle: the missing angle of a triangle or quadrilateral


def _sample_angle(rng: Random) -> Configuration:
    figure = rng.choice(("triangle", "quadrilateral", "quadrilateral"))
    corners = len(CORNERS[figure])
    while True:
        angles: list[int | None] = [10 * rng.randint(4, 14) for _ in range(corners)]
        angles[rng.randrange(corners)] = None
        c: Configuration = {"task": "angle", "figure": figure, "angles": angles}
        if 20 <= _answer_angle(c) <= 140:
            return c


def _given(c: Configuration) -> list[int]:
    return [angle for angle in c["angles"] if angle is not None]


def mirror_angle(c: Configuration) -> int:
    """What symmetry would make of the missing angle: the opposite one (quadrilateral), the first (triangle)."""
    angles = c["angles"]
    return _given(c)[0] if c["figure"] == "triangle" else angles[3 - angles.index(None)]


def _answer_angle(c: Configuration) -> int:
    return ANGLE_SUMS[c["figure"]] - sum(_given(c))


def _routes_angle(c: Configuration) -> dict[str, Route]:
    given, whole, missing = _given(c), ANGLE_SUMS[c["figure"]], _answer_angle(c)
    careful = list(_sum_steps(given[:2], "partial sum"))
    if len(given) == 3:
        careful += [", ", *_sum_steps([sum(given[:2]), given[2]], addend="later addend")]
    rest: Route = (
        Step("whole", str(whole)),
        " - ",
        Step("taken", str(sum(given))),
        " = ",
        Step("angle", str(missing)),
    )
    take_away: list[str | Step] = [Step("whole", str(whole))]
    for number, angle in enumerate(given, 1):
        take_away += [" - ", Step(f"given {number}", str(angle))]
    return {
        "careful": (*careful, ". ", *rest),
        "short": (*take_away, " = ", Step("angle", str(missing))),
        "guess": ("two angles are alike, ", Step("mirror", str(mirror_angle(c)))),
    }


# ---- grid: how far apart two shapes are, in rows and columns


def _sample_grid(rng: Random) -> Configuration:
    places = dict(zip(COLOURS, rng.sample(range(9), 3), strict=True))
    return {"task": "grid", "places": places, "asked": rng.sample(COLOURS, 2)}


def _places(c: Configuration) -> list[tuple[int, int]]:
    """(row, column) of the two shapes asked about, from 1."""
    return [(c["places"][colour] // 3 + 1, c["places"][colour] % 3 + 1) for colour in c["asked"]]


def _routes_grid(c: Configuration) -> dict[str, Route]:
    (r1, c1), (r2, c2) = _places(c)
    steps = _sum_steps([abs(r1 - r2), abs(c1 - c2)])
    spots: list[str | Step] = []
    columns: list[str | Step] = []
    for colour, (row, column) in zip(c["asked"], _places(c), strict=True):
        spots += [", " if spots else "", Step(f"{colour} name", colour), " ", Step(f"{colour} row", str(row))]
        spots += [" ", Step(f"{colour} column", str(column))]
        columns += [", " if columns else "", Step(f"{colour} name", colour)]
        columns += [" column ", Step(f"{colour} column", str(column))]
    return {
        "careful": (*spots, ". ", *steps),
        "short": ("the steps, ", *steps),
        "guess": ("both share a row, ", *columns, ". ", *_difference_steps(max(c1, c2), min(c1, c2))),
    }


def _answer_grid(c: Configuration) -> int:
    (r1, c1), (r2, c2) = _places(c)
    return abs(r1 - r2) + abs(c1 - c2)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("count", _sample_count, _question_count, _routes_count, lambda c: sum(_row_counts(c))),
        Task("bars", _sample_bars, lambda c: BAR_QUESTIONS[c["asked"]], _routes_bars, _answer_bars),
        Task(
            "table",
            _sample_table,
            lambda c: f"What do the numbers under {c['asked']} add up to?",
            _routes_table,
            lambda c: sum(_column(c, c["heads"].index(c["asked"]))),
        ),
        Task(
            "sum",
            _sample_sum,
            lambda c: f"What is the sum of the {c['asked']}?",
            _routes_sum,
            lambda c: sum(_line(c)),
        ),
        Task("angle", _sample_angle, lambda c: "What is the missing angle?", _routes_angle, _answer_angle),
        Task(
            "grid",
            _sample_grid,
            lambda c: f"How many steps from the {c['asked'][0]} shape to the {c['asked'][1]} one?",
            _routes_grid,
            _answer_grid,
        ),
    )
}
