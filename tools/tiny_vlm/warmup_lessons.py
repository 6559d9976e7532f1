"""What the tiny VLM is taught: lessons, from naming what stands in each cell to whole worked solutions.

A response is a list of pieces, taught or only given: nobody can foresee the operands of a random sum, so they carry no
loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from mmhicra.core.records import IMAGE_PLACEHOLDER, Problem, ProblemImage
from mmhicra.data.generated.tasks import (
    ANGLE_SUMS,
    COLOURS,
    CORNERS,
    LINES,
    NOTHING,
    Configuration,
    mirror_angle,
)
from mmhicra.data.generated.visual_math import PHRASES, solve

Piece = tuple[str, bool]
"""(text, taught)"""


@dataclass(frozen=True)
class Lesson:
    """A question, its image if it has one, and the response to learn."""

    question: str
    images: tuple[ProblemImage, ...]
    response: tuple[Piece, ...]


def worked(problem: Problem, shares: Mapping[str, float], rng: Random) -> Lesson:
    """A worked solution by a plan drawn from `shares`."""
    plan = rng.choices(list(shares), weights=list(shares.values()))[0]
    return Lesson(problem.question, problem.images, ((solve(problem, plan, rng).text, True),))


def named_cells(problem: Problem, rng: Random) -> Lesson:
    """Every cell by name, in reading order."""
    return Lesson(f"{IMAGE_PLACEHOLDER}\nName the cells.", problem.images, ((_names(problem), True),))


def _names(problem: Problem) -> str:
    c = problem.facts["configuration"]
    if c["task"] == "count":
        # As many words for a gap as for a shape: which cell a word stands for must not depend on the others.
        words = [(cell or (NOTHING, NOTHING))[part] for part in (0, 1) for cell in c["cells"]]
    elif c["task"] == "grid":
        words = [NOTHING] * 9
        for colour, place in c["places"].items():
            words[place] = colour
    elif c["task"] == "bars":
        words = c["heights"]
    elif c["task"] == "table":
        words = [*c["heads"], *c["rows"][0], *c["rows"][1]]
    elif c["task"] == "sum":
        words = c["cells"]
    else:
        words = ["?" if angle is None else angle for angle in c["angles"]]
    return " " + " ".join(str(word) for word in words)


def facts(problem: Problem, rng: Random) -> Lesson:
    """Several facts about an image, each after its cue."""
    c = problem.facts["configuration"]
    cues = FACTS[c["task"]](c)
    rng.shuffle(cues)
    pieces: list[Piece] = []
    for cue, fact in cues[:6]:
        pieces += [(f" {cue}:", False), (f" {fact},", True)]
    return Lesson(f"{IMAGE_PLACEHOLDER}\nAnswer each.", problem.images, tuple(pieces))


def _count_facts(c: Configuration) -> list[tuple[str, str]]:
    cues = []
    for part, name in enumerate(("colours", "shapes")):
        words = [(cell or (NOTHING, NOTHING))[part] for cell in c["cells"]]
        cues += [(f"{name} {row + 1}", " ".join(words[3 * row : 3 * row + 3])) for row in range(3)]
    return cues


def _bar_facts(c: Configuration) -> list[tuple[str, str]]:
    first, _, last = heights = c["heights"]
    return [
        ("tallest", str(max(heights))),
        ("shortest", str(min(heights))),
        ("outer bars", f"{max(first, last)} {min(first, last)}"),
        ("first", str(first)),
        ("tallest and shortest", f"{max(heights)} {min(heights)}"),
        ("tallest and first", f"{max(heights)} {first}"),
    ]


def _table_facts(c: Configuration) -> list[tuple[str, str]]:
    cues = []
    for index in range(3):
        top, bottom = c["rows"][0][index], c["rows"][1][index]
        cues += [
            (f"column {index + 1}", f"{top} {bottom}"),
            (c["heads"][index], f"column {index + 1}, {top} {bottom}"),
        ]
    return cues


def _sum_facts(c: Configuration) -> list[tuple[str, str]]:
    return [(line, " ".join(str(c["cells"][cell]) for cell in cells)) for line, cells in LINES.items()]


def _angle_facts(c: Configuration) -> list[tuple[str, str]]:
    return [
        ("angles", " ".join(str(angle) for angle in c["angles"] if angle is not None)),
        ("two angles are alike", str(mirror_angle(c))),
        ("sum", str(ANGLE_SUMS[c["figure"]])),
        ("corner", str(CORNERS[c["figure"]][c["angles"].index(None)] + 1)),
    ]


def _grid_facts(c: Configuration) -> list[tuple[str, str]]:
    at = {colour: (place // 3 + 1, place % 3 + 1) for colour, place in c["places"].items()}
    cues = [(colour, f"{row} {column}") for colour, (row, column) in at.items()] * 2
    (r1, c1), (r2, c2) = (at[colour] for colour in c["asked"])
    cues.append((" to ".join(c["asked"]), f"{abs(r1 - r2)} + {abs(c1 - c2)}"))
    return cues


FACTS: dict[str, Callable[[Configuration], list[tuple[str, str]]]] = {
    "count": _count_facts,
    "bars": _bar_facts,
    "table": _table_facts,
    "sum": _sum_facts,
    "angle": _angle_facts,
    "grid": _grid_facts,
}


def reckoning(rng: Random) -> Lesson:
    """Text only: small sums and differences, sums of angles, steps between places."""
    pieces: list[Piece] = []
    for _ in range(6):
        given, result = rng.choice(RECKONINGS)(rng)
        pieces += [(f" {given}", False), (f" {result},", True)]
    return Lesson("Answer each.", (), tuple(pieces))


def _small_sum(rng: Random) -> tuple[str, str]:
    a, b = rng.randint(0, 18), rng.randint(0, 9)
    return f"{a} + {b} =", str(a + b)


def _triple_sum(rng: Random) -> tuple[str, str]:
    top = rng.choice((3, 9))
    a, b, c = (rng.randint(0, top) for _ in range(3))
    return f"{a} + {b} + {c} =", str(a + b + c)


def _small_difference(rng: Random) -> tuple[str, str]:
    low, high = sorted((rng.randint(1, 9), rng.randint(1, 9)))
    return f"{high} - {low} =", str(high - low)


def _angle_sum(rng: Random) -> tuple[str, str]:
    a, b = 10 * rng.randint(4, 28), 10 * rng.randint(4, 14)
    return (f"{a} + {b} =", str(a + b)) if a + b <= 340 else _angle_sum(rng)


def _angle_rest(rng: Random) -> tuple[str, str]:
    whole = rng.choice((180, 360))
    rest = 10 * rng.randint(2, 14)
    return f"{whole} - {whole - rest} =", str(rest)


def _angle_chain(rng: Random) -> tuple[str, str]:
    whole = rng.choice((180, 360))
    angles = [10 * rng.randint(4, 14) for _ in range(2 if whole == 180 else 3)]
    rest = whole - sum(angles)
    if not 20 <= rest <= 140:
        return _angle_chain(rng)
    return " - ".join(map(str, (whole, *angles))) + " =", str(rest)


def _walk(rng: Random) -> tuple[str, str]:
    r1, c1, r2, c2 = (rng.randint(1, 3) for _ in range(4))
    one, two = rng.sample(COLOURS, 2)
    return f"{one} {r1} {c1}, {two} {r2} {c2}.", f"{abs(r1 - r2)} + {abs(c1 - c2)}"


def _extremes(rng: Random) -> tuple[str, str]:
    heights = [rng.randint(1, 9) for _ in range(3)]
    return f"{' '.join(map(str, heights))}.", f"{max(heights)} {min(heights)}"


RECKONINGS = (
    *(_small_sum, _triple_sum, _small_difference, _angle_sum, _angle_rest, _angle_chain),
    *(_walk, _extremes),
)


def counting(problem: Problem, rng: Random) -> Lesson:
    """Text only: a counting problem's careful solution, the words of the cells given and the counts taught."""
    plan = problem.facts["plans"]["careful"]
    pieces = [(f" {step['value']}", step["value"].isdigit()) for step in plan["steps"]]
    return Lesson(problem.question.removeprefix(IMAGE_PLACEHOLDER), (), (("Step by step:", False), *pieces))


def vocabulary_texts(problems: Sequence[Problem], grams: Sequence[str], rng: Random) -> list[str]:
    """What the tokenizer is trained on: questions, solutions, lessons, numbers and Strategic Grams."""
    texts = ["user\n", "assistant\n"] * len(problems)
    for problem in problems:
        texts += [problem.question.removeprefix(IMAGE_PLACEHOLDER)]
        texts += [solve(problem, plan, rng).text for plan in PHRASES]
        lessons = (named_cells(problem, rng), facts(problem, rng), reckoning(rng))
        texts += ["".join(text for text, _ in lesson.response) for lesson in lessons]
    texts += [f"{joint}{number}" for number in (*range(50), *range(50, 370, 10)) for joint in (" ", "{")] * 50
    return texts + [f"{case(gram)} " for gram in grams for case in (str, str.capitalize)] * 8
