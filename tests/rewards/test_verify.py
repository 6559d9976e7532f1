from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mmhicra.rewards.notation import compact, plain, words
from mmhicra.rewards.options import options_named
from mmhicra.rewards.values import read_value, right_hand_side
from mmhicra.rewards.verify import Outcome, Query, decide, verify

RIGHT, WRONG, NONE, UNUSABLE = "right", "wrong", "no-answer", "gold-unusable"
FOUR = ("5", "14", "3 \\sqrt { 6 }", "35°")
DRAWN = ("A", "B", "C", "D", "E")
SHAPES = ("a square", "a circle", "B and C only", "none")

NUMBERS = [
    ("5", "5", RIGHT, "equal as numbers"),
    ("5", "5.0", RIGHT, "equal as numbers"),
    ("5", "+5 apples", RIGHT, "equal as numbers"),
    ("5", "-5", WRONG, "another number"),
    ("5", "5.0001", WRONG, "another number"),
    ("5", "five", RIGHT, "equal as numbers"),
    ("5", "5 or 6", WRONG, "another answer"),
    ("5", "5, 6", WRONG, "another answer"),
    ("5", "5x", WRONG, "not a number"),
    ("5", "5 = 6", WRONG, "not a number"),
    ("5", "not 5", WRONG, "not a number"),
    ("5", "2 + 3", RIGHT, "equal as numbers"),
    ("5", "x = 5", RIGHT, "equal as numbers"),
    ("x = 5", "y = 5", WRONG, "another number"),
    ("5", None, NONE, "no answer found"),
    ("5", " $ ", NONE, "no answer found"),
    ("1234567", "1,234,567", RIGHT, "equal as numbers"),
    ("1,234.5", "$1{,}234.50$", RIGHT, "equal as numbers"),
    ("0.5", "\\frac12", RIGHT, "equal as numbers"),
    ("\\frac{7}{2}", "3\\frac{1}{2}", RIGHT, "equal as numbers"),
    ("3.5", "3 1/2", RIGHT, "equal as numbers"),
    ("60°", "60", RIGHT, "equal as numbers"),
    ("60", "60^{\\circ}", RIGHT, "equal as numbers"),
    ("35掳", "35 degrees", RIGHT, "equal as numbers"),
    ("5 cm", "5", RIGHT, "equal as numbers"),
    ("5 m", "500 cm", RIGHT, "equal as numbers"),
    ("5 m", "5 cm", WRONG, "another number"),
    ("8米", "8 \\text{ meters}", RIGHT, "equal as numbers"),
    ("9 \\pi \\mathrm{cm}^{2}", "9π", RIGHT, "equal as numbers"),
    ("Area $=9 \\pi \\mathrm{cm}^{2}$", "28.2743", RIGHT, "equal as numbers"),
    ("20%", "20", RIGHT, "equal as numbers"),
    ("20%", "0.2", RIGHT, "equal as numbers"),
    ("0.2", "20\\%", RIGHT, "equal as numbers"),
    ("20%", "0.02", WRONG, "another number"),
    ("11.8", "11.83", RIGHT, "equal as numbers"),
    ("11.8", "11.9", WRONG, "another number"),
    ("2.54", "2.55", WRONG, "another number"),
    ("2827.43", "2827.4", RIGHT, "equal as numbers"),
    ("2827.43", "2827", WRONG, "another number"),
    ("\\frac{1}{3}", "0.3333", RIGHT, "equal as numbers"),
    ("\\frac{1}{3}", "0.333", WRONG, "another number"),
    ("4\\sqrt{6}", "9.798", RIGHT, "equal as numbers"),
    ("4\\sqrt{6}", "\\sqrt{96}", RIGHT, "equal as numbers"),
    ("4\\sqrt{6}", "9.8", WRONG, "another number"),
    ("1:3", "\\frac{1}{3}", RIGHT, "equal as numbers"),
    ("10^{10^{10}}", "1", WRONG, "not a number"),
    ("10^{10^{10}}", "10^{10^{10}}", RIGHT, "the same answer"),
    ("twelve", "12", RIGHT, "equal as numbers"),
    ("5 or 6", "5 or 6", RIGHT, "the same answer"),
    ("5 or 6", "5", WRONG, "another answer"),
    ("", "", UNUSABLE, "the gold is empty"),
    ("\x0crac{36}{13}", "\\frac{36}{13}", UNUSABLE, "the gold holds the control character U+000C (a lost backslash?)"),
    ("7" * 1001, "7" * 1001, UNUSABLE, "the gold is longer than 1000 characters"),
    ("7", "7" * 1001, WRONG, "the answer is longer than 1000 characters"),
]

