r"""The gold answer of a problem and its kind.

An answer loses what a solution wraps around it: `<answer>`, `\boxed{}`, `$`, `\text{}`. Its kind is the first
that applies: `choice` if there are choices (the answer becomes the letter) or it is one capital letter from A
to J; `number` if it is a plain decimal number; `text` if it is at most five words; `math` otherwise.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from mmhicra.records import AnswerKind
from mmhicra.refusals import DataRefusal

_LETTER = re.compile(r"\(?([A-Z])\)?[.:]?")
_LONE_LETTER = re.compile(r"\(?([A-J])\)?[.:]?")
_NUMBER = re.compile(r"(?=.*\d)[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
_WORDS = re.compile(r"[^\W\d_]+(?:[ '’,.-]+[^\W\d_]+)*\.?")
MOST_WORDS = 5
"""A longer text would have to be repeated word by word."""
_FUNCTIONS = frozenset({"sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt"})
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
"""Half of a LaTeX command: JSON reads `\\f` of an unescaped `\\frac` as a form feed."""


def read_answer(cell: Any, choices: Sequence[str], *, prefer_text: bool = False) -> tuple[str, AnswerKind]:
    """The gold answer and its kind, by the rules at the top of this file.

    Args:
        cell: text, a number, or a list of one of them.
        choices: what a multiple-choice answer must name.
        prefer_text: look for the answer among the texts of the choices before reading it as a letter.

    Raises:
        DataRefusal: the answer is empty, ambiguous, or names no choice.
    """
    if isinstance(cell, list | tuple) and len(cell) == 1:
        cell = cell[0]
    if isinstance(cell, list | tuple | Mapping):
        raise DataRefusal(f"answer unusable: a {type(cell).__name__} of {len(cell)}, not one answer")
    answer = unwrap_answer("" if cell is None else str(cell))
    if not answer:
        raise DataRefusal("answer empty")
    if choices:
        return choose_letter(answer, choices, prefer_text=prefer_text), "choice"
    if letter := _LONE_LETTER.fullmatch(answer):
        return letter[1], "choice"
    if _NUMBER.fullmatch(answer):
        return answer, "number"
    words = re.findall(r"[^\W\d_]+", answer)
    few = len(words) <= MOST_WORDS and any(len(word) > 2 for word in words)
    if few and _WORDS.fullmatch(answer) and not _FUNCTIONS & set(words):
        return answer, "text"
    return answer, "math"


def unwrap_answer(text: str) -> str:
    r"""Take off what a solution wraps around its answer: `<answer>`, `\boxed{}`, `$`, `\text{}`.

    Raises:
        DataRefusal: a brace is not closed, there are different boxes, or JSON has eaten a backslash.
    """
    text = text.replace("\r\n", "\n")
    tagged = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    answer, before = tagged[-1] if tagged else text, None
    while answer != before:
        # In front only blanks go: a form feed or a tab there is what JSON made of \frac or \text.
        before = answer = answer.rstrip().lstrip(" \n")
        answer = _unbox(answer)
        for left, right in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
            inner = answer[len(left) : -len(right)]
            if len(answer) >= len(left + right) and answer == left + inner + right and left not in inner:
                answer = inner
        if answer.startswith(r"\text{") and braced(answer, len(r"\text")) == answer[len(r"\text{") : -1]:
            answer = answer[len(r"\text{") : -1]
    if _CONTROL.search(answer):
        raise DataRefusal("answer unusable: it has lost a backslash; write LaTeX in JSON with two backslashes")
    return answer


def _unbox(text: str) -> str:
    r"""What stands in the one `\boxed{}` of a text, else the text."""
    boxes = {braced(text, match.end()) for match in re.finditer(r"\\boxed\s*(?=\{)", text)}
    if not boxes:
        return text
    if None in boxes:
        raise DataRefusal(r"answer unusable: \boxed{ is never closed")
    if len(boxes) > 1:
        raise DataRefusal(rf"answer unusable: {len(boxes)} different \boxed{{}}; keep one")
    return boxes.pop() or ""


def braced(text: str, start: int) -> str | None:
    """What stands in the balanced braces that open at `start`; None if they never close."""
    depth = 0
    for place in range(start, len(text)):
        if text[place] in "{}" and text[place - 1 : place] != "\\":
            depth += 1 if text[place] == "{" else -1
            if depth == 0:
                return text[start + 1 : place]
    return None


def choose_letter(answer: str, choices: Sequence[str], *, prefer_text: bool = False) -> str:
    """The letter of the choice that a gold answer names, by its letter or by its text.

    Raises:
        DataRefusal: it names none of them, or two that read alike.
    """
    letters = string.ascii_uppercase[: len(choices)]
    match = _LETTER.fullmatch(answer)
    by_letter = [match[1]] if match and match[1] in letters else []
    said = _plain(answer)
    forms = {letter: _plain(choice) for letter, choice in zip(letters, choices, strict=True)}
    by_text = [
        letter
        for letter, text in forms.items()
        if said in (text, _plain(f"({letter}) {text}"), _plain(f"{letter}. {text}"))
    ]
    found = (by_text or by_letter) if prefer_text else (by_letter or by_text)
    if len(found) > 1:
        raise DataRefusal(f"answer unusable: choices {' and '.join(found)} both read {answer!r}")
    if not found:
        raise DataRefusal(f"answer unusable: {answer[:40]!r} names none of the {len(choices)} choices")
    return found[0]


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
