"""The choices of a problem, however they are kept, as plain texts in the order A, B, C.

They are written after the question as `(A) 5 (B) 14`, unless it lists them already or they are bare letters, which are
drawn in the image.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from mmhicra.core.errors import DataError
from mmhicra.data.encoded import read_list
from mmhicra.data.text import shorten

_LABEL = re.compile(r"(?:[(（]([A-Za-z])[)）]|([A-Za-z])[.):：、．])\s*(.*)|([A-Z])", re.DOTALL)
"""A choice that brings its own letter: `(A) 5`, `(a) 5`, `A. 5`, `A)`, `A`."""
_LABELS_IN_TEXT = re.compile(r"(?:^|(?<=\s))(?:[(（]([A-Za-z])[)）]|([A-Za-z])[.):：、．])")
_TEXT_KEYS = ("text", "texts", "value", "content", "option", "choice")
_NOTHING = ("", "null", "none", "nan")
"""A whole cell of text that says that there are no choices."""


def read_choices(cell: Any) -> tuple[str, ...]:
    """The choices without their own letters (`A. 5` -> `5`); one that is nothing but its letter keeps it.

    Args:
        cell: a list; an object of letters or numbers, or of lists `label` and `text`; either written as text; or a
            text of labelled choices, `A. 1\\nB. 3`. None and empty texts at its end fill up a table and are left out.

    Raises:
        DataError: the cell is nothing of that kind, an entry before the last is empty, or there is just one.
    """
    if isinstance(cell, str):
        cell = _of_text(cell.strip())
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ()
    if isinstance(cell, Mapping):
        cell = _of_object(cell)
    if not isinstance(cell, list | tuple):
        raise DataError(f"choices unreadable: a {type(cell).__name__}, not a list")
    choices = [_choice(entry) for entry in cell]
    while choices and not choices[-1]:
        choices.pop()
    if len(choices) > len(string.ascii_uppercase):
        raise DataError(f"choices unreadable: {len(choices)} of them, more than there are letters")
    if "" in choices:
        raise DataError(f"choices unreadable: choice {string.ascii_uppercase[choices.index('')]} is empty")
    if len(choices) == 1:
        raise DataError(f"choices unreadable: {shorten(choices[0], 40)!r} is the only one")
    return _without_labels(choices)


def _of_text(text: str) -> Any:
    """What a text holds: a list or an object written as text, labelled choices, or nothing."""
    if text.lower() in _NOTHING:
        return None
    if (held := read_list(text)) is not None:
        return held
    labels = list(_LABELS_IN_TEXT.finditer(text))
    letters = [(match[1] or match[2]).upper() for match in labels]
    if len(labels) < 2 or labels[0].start() or letters != list(string.ascii_uppercase[: len(letters)]):
        raise DataError(
            f"choices unreadable: {shorten(text, 60)!r} is one text; write a list, or label them A. B. C."
            " from its start"
        )
    ends = [match.start() for match in labels[1:]] + [len(text)]
    return [text[match.end() : end].strip() for match, end in zip(labels, ends, strict=True)]


def _of_object(cell: Mapping[str, Any]) -> Any:
    """The choices of `{"A": "5", "B": "14"}`, of `{"0": ...}`, or of `{"label": [...], "text": [...]}`.

    Arrow fills up the letters that a row does not have with None.
    """
    texts = next((cell[key] for key in _TEXT_KEYS if isinstance(cell.get(key), list | tuple)), None)
    if texts is not None:
        return texts
    held = {str(key).strip(): value for key, value in cell.items() if value is not None and value != ""}
    keys = sorted(held, key=lambda key: (len(key), key.upper()))
    upper = [key.upper() for key in keys]
    counted = [list(map(str, range(first, first + len(keys)))) for first in (0, 1)]
    if upper != list(string.ascii_uppercase[: len(keys)]) and keys not in counted:
        raise DataError(f"choices unreadable: keys {shorten(', '.join(keys), 60)}, not A, B, C")
    return [held[key] for key in keys]


def _choice(entry: Any) -> str:
    """One choice as text; empty for one that only fills up a table."""
    if isinstance(entry, Mapping):
        entry = next((entry[key] for key in _TEXT_KEYS if entry.get(key) is not None), entry)
    if entry is None or (isinstance(entry, float) and math.isnan(entry)):
        return ""
    if isinstance(entry, list | tuple | Mapping | bytes | bytearray | memoryview):
        raise DataError(f"choices unreadable: one is a {type(entry).__name__}, not text")
    return str(entry).strip()


def _without_labels(choices: Sequence[str]) -> tuple[str, ...]:
    """The choices without their own letters, if all have one and the letters are A, B, C in order."""
    labels = [_LABEL.fullmatch(choice) for choice in choices]
    own = [match and (match[1] or match[2] or match[4]) for match in labels]
    letters = string.ascii_uppercase[: len(choices)]
    if own != list(letters) and own != list(letters.lower()):
        return tuple(choices)
    return tuple((match[3] if match else "") or letter for match, letter in zip(labels, letters, strict=True))


def write_choices(text: str, choices: Sequence[str]) -> str:
    """Put the choices after the question as `(A) 5 (B) 14`, unless it lists them or they are bare letters."""
    if not choices or list(choices) == list(string.ascii_uppercase[: len(choices)]):
        return text
    written = [f"({letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False)]
    return text if all(choice in text for choice in written) else f"{text}\n{' '.join(written)}"
