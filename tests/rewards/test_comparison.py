"""The short cuts of algebra beside the long way: the same trees, and no verdict that math-verify would not give."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import math_verify
import math_verify.grader
import math_verify.parser
import pytest
from latex2sympy2_extended.latex2sympy2 import latex2sympy as plain_latex2sympy
from sympy import Rational, Symbol, srepr

from mmhicra.rewards import algebra, comparison, grammar
from mmhicra.rewards.points import TooLarge, Undecided, value_at
from mmhicra.rewards.unworked import is_too_large, unworked

EQUAL = [
    ("\\frac{x+2}{7}", "\\frac{x}{7} + \\frac{2}{7}"),
    ("2\\sin x \\cos x", "\\sin 2x"),
    ("\\frac{n(n+1)}{2}", "\\frac{n^2+n}{2}"),
    ("\\sqrt{8}", "2\\sqrt{2}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("2x+4y-3=0", "y=-\\frac12 x+\\frac34"),
    ("(1, \\frac{\\pi}{2})", "(1, \\pi/2)"),
    ("\\{1, 2, x\\}", "\\{x, 2, 1\\}"),
    ("x > 2", "2 < x"),
    ("[0, \\sqrt{4}]", "[0, 2]"),
    ("f(x) = x^2+1", "f(x)=1+x^2"),
    ("\\sum_{k=1}^{n} k", "\\frac{n(n+1)}{2}"),
    ("0.5x", "\\frac{x}{2}"),
]
UNEQUAL = [
    ("\\frac{x+2}{7}", "\\frac{x+3}{7}"),
    ("\\sqrt{8}", "3\\sqrt{2}"),
    ("\\tan x", "\\sin x"),
    ("(x-1)^2+(y+2)^2=9", "(x-1)^2+(y+2)^2=3"),
    ("\\frac{x^2}{81}+\\frac{y^2}{9}=1", "\\frac{x^2}{9}+\\frac{y^2}{81}=1"),
    ("2x+4y-3=0", "2x+4y+3=0"),
    ("(1, 2)", "(2, 1)"),
    ("\\{1, 2, x\\}", "\\{1, 2, y\\}"),
    ("x > 2", "x \\ge 2"),
    ("[0, 2]", "(0, 2)"),
    ("f(x) = x^2+1", "f(x) = x^2"),
    ("\\sqrt{x^2}", "x"),
    ("(1, \\pi)", "\\{x, x^2, x^3\\}"),
    ("\\log_2 x", "\\ln x"),
    ("x_1+x_2", "x_1-x_2"),
]
TEXTS = sorted(
    {text for pair in EQUAL + UNEQUAL for text in pair} | {"x^2 + 9y^2 = 81", "AB \\parallel CD", "3^", "}{"}
)


@contextmanager
def the_long_way() -> Iterator[None]:
    """math-verify as it comes."""
    algebra._library()
    ours = {name: getattr(math_verify.grader, name) for name in ("sympy_numeric_eq", "sympy_symbolic_eq")}
    ours |= {name: getattr(math_verify.grader, name) for name in ("sympy_solve_and_compare", "sympy_compare_sets")}
    theirs = (comparison._long_numeric, comparison._long_symbolic, comparison._long_solve, comparison._long_sets)
    try:
        for name, function in zip(ours, theirs, strict=True):
            setattr(math_verify.grader, name, function)
        yield
    finally:
        for name, function in ours.items():
            setattr(math_verify.grader, name, function)


@pytest.mark.parametrize(("gold", "answer", "right"), [(*p, True) for p in EQUAL] + [(*p, False) for p in UNEQUAL])
def test_a_short_cut_gives_the_verdict_of_the_long_way(gold, answer, right):
    assert algebra.equal(gold, answer) is right
    with the_long_way():
        assert algebra.equal(gold, answer) is right


def test_two_stages_parse_what_one_does():
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    for text in TEXTS:
        trees = []
        for parse in (plain_latex2sympy, grammar.latex2sympy):
            try:
                trees.append(srepr(parse(text, is_real=True, normalization_config=None)))
            except Exception as error:  # noqa: BLE001 - the parser raises nothing narrower
                trees.append(f"{type(error).__name__}: {error}")
        assert trees[0] == trees[1], text


def test_long_prediction_is_kept_for_what_needs_it(monkeypatch):
    """Parsing these texts once more takes one stage and no prediction that ANTLR cannot cache but for one rule."""
    rules: list[str] = []
    full = grammar.ParserATNSimulator.execATNWithFullContext

    def counted(self, dfa, *rest):
        rules.append(self.parser.ruleNames[self.atn.decisionToState[dfa.decision].ruleIndex])
        return full(self, dfa, *rest)

    monkeypatch.setattr(grammar.ParserATNSimulator, "execATNWithFullContext", counted)
    for text in ("x^2+2x+1", "\\frac{x+2}{7}", "(1, \\frac{\\pi}{2})", "2x+4y-3=0"):
        grammar.latex2sympy(text, is_real=True)
    assert set(rules) <= {"atom_expr"}


def test_a_wrong_answer_is_neither_simplified_nor_solved(monkeypatch):
    def refuse(*args):
        raise AssertionError("the long way")

    algebra._library()
    for name in ("_long_symbolic", "_long_solve"):
        monkeypatch.setattr(comparison, name, refuse)
    for gold, answer in [("\\frac{x+2}{7}", "(x+y+z)^{300}"), ("2x+4y-3=0", "2x+4y+3=0"), ("\\sqrt{2}", "x^{x^{x}}")]:
        assert not algebra.equal(gold, answer)


def test_a_tiny_difference_is_a_difference_and_rounding_is_none():
    assert not algebra.equal("\\frac{2^{2005}+1}{3 \\cdot 2^{2006}}", "\\frac{1}{3 \\cdot 2^{2006}}")
    assert algebra.equal("0", "\\sin^2 x + \\cos^2 x - 1")
    x = Symbol("x", real=True)
    assert not comparison.differ((x + 1) ** 2 - x**2 - 2 * x - 1, x * 0)


def test_what_has_no_value_is_undecided():
    x = Symbol("x", real=True)
    for expression in (1 / (x - 1), (x - 1) ** -2, x**x - 1):
        try:
            assert value_at(expression, {x: Rational(1)}, 100) == 0
        except Undecided:
            assert expression != x**x - 1
    with pytest.raises(TooLarge):
        value_at(x**x**x**x, {x: Rational(50)}, 100)


@pytest.mark.parametrize(
    ("text", "large"),
    [
        ("10^{10^{10}}", True),
        ("9^{9^{9^{9}}}", True),
        ("2^{-10^9}", True),
        ("2^{100,000}", True),
        ("(x+1)^{100000}", True),
        ("\\dfrac{5^{\\left(5^{\\left(5^{\\left(5^5\\right)}\\right)} - 4\\right)} - 5}{16}", True),
        ("9^" * 400 + "9", True),
        ("1000000!", True),
        ("2^{99999}", False),
        ("2^{3^2}", False),
        ("2^{2^{16}}", False),
        ("2^{1^{999}}", False),
        ("\\frac{1}{2004!}", False),
        ("x^2 + y^3", False),
    ],
)
def test_towers_are_told_by_their_writing(text, large):
    assert is_too_large(text) is large


def test_large_numbers_are_found_in_the_depth():
    for text in ("2^{10 \\cdot 10^{10}}", "\\{1, 3^{7 \\cdot 10^7}\\}", "((10!)!)!", "x = (2^{99999})^{99}"):
        assert not is_too_large(text)
        assert algebra.is_too_large(text), text
    assert not algebra.is_too_large("\\frac{2^{2005}+1}{3 \\cdot 2^{2006}} + x^{x^x}")


@pytest.mark.parametrize(
    ("answer", "gold", "why"),
    [
        ("\\int_0^1 x^2 dx", "\\frac{\\pi}{3}", "\\int is left to be worked out"),
        ("\\sum_{k=1}^{10^4} k", "x", "\\sum is left to be worked out"),
        ("\\lim_{x \\to 0} x", "y", "\\lim is left to be worked out"),
        ("\\gcd(12, 18)", "2x", "\\gcd is left to be worked out"),
        ("\\sum_{k=1}^{4} k = 10", "\\sqrt{100}", None),
        ("\\sum_{k=1}^{n} k", "\\sum_{j=1}^{n} j", None),
        ("\\integer + \\summa", "x", None),
        ("10^{10^{10}}", "x", "a number too large to be worked out"),
    ],
)
def test_what_is_left_to_the_reader(answer, gold, why):
    assert unworked(answer, gold) == why
