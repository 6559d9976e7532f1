"""Text as JSON and scraped pages bring it: what cannot be written as UTF-8, and how a message shows it."""

from __future__ import annotations

import re

LONGEST_SHOWN = 400
"""Characters of an id or a reason that a list shows."""
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]")


def printable(text: str) -> str:
    r"""A text that any file and any terminal takes: `\x1b` for a control character, `\ud800` for a lone surrogate."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def shorten(text: str, limit: int = LONGEST_SHOWN) -> str:
    """The first characters of a printable text on one line."""
    text = " ".join(printable(text).split())
    return text if len(text) <= limit else text[:limit] + "..."


def fault_in(text: str) -> str | None:
    """Why a text can be neither tokenized nor written to a file: half of a character, or a NUL. None if it can."""
    if lone := _LONE_SURROGATE.search(text):
        return f"it holds half of a character (U+{ord(lone[0]):04X}); write the text anew as UTF-8"
    return "it holds a NUL character; take it out" if "\x00" in text else None
