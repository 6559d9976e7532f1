r"""The gold answer of a problem and its kind.

An answer loses what a solution wraps around it: `<answer>`, `\boxed{}`, `$`, `\text{}`. Its kind is what
`data.columns.kind` says, else the first that applies: `choice` if there are choices (the answer becomes the letter) or
it is one capital letter from A to J; `box`, `boxes` or `point` if it is an object that says so, or a list of four
numbers; `number` if it is a plain decimal number; `text` if it is a few words; `math` otherwise.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from mmhicra.config.data import ChoiceAnswer
from mmhicra.core.errors import DataError
from mmhicra.core.records import AnswerKind
from mmhicra.data.encoded import read_list
from mmhicra.data.regions import REGIONS, as_json, read_region, region_in
from mmhicra.data.text import shorten
from mmhicra.rewards.answers import joined_boxes

KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)

_LETTER = re.compile(r"\(?([A-Z])\)?[.:]?")
_ANY_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_LONE_LETTER = re.compile(r"\(?([A-J])\)?[.:]?")
_NUMBER = re.compile(r"(?=.*\d)[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
_INTEGER = re.compile(r"[+-]?\d{1,9}")
_NUMBERS_IN_TEXT = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])")
_WORDS = re.compile(r"[^\W\d_]+(?:[ '’,.，、;；-]+[^\W\d_]+)*[.。]?")
MOST_WORDS = 5
MOST_UNSPACED = 20
"""The most words of a gold that is a text, and the most characters in languages without blanks: a longer text would
have to be repeated word by word."""
MOST_WRAPS = 20
"""The most layers around an answer that are taken off."""
_FUNCTIONS = frozenset({"sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt"})
_SHORT_WORDS = frozenset(
    ("am", "an", "as", "at", "be", "by", "do", "go", "he", "hi", "if", "in", "is", "it", "me", "my", "no", "of", "ok")
) | frozenset(("on", "or", "pm", "so", "to", "up", "us", "we"))
"""Words of two letters; any other two letters, e.g. AB, are a product or a segment."""
_OTHER_SCRIPT = re.compile(
    r"[\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0400-\u06ff\u0900-\u0eff\u1e00-\u1eff\u3040-\u9fff\uac00-\ud7af]"
)
"""Letters that mathematics does not use: accented Latin, Cyrillic, Hebrew, Arabic, Indian, Thai, East Asian."""
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u9fff]")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
"""Half of a LaTeX command: JSON reads `\\f` of an unescaped `\\frac` as a form feed."""


def read_answer(
    cell: Any,
    choices: Sequence[str],
    *,
    prefer_text: bool = False,
    kind: AnswerKind | None = None,
    by: ChoiceAnswer = "auto",
    counts: bool = False,
) -> tuple[str, AnswerKind]:
    """The gold answer and its kind, by the rules at the top of this file.

    Args:
        cell: text, a number, or a list of one of them; a box, boxes or a point; with kind `text` also any other list
            or object, kept as JSON.
        choices: what a multiple-choice answer must name.
        prefer_text: search the texts of the choices for the answer before reading it as a letter.
        kind: as the configuration says; None tells it from the answer.
        by: how the answer names its choice, see `data.choice_answer`.
        counts: with `auto`, a whole number counts the choices from 0, whatever they say.

    Raises:
        DataError: the answer is empty, ambiguous, or names no choice.
    """
    if kind is None and not choices:
        kind = _kind_of_region(cell)
    if kind in REGIONS:
        return read_region(cell, kind), kind
    if isinstance(cell, list | tuple) and len(cell) == 1:
        cell = cell[0]
    if isinstance(cell, list | tuple | Mapping):
        if kind != "text":
            raise DataError(
                f"answer unusable: a {type(cell).__name__} of {len(cell)}, not one answer; data.columns.kind: text "
                "keeps it as JSON"
            )
        cell = as_json(cell)
    if isinstance(cell, bytes | bytearray | memoryview):
        raise DataError("answer unusable: bytes, not text; write it as text")
    if isinstance(cell, float) and not math.isfinite(cell):
        raise DataError(f"answer unusable: {cell} is no finite number")
    answer = unwrap_answer("" if cell is None else str(cell))
    if not answer:
        raise DataError("answer empty")
    if choices and kind in (None, "choice"):
        return _choose(cell, answer, choices, prefer_text, by, counts), "choice"
    if kind == "choice":
        if letter := _LETTER.fullmatch(answer):
            return letter[1], "choice"
        raise DataError(f"answer unusable: {shorten(answer, 40)!r} is no letter, and the row has no choices")
    return (answer, kind) if kind else _by_form(answer)


def write_raw(cell: Any) -> str:
    """A gold that no term of the reward reads, as it came; a list or an object as JSON."""
    return cell if isinstance(cell, str) else as_json(cell) if isinstance(cell, list | tuple | Mapping) else str(cell)


def _kind_of_region(cell: Any) -> AnswerKind | None:
    """The kind of objects that say what they are, and of lists of four numbers; a text of numbers is mathematics."""
    value = read_list(cell) if isinstance(cell, str) else cell
    if isinstance(value, list | tuple) and not any(isinstance(one, Mapping) for one in value):
        said = None if isinstance(cell, str) else region_in(value)
        return None if said == "point" else said
    return region_in(value)


def _by_form(answer: str) -> tuple[str, AnswerKind]:
    """The answer, and the kind that its writing suggests."""
    if letter := _LONE_LETTER.fullmatch(answer):
        return letter[1], "choice"
    if _NUMBER.fullmatch(answer):
        return answer, "number"
    return answer, "text" if _is_text(answer) else "math"


def _is_text(answer: str) -> bool:
    """Whether an answer is a few words, of any language, rather than the name of something mathematical."""
    words = re.findall(r"[^\W\d_]+", answer)
    if not _WORDS.fullmatch(answer) or len(words) > MOST_WORDS or _FUNCTIONS & set(words):
        return False
    if _UNSPACED.search(answer) and len(answer) > MOST_UNSPACED:
        return False
    return any(len(word) > 2 or word.lower() in _SHORT_WORDS for word in words) or bool(_OTHER_SCRIPT.search(answer))


def unwrap_answer(text: str) -> str:
    r"""Take off what a solution wraps around its answer: `<answer>`, `\boxed{}`, `$`, `\text{}`.

    Raises:
        DataError: a brace is not closed, there are different boxes, or JSON has eaten a backslash.
    """
    text = text.replace("\r\n", "\n")
    answer = _last_tagged(text)
    for _ in range(MOST_WRAPS):
        # In front only blanks go: a form feed or a tab there is what JSON made of \frac or \text.
        before = answer = answer.rstrip().lstrip(" \n")
        answer = _unbox(answer)
        for left, right in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
            inner = answer[len(left) : -len(right)]
            if len(answer) >= len(left + right) and answer == left + inner + right and left not in inner:
                answer = inner
        if answer.startswith(r"\text{") and braced(answer, len(r"\text")) == answer[len(r"\text{") : -1]:
            answer = answer[len(r"\text{") : -1]
        if answer == before:
            break
    if _CONTROL.search(answer):
        raise DataError("answer unusable: it has lost a backslash; write LaTeX in JSON with two backslashes")
    return answer


def _last_tagged(text: str) -> str:
    """What stands in the last `<answer>...</answer>`, else the text."""
    found, place = text, 0
    while (start := text.find("<answer>", place)) >= 0 and (end := text.find("</answer>", start)) >= 0:
        found, place = text[start + len("<answer>") : end], end
    return found


def _unbox(text: str) -> str:
    r"""What stands in the one `\boxed{}` of a text, or in several that it joins to a list, else the text."""
    box = None
    for match in re.finditer(r"\\boxed\s*(?=\{)", text):
        found = braced(text, match.end())
        if found is None:
            raise DataError(r"answer unusable: \boxed{ is never closed")
        if box is not None and found != box:
            if (joined := joined_boxes(text)) is not None:
                return joined
            raise DataError(r"answer unusable: 2 different \boxed{}; keep one")
        box = found
    return text if box is None else box


def braced(text: str, start: int) -> str | None:
    """What stands in the balanced braces that open at `start`; None if they never close."""
    depth = 0
    for brace in re.compile(r"(?<!\\)[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start + 1 : brace.start()]
    return None


def _choose(cell: Any, answer: str, choices: Sequence[str], prefer_text: bool, by: ChoiceAnswer, counts: bool) -> str:
    """The letter of the choice that an answer names, by the rule that the configuration sets."""
    if by in ("index", "index_from_1"):
        if not _INTEGER.fullmatch(_integral(cell, answer)):
            raise DataError(f"answer unusable: {shorten(answer, 40)!r} is no index; data.choice_answer is {by}")
        return _by_index(int(_integral(cell, answer)) - (by == "index_from_1"), choices, by)
    whole = answer.removesuffix(".0") if counts else _integral(cell, answer)  # CSV files write 2.0, too
    if by == "auto" and not prefer_text and not isinstance(cell, bool) and _INTEGER.fullmatch(whole):
        if counts and not isinstance(cell, str):
            return _by_index(int(whole), choices, "index")
        if counts or not isinstance(cell, str):
            return _by_whole_number(int(whole), choices)
    return choose_letter(answer, choices, prefer_text=prefer_text, by=by)


def _integral(cell: Any, answer: str) -> str:
    """A whole number that pandas has made a float, without its `.0`; else the answer."""
    return str(int(cell)) if isinstance(cell, float) and cell == int(cell) else answer


def _by_index(index: int, choices: Sequence[str], by: ChoiceAnswer) -> str:
    if 0 <= index < len(choices):
        return string.ascii_uppercase[index]
    first = int(by == "index_from_1")
    raise DataError(f"answer unusable: index {index + first} of {len(choices)} choices counted from {first}")


def _by_whole_number(number: int, choices: Sequence[str]) -> str:
    """The choice that a bare number names: its index from 0, unless a choice is, or holds, that number.

    Raises:
        DataError: both are possible and name different choices, or neither is.
    """
    named = [letter for letter, choice in zip(string.ascii_uppercase, choices, strict=False) if _says(choice, number)]
    by_index = string.ascii_uppercase[number] if 0 <= number < len(choices) else None
    if named and by_index and named != [by_index]:
        raise DataError(
            f"answer unusable: {number} may be an index ({by_index}) or a choice's text ({' and '.join(named)}); set "
            "data.choice_answer to index, index_from_1 or text"
        )
    if len(named) > 1:
        raise DataError(f"answer unusable: choices {' and '.join(named)} both read {number}")
    if found := named or ([by_index] if by_index else []):
        return found[0]
    raise DataError(
        f"answer unusable: {number} is neither the text nor the index, from 0, of one of the {len(choices)} choices; "
        "data.choice_answer: index_from_1 counts from 1"
    )


def _says(choice: str, number: int) -> bool:
    """Whether a choice is this number, in mathematics or with a unit too."""
    found = [float(text) for text in _NUMBERS_IN_TEXT.findall(choice)]
    return found == [float(number)]


def choose_letter(answer: str, choices: Sequence[str], *, prefer_text: bool = False, by: ChoiceAnswer = "auto") -> str:
    """The letter of the choice that a gold answer names, by its letter or by its text.

    Raises:
        DataError: it names none of them, or two that read alike.
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
    if by == "letter":
        by_text = []
    elif by == "text":
        by_letter = []
    found = (by_text or by_letter) if prefer_text else (by_letter or by_text)
    small = _ANY_LETTER.fullmatch(answer)
    if not found and by != "text" and small and small[1].upper() in letters:
        found = [small[1].upper()]
    if len({forms[letter] for letter in found}) == 1:
        found = found[:1]  # options of equal text are one option
    if len(found) > 1:
        raise DataError(f"answer unusable: choices {' and '.join(found)} both read {shorten(answer, 80)!r}")
    if not found:
        hint = ""
        if _INTEGER.fullmatch(answer):
            hint = "; if it counts them, set data.choice_answer to index or index_from_1"
        raise DataError(f"answer unusable: {shorten(answer, 40)!r} names none of the {len(choices)} choices{hint}")
    return found[0]


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
