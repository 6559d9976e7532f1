r"""Golds and responses, to the extractor and the reward.

The gold is made, the response says it or something else in one of many forms. Nonsense is another answer judged right,
or the gold itself in a box judged other than right. Hostile text must only end, in time and with a verdict.
"""

from __future__ import annotations

import json
import random
from fractions import Fraction
from functools import cache
from pathlib import Path

from faults import mutate
from faults.fuzz import Nonsense, Target

from mmhicra.core.records import Problem
from mmhicra.rewards.answers import extract
from mmhicra.rewards.golds import gold_problems
from mmhicra.rewards.verify import Query
from mmhicra.rewards.workers import Verifier

SAYINGS = (
    "So \\boxed{{{}}}.",
    "\\boxed{{{}}}",
    "<think>Let me see, 3 + 4.</think>\\boxed{{{}}}",
    "We get $\\boxed{{{}}}$",
    "<think>It is 99.</think> <answer>{}</answer>",
    "The answer is {}.",
    "**Answer:** {}",
    "Therefore, the final answer is ${}$.",
)
BOXES = SAYINGS[:4]
HOSTILE = (
    "x^{x^{x^{x^x}}}",
    "10^{10^{10}}",
    "1000000!!!!",
    "\\boxed {" * 3000,
    "(" * 60 + "1" + ")" * 60,
    "\\frac" * 500,
    "\\sqrt{" * 40 + "2" + "}" * 40,
    "2^{100000000}",
    "\\int_0^1 x^{x^x} dx",
    "\u3000" * 3000,
    "{" * 2000,
    "$" * 999,
    "\\begin{pmatrix}" * 50,
    "1" * 5000,
    "\\boxed{\ud800}",
    "\x00",
    "|" * 3000,
    "<think>" * 500,
    "= " * 3000,
    "\\binom{1000000}{500000}",
    "A" * 4000,
    "and " * 2000,
    "1e999999",
    "[" + "0," * 3000 + "]",
)


@cache
def verifier() -> Verifier:
    """One for all cases of this process."""
    return Verifier(workers=1, time_limit=4.0)


def number(rng: random.Random) -> Fraction:
    """A plain number."""
    kind = rng.randrange(4)
    if kind == 0:
        return Fraction(rng.randint(-99, 999))
    if kind == 1:
        return Fraction(rng.randint(-99, 99), rng.choice([2, 4, 5, 8, 10]))
    return Fraction(rng.randint(1, 40), rng.randint(2, 13)) if kind == 2 else Fraction(rng.randint(1000, 10**6))


def forms(value: Fraction) -> list[str]:
    """Ways to write one number, all of them exact."""
    said = [f"\\frac{{{value.numerator}}}{{{value.denominator}}}", f"{value.numerator}/{value.denominator}"]
    if value.denominator == 1:
        said = [str(value.numerator), f"{value.numerator}.0", f"{value.numerator:,}"]
    elif value.denominator in (2, 4, 5, 8, 10):
        said.append(f"{float(value)}")
    if value.numerator < 0:
        said = [text for text in said if not text.startswith("\\frac{-")] + [
            f"-\\frac{{{-value.numerator}}}{{{value.denominator}}}"
        ]
    return said


def other(value: Fraction, rng: random.Random) -> Fraction:
    """Another number, by more than any rounding."""
    moved = rng.choice([value + rng.randint(1, 9), -value, value * 10, value / 100, value * 2, 1 - value])
    return moved if abs(moved - value) > abs(value) / 20 + Fraction(1, 50) else value + 7


def write(rng: random.Random, folder: Path) -> None:
    """`case.json`: gold, kind, choices, response, and what the verdict must be, if that is known."""
    kind, choices, truth = rng.choice(["number", "math", "choice", "text", "hostile"]), [], None
    saying = rng.choice(SAYINGS)
    if kind == "choice":
        values = rng.sample(range(2, 60), 4)
        choices, right = [str(value) for value in values], rng.randrange(4)
        stated = right if rng.random() < 0.5 else rng.choice([n for n in range(4) if n != right])
        gold, truth = rng.choice(["ABCD"[right], choices[right]]), stated == right
        letter = "ABCD"[stated]
        answer = rng.choice(
            [letter, f"({letter})", f"{letter}. {choices[stated]}", f"\\text{{{letter}}}", choices[stated]]
        )
    elif kind == "text":
        words = rng.sample(["red", "an octagon", "north east", "Paris", "two cubes", "none of them", "東京"], 2)
        gold, truth = words[0], rng.random() < 0.5
        answer = words[0].upper() if truth else words[1]
        saying = rng.choice(BOXES)
    elif kind == "hostile":
        kind = rng.choice(["number", "math", "text"])
        gold = rng.choice([*HOSTILE, "7", mutate.text(rng), "\\frac{1}{2}"])
        answer = rng.choice([*HOSTILE, mutate.text(rng), mutate.text(rng)])
    else:
        value = number(rng)
        gold, truth = rng.choice(forms(value)), rng.random() < 0.5
        answer = rng.choice(forms(value if truth else other(value, rng)))
    case = {"gold": gold, "kind": kind, "choices": choices, "response": saying.format(answer), "right": truth}
    (folder / "case.json").write_text(json.dumps(case))


def attempt(folder: Path) -> None:
    """Extract and verify; then the gold's own check."""
    case = json.loads((folder / "case.json").read_text())
    choices = tuple(case["choices"])
    problem = Problem("p", "What?", (), case["gold"], case["kind"], choices)
    (complaint,) = gold_problems([problem], verifier())
    found = extract(case["response"], case["kind"])
    query = Query(found.text, case["gold"], case["kind"], choices, "What?")
    (outcome,) = verifier().verify_all([query])
    if complaint is None and outcome.verdict == "gold-unusable":
        raise Nonsense(f"the gold passed its check, and is now unusable: {outcome.why}")
    if case["right"] is not None and complaint is not None:
        raise Nonsense(f"the gold {case['gold']!r} ({case['kind']}) is refused: {complaint}")
    if case["right"] is not None and (outcome.verdict == "right") != case["right"]:
        raise Nonsense(f"{case['response']!r} for {case['gold']!r}: {found}, {outcome}")


TARGET = Target("answers", write, attempt, lambda: __import__("mmhicra.rewards.algebra"))
