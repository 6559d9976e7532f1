"""Choices are written once, and gold answers are read by the documented rules."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmhicra.core.errors import DataError
from mmhicra.data import gold
from mmhicra.data.choices import read_choices, write_choices
from mmhicra.data.gold import braced, read_answer, unwrap_answer


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
        (["(a) 5", "(b) 14"], ("5", "14"), "?\n(A) 5 (B) 14"),
        (["（A）5", "（B）14"], ("5", "14"), "?\n(A) 5 (B) 14"),
        (["5", "14", None, None], ("5", "14"), "?\n(A) 5 (B) 14"),
        (["5", "14", "", float("nan")], ("5", "14"), "?\n(A) 5 (B) 14"),
        ('["5", "14"]', ("5", "14"), "?\n(A) 5 (B) 14"),
        ("['5', '14']", ("5", "14"), "?\n(A) 5 (B) 14"),
        ('{"A": "5", "B": "14"}', ("5", "14"), "?\n(A) 5 (B) 14"),
        ("A. 5\nB. 14", ("5", "14"), "?\n(A) 5 (B) 14"),
        ("(a) 5 (b) 14", ("5", "14"), "?\n(A) 5 (B) 14"),
        ({"0": "5", "1": "14"}, ("5", "14"), "?\n(A) 5 (B) 14"),
        ({"label": ["A", "B"], "text": ["5", "14"]}, ("5", "14"), "?\n(A) 5 (B) 14"),
        ([{"label": "A", "text": "5"}, {"label": "B", "text": "14"}], ("5", "14"), "?\n(A) 5 (B) 14"),
        ([], (), "?"),
        (None, (), "?"),
        ("", (), "?"),
        ("null", (), "?"),
        ({"A": None, "B": None}, (), "?"),
        ([None, ""], (), "?"),
    ],
)
def test_choices(cell, choices, written):
    assert read_choices(cell) == choices
    assert write_choices("?", choices) == written
    assert write_choices(written, choices) == written, "choices are written once"


@pytest.mark.parametrize(
    "cell",
    [
        *(
            "A B C",
            "B. 5\nA. 14",
            "5; 14",
            "A. 5",
            ["5", None, "14"],
            ["x"] * 27,
            ["5"],
            {"A": "5", "C": "14"},
            7,
            b"5",
        ),
        *([["5"], ["14"]], [b"5", b"14"], {"x": "5", "y": "14"}, "[5, 14", [{}, {"id": 1}]),
    ],
)
def test_unreadable_choices_are_refused(cell):
    with pytest.raises(DataError, match="choices unreadable: "):
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
        (r"$x=\boxed{2}$ and $x=\boxed{-5}$", ("2, -5", "math")),
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
        ("no", ("no", "text")),
        ("No.", ("No.", "text")),
        ("go up", ("go up", "text")),
        ("是", ("是", "text")),
        ("增大", ("增大", "text")),
        ("左、右", ("左、右", "text")),
        ("да", ("да", "text")),
        ("oui", ("oui", "text")),
        ("AB", ("AB", "math")),
        ("xy", ("xy", "math")),
        ("π", ("π", "math")),
        ("α", ("α", "math")),
        ("ℝ", ("ℝ", "math")),
        ("3个", ("3个", "math")),
        (
            "因为三角形的内角和等于一百八十度所以答案是直角三角形",
            ("因为三角形的内角和等于一百八十度所以答案是直角三角形", "math"),
        ),
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
        ("18", ("9", "18", "18"), False, "B"),
        ("B. 14", ("5", "14", "15"), False, "B"),
        (" no ", ("Yes", "No"), True, "B"),
        ("A", ("B", "A"), False, "A"),
        ("A", ("B", "A"), True, "B"),
        (r"\boxed{B}", ("5", "14"), False, "B"),
    ],
)
def test_golds_with_choices(cell, choices, prefer_text, letter):
    assert read_answer(cell, choices, prefer_text=prefer_text) == (letter, "choice")


SEVERAL = ("frog", "whale", "trout")
COUNTS = ("1", "2", "3", "4")


@pytest.mark.parametrize(
    ("cell", "choices", "by", "letter"),
    [
        (1, SEVERAL, "auto", "B"),
        (1.0, SEVERAL, "auto", "B"),  # pandas, where other rows have no answer
        (0, SEVERAL, "auto", "A"),
        (4, COUNTS, "auto", "D"),  # no index: a text
        (14, ("5", "14", "15"), "auto", "B"),
        (1, ("0", "1", "2"), "auto", "B"),  # both mean the same
        ("2", COUNTS, "auto", "B"),  # text names text
        ("b", SEVERAL, "auto", "B"),
        (1, COUNTS, "index", "B"),
        ("1", COUNTS, "index", "B"),
        (1, COUNTS, "index_from_1", "A"),
        ("3", SEVERAL, "index_from_1", "C"),
        (1, COUNTS, "text", "A"),
        ("A", ("B", "A"), "text", "B"),
        ("A", ("B", "A"), "letter", "A"),
    ],
)
def test_how_an_answer_names_its_choice(cell, choices, by, letter):
    assert read_answer(cell, choices, by=by) == (letter, "choice")


@pytest.mark.parametrize(
    ("cell", "choices", "by", "says"),
    [
        (1, COUNTS, "auto", "1 may be an index (B) or a choice's text (A); set data.choice_answer to index"),
        (1, ("1 cm", "2 cm"), "auto", "1 may be an index (B) or a choice's text (A)"),
        (1, ("$1$", "$2$"), "auto", "1 may be an index (B) or a choice's text (A)"),
        (3, SEVERAL, "auto", "3 is neither the text nor the index, from 0, of one of the 3 choices"),
        (-1, SEVERAL, "auto", "-1 is neither"),
        ("1", SEVERAL, "auto", "'1' names none of the 3 choices; if it counts them, set data.choice_answer"),
        (3, SEVERAL, "index", "index 3 of 3 choices counted from 0"),
        (0, SEVERAL, "index_from_1", "index 0 of 3 choices counted from 1"),
        ("B", SEVERAL, "index", "'B' is no index; data.choice_answer is index"),
        ("B", SEVERAL, "text", "'B' names none of the 3 choices"),
        ("whale", SEVERAL, "letter", "'whale' names none of the 3 choices"),
    ],
)
def test_an_answer_that_may_name_another_choice_is_refused(cell, choices, by, says):
    with pytest.raises(DataError) as refusal:
        read_answer(cell, choices, by=by)
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    ("cell", "choices", "kind", "expected"),
    [
        ("A", (), "text", "A"),
        ("7", (), "text", "7"),
        ({"bbox": [1, 2]}, (), "text", '{"bbox": [1, 2]}'),
        ("3 cm", (), "number", "3 cm"),
        ("yes", (), "math", "yes"),
        ("K", (), "choice", "K"),
        ("14", ("5", "14"), "number", "14"),
        ("14", ("5", "14"), "choice", "B"),
    ],
)
def test_a_kind_that_is_set(cell, choices, kind, expected):
    assert read_answer(cell, choices, kind=kind) == (expected, kind)


@pytest.mark.parametrize(
    ("cell", "choices", "says"),
    [
        (b"3", (), "answer unusable: bytes, not text; write it as text"),
        (float("inf"), (), "answer unusable: inf is no finite number"),
        ({"value": 3}, (), "answer unusable: a dict of 1, not one answer; data.columns.kind: text keeps it as JSON"),
        (None, (), "answer empty"),
        ("  ", (), "answer empty"),
        (r"\boxed{}", (), "answer empty"),
        (["1", "2"], (), "answer unusable: a list of 2, not one answer; data.columns.kind: text keeps it as JSON"),
        (r"\boxed{1} or \boxed{2}", (), r"answer unusable: 2 different \boxed{}; keep one"),
        (r"\boxed{\frac{1}{2}", (), r"answer unusable: \boxed{ is never closed"),
        ("\x0crac{36}{13}", (), "answer unusable: it has lost a backslash; write LaTeX in JSON with two backslashes"),
        ("E", ("5", "14"), "answer unusable: 'E' names none of the 2 choices"),
        ("(A) B", ("B", "(A) B"), "answer unusable: choices A and B both read '(A) B'"),
    ],
)
def test_unusable_golds_are_refused(cell, choices, says):
    with pytest.raises(DataError) as refusal:
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


@pytest.mark.parametrize("text", [r"\boxed {" * 900, r"\text{" * 900 + "}" * 900, r"\boxed{1}\boxed{2}" * 900])
def test_hostile_golds_are_not_matched_brace_by_brace(text, monkeypatch):
    """Matching every box by itself is quadratic: 64 kB of boxes took 11 CPU seconds."""
    calls = []
    monkeypatch.setattr(gold, "braced", lambda text, start: calls.append(start) or braced(text, start))
    with contextlib.suppress(DataError):
        read_answer(text, ())
    assert len(calls) <= 2 * gold.MOST_WRAPS
