"""Numbers with a base: `101_2`, `2516_{8}`, `(1A)_{16}`, `101 in base 2`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from mmhicra.rewards.notation import plain

_WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_BASE_OF = {word: n for n, word in enumerate(_WORDS, 2)} | {"sixteen": 16, "binary": 2, "octal": 8, "decimal": 10}
_SUBSCRIPT = re.compile(
    rf"\(?\s*(-?[0-9A-Z][0-9A-Z ]*)\s*\)?\s*_\s*\{{?\s*\(?\s*(?:base )?(\d{{1,2}}|{'|'.join(_BASE_OF)})\s*\)?\s*\}}?"
)
_IN_WORDS = re.compile(
    rf"(-?[0-9A-Z]+)\s*(?:\(?(?:in |, )?base[ -]?(\d{{1,2}}|{'|'.join(_BASE_OF)})\)?|(?:in )?(binary|octal))"
)
_BARE = re.compile(r"-?[0-9A-Z]+")
_ASKED = re.compile(
    rf"\bbase[ -]?\$?_?\{{?(\d{{1,2}}|{'|'.join(_BASE_OF)})\b|\b(binary|octal|hexadecimal)\b", re.IGNORECASE
)
_LONGEST = 200


@dataclass(frozen=True)
class Numeral:
    """Digits and their base; the base is 0 if none was written."""

    digits: str
    base: int

    @property
    def amount(self) -> int:
        """What it is as an integer."""
        return int(self.digits, self.base or 10)


@lru_cache(maxsize=2048)
def read_numeral(text: str) -> Numeral | None:
    """The number with a base that `text` is. Digits that the base does not have make it none."""
    if len(text) > _LONGEST or not (
        "_" in text or "base" in text or "inary" in text or "ctal" in text or max(text, default="") >= "₀"
    ):
        return None
    spelt = plain(text).rpartition("=")[2].strip()
    match = _SUBSCRIPT.fullmatch(spelt) or _IN_WORDS.fullmatch(spelt)
    if match is None:
        return None
    named = next(filter(None, match.groups()[1:]))
    digits, base = match[1].replace(" ", ""), int(named) if named.isdecimal() else _BASE_OF[named]
    if not 2 <= base <= 36 or not _fits(digits, base) or not any(map(str.isdigit, digits)):
        return None
    return Numeral(digits, base)


def same_numeral(gold: Numeral, answer: str) -> bool:
    """The same digits in the same base; the base may be left out."""
    if (stated := read_numeral(answer) or read_numeral(answer.upper())) is not None:
        return stated.base == gold.base and stated.amount == gold.amount
    bare = plain(answer).rpartition("=")[2].strip().replace(",", "").upper()
    return bool(_BARE.fullmatch(bare)) and _fits(bare, gold.base) and int(bare, gold.base) == gold.amount


def asks_base(question: str) -> bool:
    """Whether the answer is to be written in a base that the question names."""
    return bool(_ASKED.search(question))


def _fits(digits: str, base: int) -> bool:
    try:
        int(digits, base)
    except ValueError:
        return False
    return True
