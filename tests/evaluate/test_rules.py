from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mmhicra.core.errors import ConfigError
from mmhicra.core.intervals import clustered_interval, wilson_interval
from mmhicra.evaluate.benchmarks.cards import NAMES, read_card
from mmhicra.evaluate.benchmarks.latex_number import latex_number
from mmhicra.evaluate.benchmarks.mathverse import read_options
from mmhicra.evaluate.benchmarks.mathvision_rules import extract_official, is_correct, is_equal
from mmhicra.evaluate.benchmarks.mathvista import MathVista, levenshtein, normalise
from mmhicra.evaluate.benchmarks.prompts import BOXED, mathvista_query, write_prompt
from mmhicra.evaluate.benchmarks.registry import make_benchmark
from mmhicra.evaluate.scoring.records import Item, Response, SampleRecord
from mmhicra.evaluate.scoring.score import accuracy_of, score_pairs, summarise

READ = [
    ("1:2", 0.5), ("x=5", 5), ("5}6", 5), ("5.abc", 5), ("1,000", 1000), ("1 1/2", 0.5), ("2^34", 2**34),
    (r"2\sqrt{3}", 2 * math.sqrt(3)), (r"\frac{1}{2}:3", 1 / 6), ("3:4:5", 0.15), (r"\sqrt[3]{8}", 2.0),
    (r"50\%", 0.5), ("5!", 120), ("-2^2", -4), ("2^{3}4", 32), (r"\log_2{8}", 3.0), (r"\left(5\right)", 5),
    ("2.0", 2), ("12.5.6", 7.5),
]  # fmt: skip
UNREAD = ["20%", r"90^{\circ}", r"\frac12", "2-", "(1", "a", "3a", "2,3", "", "5cm", r"\text{5}", "∞", "5:", r"\sqrt2"]
"""What latex2sympy2 1.9.1 and Python make of them; measured with the library."""


@pytest.mark.parametrize(("text", "value"), READ)
def test_numbers_are_read_as_the_official_library_reads_them(text, value):
    assert latex_number(text) == pytest.approx(value)


@pytest.mark.parametrize("text", UNREAD)
def test_what_it_raises_on_has_no_value(text):
    assert latex_number(text) is None


@pytest.mark.parametrize(
    "text", ["10^{10^{10}}", "9^{999999}", "999999!", "(" * 999 + "1" + ")" * 999, "1/0", "7" * 9999]
)
def test_what_is_too_large_has_no_value(text):
    assert latex_number(text) is None


@given(st.text(alphabet=r"0123456789.,/^{}()[]\fracsqrtpi+-*=: %!ex", max_size=40))
@examples(deadline=None)
def test_any_text_is_a_finite_number_or_none(text):
    value = latex_number(text)
    assert value is None or math.isfinite(value) or isinstance(value, int)


@given(st.integers(-999, 999), st.integers(1, 999), st.sampled_from("+-*/:"), st.integers(1, 999))
def test_arithmetic_is_pythons(one, two, operator, three):
    text = f"{one}{operator}\\frac{{{two}}}{{{three}}}"
    expected = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}.get(
        operator, lambda a, b: a / b
    )
    assert latex_number(text) == pytest.approx(float(expected(Fraction(one), Fraction(two, three))))


@pytest.mark.parametrize(
    "wrapped", [r"\boxed{B}", r"\boxed{(B)}", r"\boxed{B.}", r"\boxed{\text{B}}", "The answer is (B)."]
)
def test_mathvision_takes_these_letters(wrapped):
    assert is_correct(extract_official(wrapped), "B", ("1", "2", "3", "4", "5"))


@pytest.mark.parametrize(
    "wrapped", [r"\boxed{\textbf{(B)}}", r"\boxed{\mathrm{B}}", "Answer: B", "**B**", "<answer>B</answer>"]
)
def test_mathvision_does_not_take_these_and_the_robust_mode_does(wrapped, verifier):
    item = Item("1", "?", "B", "choice", ("1", "2", "3", "4", "5"), facts={"answer": "B"})
    assert not is_correct(extract_official(wrapped), "B", item.choices)
    pairs = [(item, Response("1", wrapped))]
    assert score_pairs(make_benchmark("mathvision"), pairs, "robust", verifier=verifier)[0].correct


