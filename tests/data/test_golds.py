"""Choices are written once, and gold answers are read by the documented rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmhicra.data.choices import read_choices, write_choices
from mmhicra.data.gold import braced, read_answer, unwrap_answer
from mmhicra.refusals import DataRefusal


@pytest.mark.parametrize(
    ("cell", "choices", "written"),
    [
        (["5", 14, 2.5], ("5", "14", "2.5"), "?\n(A) 5 (B) 14 (C) 2.5"),
        (["A. 5", "B. 14"], ("5", "14"), "?\n(A) 5 (B) 14"),
        (["(A) 5", "(B) 14"], ("5", "14"), "?\n(A) 5 (B) 14"),
        ({"A": "5", "B": "14", "C": None}, ("5", "14"), "?\n(A) 5 (B) 14"),
        (["A", "B", "C"], ("A", "B", "C"), "?"),
        (["A)", "B)"], ("A", "B"), "?"),
        (["A", "B", "A or B"], ("A", "B", "A or B"), "?\n(A) A (B) B (C) A or B"),
        (["B", "A"], ("B", "A"), "?\n(A) B (B) A"),
        ([], (), "?"),
        (None, (), "?"),
    ],
)
def test_choices(cell, choices, written):
    assert read_choices(cell) == choices
    assert write_choices("?", choices) == written
    assert write_choices(written, choices) == written, "choices are written once"


@pytest.mark.parametrize("cell", ["A B C", ["5", None], ["x"] * 27])
def test_unreadable_choices_are_refused(cell):
    with pytest.raises(DataRefusal, match="choices unreadable: "):
        read_choices(cell)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("7", ("7", "number")),
        (7, ("7", "number")),
        (7.5, ("7.5", "number")),
        (["7"], ("7", "number")),
        ("-1,234.5", ("-1,234.5", "number")),
        ("$7$", ("7", "number")),
        (r"\boxed{7}", ("7", "number")),
        (r"$\boxed{ \frac{1}{2} }$", (r"\frac{1}{2}", "math")),
        (r"so \boxed{17^\circ}.", (r"17^\circ", "math")),
        ("<think>1 + 1</think><answer> 2 </answer>", ("2", "number")),
        (r"\boxed{\text{C}}", ("C", "choice")),
        ("(C)", ("C", "choice")),
        ("K", ("K", "math")),
        ("x", ("x", "math")),
        ("3/4", ("3/4", "math")),
        ("-", ("-", "math")),
        ("$a$ and $b$", ("$a$ and $b$", "math")),
        ("sin x", ("sin x", "math")),
        ("Yes", ("Yes", "text")),
        ("isosceles triangle", ("isosceles triangle", "text")),
        ("等边三角形", ("等边三角形", "text")),
        ("it grows as long as the other falls", ("it grows as long as the other falls", "math")),
    ],
)
def test_golds_without_choices(cell, expected):
    assert read_answer(cell, ()) == expected


@pytest.mark.parametrize(
    ("cell", "choices", "prefer_text", "letter"),
    [
        ("C", ("5", "14", "15"), False, "C"),
        ("(C)", ("5", "14", "15"), False, "C"),
        ("14", ("5", "14", "15"), False, "B"),
        ("B. 14", ("5", "14", "15"), False, "B"),
        (" no ", ("Yes", "No"), True, "B"),
        ("A", ("B", "A"), False, "A"),
        ("A", ("B", "A"), True, "B"),
        (r"\boxed{B}", ("5", "14"), False, "B"),
    ],
)
def test_golds_with_choices(cell, choices, prefer_text, letter):
    assert read_answer(cell, choices, prefer_text=prefer_text) == (letter, "choice")


@pytest.mark.parametrize(
    ("cell", "choices", "says"),
    [
        (None, (), "answer empty"),
        ("  ", (), "answer empty"),
        (r"\boxed{}", (), "answer empty"),
        (["1", "2"], (), "answer unusable: a list of 2, not one answer; data.columns.kind: text keeps it as JSON"),
        (r"\boxed{1} or \boxed{2}", (), r"answer unusable: 2 different \boxed{}; keep one"),
        (r"\boxed{\frac{1}{2}", (), r"answer unusable: \boxed{ is never closed"),
        ("\x0crac{36}{13}", (), "answer unusable: it has lost a backslash; write LaTeX in JSON with two backslashes"),
        ("E", ("5", "14"), "answer unusable: 'E' names none of the 2 choices"),
        ("18", ("9", "18", "18"), "answer unusable: choices B and C both read '18'"),
    ],
)
def test_unusable_golds_are_refused(cell, choices, says):
    with pytest.raises(DataRefusal) as refusal:
        read_answer(cell, choices)
    assert str(refusal.value) == says


PLAIN = st.text("ab1+{}", max_size=12).filter(lambda text: balanced(text) and text)
WRAPS = st.permutations([r"\boxed{%s}", "$%s$", r"\text{%s}", r"\(%s\)", " %s\n"])


def balanced(text: str) -> bool:
    depth = 0
    for sign in text:
        depth += (sign == "{") - (sign == "}")
        if depth < 0:
            return False
    return depth == 0


@given(PLAIN, WRAPS, st.integers(0, 5))
def test_wrapping_an_answer_changes_nothing(answer, wraps, count):
    wrapped = answer
    for wrap in wraps[:count]:
        wrapped = wrap % wrapped
    assert unwrap_answer(wrapped) == answer


@given(PLAIN, st.text("ab{}", max_size=5))
def test_braced_finds_the_balanced_part(inside, after):
    assert braced("{" + inside + "}" + after, 0) == inside
