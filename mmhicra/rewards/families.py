r"""General solutions with an integer in them: `x = k\pi, k \in \mathbb{Z}`, `\frac{\pi}{4} + 2n\pi (n \in Z)`.

The letter of the integer is free: `k` here may be `n` there. Of all integers also where one starts counting is free:
`\frac{\pi}{2} + k\pi` and `-\frac{\pi}{2} + k\pi` are the same numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from mmhicra.rewards.notation import LONGEST_ANSWER, compact, plain
from mmhicra.rewards.probes import value_with

_MEMBERSHIP = re.compile(
    r"(?P<body>.+?)[\s,;(]+(?:\b(?:for|where|with|and|all|any|every|integers?)\s+)*(?P<letter>[a-z])\s*"
    r"(?:\\in\s*(?P<set>[ZN](?:\s*[\^_]\s*\{?[*+-]\}?)?)|(?P<words>is an(?:y)? integer|[为是]整数|any integer))\s*\)?"
)
_INTEGER_AHEAD = re.compile(r"(?P<body>.+?)[\s,;(]+for (?:all|any|every|some)? ?integers? (?P<letter>[a-z])\s*\)?")
_LABEL = re.compile(r"^([A-Za-z]|\\(?:theta|alpha|varphi|phi))\s*(?:=|\\in(?![a-zA-Z]))\s*")


@dataclass(frozen=True)
class Family:
    """What is written of the integer `letter` of `members` (Z or N), and the letter that it is said of, if any."""

    body: str
    letter: str
    members: str
    label: str


@lru_cache(maxsize=2048)
def read_family(text: str) -> Family | None:
    """The one family of numbers that `text` is; None for several and for anything else."""
    if len(text) > LONGEST_ANSWER or not re.search(r"\\in|∈|integer|整数", text):
        return None
    spelt = plain(text)
    match = _MEMBERSHIP.fullmatch(spelt) or _INTEGER_AHEAD.fullmatch(spelt)
    if match is None or not _letters(match["letter"]).search(match["body"]):
        return None
    body = match["body"].strip(" ,({")
    label = _LABEL.match(body)
    members = match.groupdict().get("set") or "Z"
    body = body[label.end() :] if label else body
    if re.search(r"[=<>,;]|\\in(?![a-zA-Z])|\bor\b|\\pm|或", body):
        return None
    return Family(body, match["letter"], compact(members), label[1] if label else "")


def same_family(gold: Family, answer: Family, same: Callable[[str, str], bool | None]) -> bool | None:
    """Whether two families are the same numbers; None if that takes algebra."""
    if gold.members != answer.members or (gold.label and answer.label and gold.label != answer.label):
        return False
    values = [[value_with(each.body, {each.letter: Fraction(n)}) for n in range(3)] for each in (gold, answer)]
    (first, second, third), (one, other, last) = values
    if None not in values[0] and None not in values[1] and gold.members == "Z":
        step, stride = float(second) - float(first), float(other) - float(one)  # type: ignore[arg-type]
        straight = _near(float(third) - float(second), step) and _near(float(last) - float(other), stride)  # type: ignore[arg-type]
        if straight and step and stride:
            turns = (float(one) - float(first)) / step  # type: ignore[arg-type]
            return _near(abs(step), abs(stride)) and abs(turns - round(turns)) < 1e-9
    return same(gold.body, _letters(answer.letter).sub(gold.letter, answer.body))


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-9 * max(abs(one), abs(other), 1e-9)


def _letters(letter: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\\A-Za-z]){letter}(?![A-Za-z])")