CHOICES = [
    ("C", FOUR, "C", RIGHT, "names option C"),
    ("C", FOUR, "(C)", RIGHT, "names option C"),
    ("C", FOUR, "c", RIGHT, "names option C"),
    ("C", FOUR, "\\text{(C)}", RIGHT, "names option C"),
    ("C", FOUR, "\\textbf{(C)}\\ 3\\sqrt{6}", RIGHT, "names option C"),
    ("C", FOUR, "C. 3\\sqrt6", RIGHT, "names option C"),
    ("C", FOUR, "C: because it fits", RIGHT, "names option C"),
    ("C", FOUR, "option C", RIGHT, "names option C"),
    ("C", FOUR, "选C", RIGHT, "names option C"),
    ("C", FOUR, "3\\sqrt{6}", RIGHT, "names option C"),
    ("C", FOUR, "7.3485", RIGHT, "names option C"),
    ("3\\sqrt{6}", FOUR, "C", RIGHT, "names option C"),
    ("D", FOUR, "35", RIGHT, "names option D"),
    ("C", FOUR, "B", WRONG, "names option B, not option C"),
    ("C", FOUR, "14", WRONG, "names option B, not option C"),
    ("C", FOUR, "C. 14", WRONG, "names options B and C"),
    ("C", FOUR, "C 14", WRONG, "names options B and C"),
    ("C", FOUR, "A or B or C", WRONG, "names options A, B and C"),
    ("C", FOUR, "A, b, c", WRONG, "names options A, B and C"),
    ("C", FOUR, "(B) or (C)", WRONG, "names options B and C"),
    ("C", FOUR, "B, C", WRONG, "names options B and C"),
    ("C", FOUR, "BC", WRONG, "names options B and C"),
    ("C", FOUR, "not C", WRONG, "names no option"),
    ("C", FOUR, "all except C", WRONG, "names no option"),
    ("C", FOUR, "E", WRONG, "names no option"),
    ("C", FOUR, "5 or 14", WRONG, "names options A and B"),
    ("C", FOUR, None, NONE, "no answer found"),
    ("E", FOUR, "E", UNUSABLE, "the gold names no option of 4"),
    ("C\nD", FOUR, "C", WRONG, "names option C, not options C and D"),
    ("C\nD", FOUR, "D and C", RIGHT, "names options C and D"),
    ("BD", FOUR, "B, D", RIGHT, "names options B and D"),
    ("7", FOUR, "7", UNUSABLE, "the gold names no option of 4"),
    ("103", ("77", "103", "103"), "103", RIGHT, "names option B"),
    ("B", ("77", "103", "103"), "(C) 103", RIGHT, "names option B"),
    ("B", ("77", "103", "103"), "B", RIGHT, "names option B"),
    ("A", ("B", "A"), "A", RIGHT, "names option A"),
    ("B", ("B", "A"), "A", WRONG, "names options A and B"),
    ("D", DRAWN, "D", RIGHT, "names option D"),
    ("B", (), "(B)", RIGHT, "names option B"),
    ("A", SHAPES, "A square", RIGHT, "names option A"),
    ("A", SHAPES, "Square.", RIGHT, "names option A"),
    ("A", SHAPES, "A circle", WRONG, "names option B, not option A"),
    ("A", SHAPES, "A triangle", WRONG, "names no option"),
    ("C", SHAPES, "B and C only", RIGHT, "names option C"),
]

TEXTS = [
    ("red circle", "Red  circle.", RIGHT, "equal as text"),
    ("red circle", "\\text{a red circle}", RIGHT, "equal as text"),
    ("blue-green", "Blue green", RIGHT, "equal as text"),
    ("red circle", "circle red", WRONG, "another text"),
    ("yes", "yes or no", WRONG, "another text"),
    ("range: (-3, 1]", "Range (-3,1]", RIGHT, "equal as text"),
    ("range: (-3, 1]", "Range [-3,1]", WRONG, "another text"),
    ("-5", "5", WRONG, "another text"),
    ("?!", "?!", UNUSABLE, "the gold has no letters or digits"),
]