@pytest.mark.parametrize(
    ("answer", "gold", "equal"),
    [(r"\frac{1}{2}", "0.5", True), ("0.333", r"\frac{1}{3}", True), ("(1/2,3)", "(0.5,3)", True), ("a", "A", True),
     ("(2,3)", "(3,2)", False), ("8kg", r"8\mathrm{kg}", False), ("", "", False), ("3.14", r"\pi", True)],
)  # fmt: skip
def test_mathvision_equality_is_to_two_decimals(answer, gold, equal):
    assert is_equal(answer, gold) == equal


FOUR = ("5", "12", "Yes", "(c)")


@pytest.mark.parametrize(
    ("extraction", "prediction", "nearest"),
    [
        ("A", "5", False),
        ("(b) 7", "12", False),
        ("b", "5", True),
        ("yes", "Yes", True),
        ("", "5", True),
        ("E", "5", True),
    ],
)
def test_mathvista_options(extraction, prediction, nearest):
    assert normalise(Item("1", "?", "5", "choice", FOUR), extraction, "current") == (prediction, nearest)


@pytest.mark.parametrize(
    ("extraction", "legacy", "current"),
    [("5", "5", "5"), ("5.7", None, "5"), ("5.0", None, "5"), ("1e999", None, None)],
)
def test_mathvista_integers(extraction, legacy, current):
    item = Item("1", "?", "5", "number", facts={"answer_type": "integer"})
    assert normalise(item, extraction, "legacy")[0] == legacy
    assert normalise(item, extraction, "current")[0] == current


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_edit_distance_is_a_distance(one, two, three):
    assert (levenshtein(one, two) == 0) == (one == two)
    assert levenshtein(one, two) == levenshtein(two, one)
    assert levenshtein(one, three) <= levenshtein(one, two) + levenshtein(two, three)
    assert abs(len(one) - len(two)) <= levenshtein(one, two) <= max(len(one), len(two))


def test_mathverse_options_are_read_from_the_question():
    assert read_options("Which?\nChoices:\nA:40°\nB:60°\nC:no") == ("40°", "60°", "no")
    assert read_options("True?\nChoice:\nA. True\nB. False") == ("True", "False")
    assert read_options("Let A: be a point") == ()


def record(correct: bool, version: str, cluster: str) -> SampleRecord:
    return SampleRecord("1", correct, "5", "boxed", "5", "5", "", groups={"version": (version,)}, cluster=cluster)


def test_text_only_is_no_part_of_mathverse():
    records = [record(True, "Text Lite", "1"), record(False, "Vision Only", "1"), record(True, "Text Only", "1")]
    result = summarise(make_benchmark("mathverse"), records, "robust", "response")
    assert (result["score"]["correct"], result["score"]["total"]) == (1, 2)
    assert result["versions_in_score"] == ["Text Lite", "Vision Only"]
    alone = summarise(make_benchmark("mathverse"), records[2:], "robust", "response")
    assert alone["versions_in_score"] == ["Text Only"]


def test_versions_of_one_problem_widen_the_interval():
    alike = [record(n % 2 == 0, str(v), str(n)) for n in range(100) for v in range(5)]
    width = accuracy_of(alike).high - accuracy_of(alike).low
    alone = wilson_interval(0.5, 500)
    assert width == pytest.approx(math.sqrt(5) * (alone.high - alone.low), rel=0.03)
    assert clustered_interval([1.0] * 4, "abcd") == wilson_interval(1.0, 4)


def test_the_prompts():
    item = Item("1", "How long?", "1.25", "number", facts={"answer_type": "float", "precision": 2.0, "unit": "years"})
    assert mathvista_query(item).endswith("1.23, 1.34, 1.45, at the end.\nQuestion: How long? (Unit: years)")
    drawn = Item("1", "Which? <image1>", "B", "choice", tuple("ABCDE"))
    assert write_prompt("mathvision", drawn, "boxed") == f"Which? <image1>\n{BOXED}"
    assert "(B) 60" in write_prompt("mathvision", Item("1", "Which?", "B", "choice", ("40", "60")), "cot")
    with pytest.raises(ConfigError, match="no prompt 'cot'"):
        write_prompt("mathvista", item, "cot")
    for name in NAMES:
        assert "boxed" in read_card(name).prompts


def test_mathvista_queries_are_the_official_ones(data_folder, read_json):
    from mmhicra.evaluate.benchmarks.registry import load_items

    queries = read_json(data_folder / "mathvista" / "query.json.gz")
    items = load_items(MathVista(), str(data_folder / "mathvista" / "testmini.json.gz"))
    assert len(items) == (1000 if data_folder.real else len(queries))
    assert [item.id for item in items if mathvista_query(item) != queries[item.id]] == []
