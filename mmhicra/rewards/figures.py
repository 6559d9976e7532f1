r"""Statements of geometry and groups of letters: `AB \parallel CD`, `\triangle ABC`, `AB = CD`, options `A, C`."""

from __future__ import annotations

import re
from functools import lru_cache

from mmhicra.rewards.notation import plain

_RELATIONS = (  # how a relation is written, and its sign
    (r"\\parallel(?![a-z])|//|\|\|", "∥"),
    (r"\\perp(?![a-z])", "⊥"),
    (r"\\cong(?![a-z])|\\equiv(?![a-z])", "≅"),
    (r"\\sim(?![a-z])|~", "∼"),
    (r"=", "="),
)
_RELATION = re.compile("|".join(f"({pattern})" for pattern, _ in _RELATIONS))
_ANGLE = re.compile(r"(?:\\angle|∠|\bangle)\s*")
_TRIANGLE = re.compile(r"(?:\\(?:triangle|Delta|vartriangle)|△|Δ|\btriangle)\s*")
_SIDE = re.compile(r"[∠△]?\s*(?:[A-Z]['\d]?){1,4}|∠\s*\d")
_LINE = re.compile(r"[a-z]\d?")
_LETTERS = re.compile(r"\(?([A-J])\)?(?:(?:\s*(?:[,，、;；/&\n]|\band\b|和|与)\s*|\s*)\(?([A-J])\)?)+")
_SEPARATED = re.compile(r"[^A-J()]")


@lru_cache(maxsize=2048)
def read_statement(text: str) -> tuple[str, ...] | None:
    """A relation with its two sides in an order of its own, or one named angle or triangle; None for anything else."""
    text = re.sub(r"(?<![A-Za-z\\])([A-Za-z])_\{?(\d)\}?", r"\1\2", text)
    spelt = re.sub(r"\\(?:vec|overrightarrow|overleftrightarrow)\s*\{?(\w+)\}?", r"\1", plain(text))
    spelt = _TRIANGLE.sub("△", _ANGLE.sub("∠", re.sub(r"\b(?:line|segment|ray)\s+", "", spelt)))
    found = list(_RELATION.finditer(spelt))
    if len(found) != 1:
        side = _side(spelt) if not found and spelt[:1] in "∠△" else None
        return None if side is None else (side,)
    sign = next(mark for group, (_, mark) in zip(found[0].groups(), _RELATIONS, strict=True) if group)
    sides = [_side(side, sign) for side in (spelt[: found[0].start()], spelt[found[0].end() :])]
    if None in sides:
        return None
    return (sign, *sorted(filter(None, sides)))


def _side(text: str, sign: str = "") -> str | None:
    text = text.strip(" $")
    if sign in ("∥", "⊥") and _LINE.fullmatch(text):
        return text
    if not _SIDE.fullmatch(text):
        return None
    mark, letters = (text[0], text[1:].strip()) if text[0] in "∠△" else ("", text)
    names = re.findall(r"[A-Z]['\d]?|\d", letters)
    if sign in ("≅", "∼"):
        return mark + "".join(names)
    if mark == "△" or len(names) == 2:
        return mark + "".join(sorted(names))
    return mark + "".join(min(names, names[::-1]))


@lru_cache(maxsize=2048)
def read_letters(text: str) -> tuple[frozenset[str], bool] | None:
    """At least two different option letters, and whether they were written apart: `A, C`, `(A)(C)`, `A and C`, `AC`."""
    spelt = plain(text.replace("\n", ", "))
    if not _LETTERS.fullmatch(spelt):
        return None
    letters = re.findall(r"[A-J]", re.sub(r"\band\b", "", spelt))
    if len(set(letters)) < len(letters) or len(letters) < 2:
        return None
    return frozenset(letters), bool(_SEPARATED.search(spelt.strip("()"))) or "(" in spelt
