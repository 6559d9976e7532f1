from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mmhicra.core.records import Problem
from mmhicra.rewards.golds import gold_problem, gold_problems
from mmhicra.rewards.reward import Rewarder

numbers = st.one_of(
    st.integers(-(10**9), 10**9).map(str),
    st.integers(0, 10**9).map("{:,}".format),
    st.decimals(-1000, 1000, places=2).map(str),
    st.builds("\\frac{{{}}}{{{}}}".format, st.integers(0, 99), st.integers(0, 99)),
    st.builds("{}\\sqrt{{{}}}".format, st.integers(1, 20), st.integers(0, 99)),
    st.builds(
        "{} {}".format, st.integers(0, 99), st.sampled_from(["cm", "°", "\\%", "m^2", "units", "\\pi", "apples"])
    ),
    st.text(alphabet="0123456789.,/^{}\\fracsqrt+-=() ", max_size=20),
)
algebra = st.one_of(
    numbers,
    st.builds("{}x^{} + {}y".format, st.integers(-5, 5), st.integers(0, 5), st.integers(-5, 5)),
    st.builds("y = {}x - {}".format, st.integers(-5, 5), st.integers(-5, 5)),
    st.builds("({}, {}]".format, st.integers(-5, 5), st.integers(-5, 5)),
    st.text(alphabet="xyn0123+-*/^={}()[]\\,<. ", max_size=12),
)
choices = st.lists(st.one_of(numbers, st.text(max_size=8), st.sampled_from("ABCD")), max_size=5).map(tuple)
DRESSINGS = [
    "\\boxed{{{}}}",
    "<think>\\boxed{{7}}</think>So\n$$\\boxed{{{}}}$$\nas said. **Done**",
    "a \\boxed{{}} \\fbox{{{}}}.",
]


@pytest.mark.parametrize(
    ("gold", "kind", "options", "complaint"),
    [
        ("5", "number", (), None),
        ("\\boxed{5}", "number", (), None),
        ("2", "choice", ("1", "2"), None),
        ("some words", "text", (), None),
        ("(0, 1]", "math", (), None),
        ("", "math", (), "the gold is empty"),
        ("5}", "number", (), "the gold as a completion is judged wrong: not a number"),
        ("F", "choice", ("1", "2"), "the gold names no option of 2"),
        ("some words", "math", (), None),
        ("x^2 +", "math", (), None),
        ("July 4, 2024", "math", (), None),
        ("x^2 + \x0crac12", "math", (), "the gold holds the control character U+000C (a lost backslash?)"),
        ("a{b", "text", (), "the gold as a completion is judged no-answer: no answer found"),
    ],
)
def test_complaints(verifier, gold, kind, options, complaint):
    assert gold_problem(Problem("p", "?", (), gold, kind, options), verifier) == complaint


def test_without_a_verifier_one_is_opened():
    assert gold_problem(Problem("p", "?", (), "x + 1")) is None


def test_a_data_set_at_once_keeps_its_order(verifier):
    golds = [f"x + {n}" if n % 2 else "$$" for n in range(20)]
    found = gold_problems([Problem(str(n), "?", (), gold) for n, gold in enumerate(golds)], verifier)
    assert [complaint is None for complaint in found] == [n % 2 == 1 for n in range(20)]


@given(st.one_of(numbers, st.text(max_size=30)), st.sampled_from(["number", "text", "choice"]), choices, st.data())
@examples(max_examples=300, deadline=None)
def test_an_accepted_gold_is_right_in_any_box(settings, verifier, gold, kind, options, data):
    problem = Problem("p", "?", (), gold, kind, options if kind == "choice" else ())
    rewarder = Rewarder(settings(), max_tokens=9)
    rewarder.verifier = verifier
    if gold_problem(problem, verifier) is None:
        record = rewarder.score_one(problem, data.draw(st.sampled_from(DRESSINGS)).format(gold))
        assert (record.verdict, record.total) == ("right", 1.0)


@given(algebra, st.sampled_from(DRESSINGS))
@examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_an_accepted_mathematical_gold_is_right_in_any_box(settings, verifier, gold, dressing):
    problem = Problem("p", "?", (), gold, "math")
    rewarder = Rewarder(settings(), max_tokens=9)
    rewarder.verifier = verifier
    complaint = gold_problem(problem, verifier)
    verdict = rewarder.score_one(problem, dressing.format(gold)).verdict
    if complaint is None:
        assert verdict == "right"
    elif not complaint.startswith("the gold as a completion"):
        assert verdict in ("gold-unusable", "no-answer")