ALGEBRA = [
    ("x^2+1", "1 + x^{2}", RIGHT, "the same answer"),
    ("x^2+1", "f(x) = x^2+1", RIGHT, "equal as mathematics"),
    ("x^2+1", "x^2+2", WRONG, "not equal as mathematics"),
    ("y=-2x+5", "y = 5 - 2x", RIGHT, "equal as mathematics"),
    ("y=-2x+5", "y = 2x + 5", WRONG, "not equal as mathematics"),
    ("\\frac{x^2}{81}+\\frac{y^2}{9}=1", "1", WRONG, "not equal as mathematics"),
    ("1", "x^2 + y^2 = 1", WRONG, "not equal as mathematics"),
    ("5", "6 = 5", WRONG, "not equal as mathematics"),
    ("5", "x < 5", WRONG, "not equal as mathematics"),
    ("5", "5 \\text{ or } 6", WRONG, "another answer"),
    ("5", "\\{5, 6\\}", WRONG, "another answer"),
    ("5", "\\pm 5", WRONG, "another answer"),
    ("5", "\\log_2 32", RIGHT, "equal as numbers"),
    ("5", "x = \\log_2 32", RIGHT, "equal as numbers"),
    ("(2,-2)", "\\left(2, -2\\right)", RIGHT, "the same answer"),
    ("(2,-2)", "(-2,2)", WRONG, "another answer"),
    ("[0,1)", "[0, 1)", RIGHT, "the same answer"),
    ("[0,1)", "[0, 1]", WRONG, "another answer"),
    ("x=1 or x=2", "\\{2, 1\\}", RIGHT, "the same answer"),
    ("x=1 or x=2", "x = 1", WRONG, "another answer"),
    ("N 34° W", "N34^\\circ W", RIGHT, "the same answer"),
    ("Center $=(20,10)$", "(20, 10)", RIGHT, "the same answer"),
    ("2\\pi r^2 h", "2\\pi r^2", WRONG, "not equal as mathematics"),
    ("n + 3m", "n + 3", WRONG, "not equal as mathematics"),
    ("12x^2+144x \\mathrm{m}^3", "12x^2 + 144x", RIGHT, "equal as mathematics"),
    ("x^2", "10^{10", WRONG, "not equal as mathematics"),
    ("x^2", "{" * 900, WRONG, "not equal as mathematics"),
    ("x^2", "(" * 900, WRONG, "not equal as mathematics"),
    ("\\frac{x}{y", "\\frac{x}{y", RIGHT, "the same answer"),
    ("}{", "}{", RIGHT, "the same answer"),
    ("even", "even", RIGHT, "the same answer"),
    ("\\frac{x}{y", "\\frac{x}{z", WRONG, "only its own writing equals this gold, which is no mathematics"),
    ("even", "not even", WRONG, "another text"),
    ("x + 1", "x + 1 \\text{ million}", WRONG, "prose, not mathematics"),
]


@pytest.mark.parametrize(("gold", "answer", "verdict", "why"), NUMBERS)
def test_numbers(gold, answer, verdict, why):
    assert decide(Query(answer, gold, "number")) == Outcome(verdict, why)


@pytest.mark.parametrize(("gold", "choices", "answer", "verdict", "why"), CHOICES)
def test_choices(gold, choices, answer, verdict, why):
    assert decide(Query(answer, gold, "choice", choices)) == Outcome(verdict, why)


@pytest.mark.parametrize(("gold", "answer", "verdict", "why"), TEXTS)
def test_texts(gold, answer, verdict, why):
    assert decide(Query(answer, gold, "text")) == Outcome(verdict, why)


@pytest.mark.parametrize(("gold", "answer", "verdict", "why"), ALGEBRA)
def test_algebra(verifier, gold, answer, verdict, why):
    assert verifier.verify_all([Query(answer, gold, "math")]) == [Outcome(verdict, why)]


def test_an_option_may_be_named_by_an_equal_expression(verifier):
    read = Query("360 + n - m", "A", "choice", ("360 - (m - n)", "m + n + 180", "m + n - 180"))
    assert decide(read) == Outcome("right", "names option A")
    hard = Query("\\sin 2x", "A", "choice", ("2\\sin x \\cos x", "\\sin x", "\\cos 2x"))
    assert decide(hard) is None
    assert verifier.verify_all([hard]) == [Outcome("right", "names option A")]


def test_in_this_process_verify_gives_what_the_workers_give(verifier):
    queries = [Query(answer, gold, "math") for gold, answer, *_ in ALGEBRA]
    here = [verify(query.extracted, query.gold) for query in queries]
    assert here == verifier.verify_all(queries)


def test_spellings_become_one():
    same = [
        "$\\dfrac{3}{4}\\,\\text{cm}$",
        "\\frac{3}{4} cm",
        "\\(\\tfrac{3}{4}~\\mathrm{cm}\\)",
        "\\boxed{\\frac{3}{4}}cm.",
    ]
    assert {compact(text) for text in same} == {"\\frac34cm"}
    assert plain("½") == "1/2"
    assert plain("−５×√2 ≤ π²") == "-5*\\sqrt 2 \\le \\pi ^2"
    assert words("The  (Red)-Circle!") == "(red)-circle"


def test_labels_of_equations():
    assert right_hand_side("\\frac{AB}{CD} = \\log_2 8") == "\\log_2 8"
    assert right_hand_side("\\angle 2 = x") == "\\angle 2"
    assert right_hand_side("f(2) = y^2") == "y^2"
    assert right_hand_side("x^2 = 9") is None
    assert right_hand_side("x \\le 9") is None


def test_permuted_letters_as_options_commit_to_two():
    assert options_named("A", ("B", "A")) == {0, 1}


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
@examples(deadline=None)
def test_fractions_are_read_exactly(above, below):
    sign, size = ("-" if above < 0 else ""), abs(above)
    for text in (f"{sign}\\frac{{{size}}}{{{below}}}", f"{above}/{below}", f"{sign}{size:,} / {below}"):
        value = read_value(text)
        assert value is not None
        assert value.amount == Fraction(above, below)


@given(st.decimals(-(10**6), 10**6, places=3), st.integers(0, 3))
@examples(deadline=None)
def test_a_decimal_gold_takes_what_rounds_to_it_and_nothing_else(exact, digits):
    gold, answer = Fraction(f"{exact:.{digits}f}"), Fraction(exact)
    rounds = abs(gold - answer) <= Fraction(1, 2 * 10**digits)
    expected = rounds if digits else gold == answer
    verdict = decide(Query(str(exact), f"{exact:.{digits}f}", "number")).verdict
    assert verdict == ("right" if expected else "wrong")


@given(
    st.text(alphabet="0123456789.,/^{}()[]\\fracsqrtpi+-*=≈ %°oxcm", max_size=60), st.sampled_from(["5", "1/3", "2.50"])
)
@examples(deadline=None)
def test_only_the_number_itself_is_right(answer, gold):
    """Whatever is read as equal is a number within the tolerance, by Python's own arithmetic."""
    if decide(Query(answer, gold, "number")).verdict == "right":
        value, expected = read_value(answer), read_value(gold)
        ratio = float(value.amount) / float(expected.amount)
        assert any(abs(ratio * factor - 1) <= 0.0021 for factor in (1, 0.01, 100))


@given(st.text(max_size=200), st.sampled_from(["number", "choice", "text", "math"]), st.randoms())
@examples(deadline=None)
def test_no_answer_makes_an_unusable_gold_right(answer, kind, random: random.Random):
    golds = {
        "number": ["", "9" * 2000, "\x0crac12"],
        "choice": ["", "F", "A or B", "15"],
        "text": ["", "?", "\x00yes"],
        "math": ["", "$$", "\x0crac12"],
    }[kind]
    gold = random.choice(golds)
    for attempt in (answer, gold, f"{gold} {answer}"):
        outcome = decide(Query(attempt, gold, kind, ("5", "14", "15 or 16") if kind == "choice" else ()))
        assert outcome is not None
        assert outcome.verdict == "gold-unusable"
