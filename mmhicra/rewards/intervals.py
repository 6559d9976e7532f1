r"""Sets of real numbers however they are written: `(2,\infty)`, `x > 2`, `2 < x`, `\{x \mid x > 2\}`.

A set is a sorted tuple of intervals that do not touch. Ends are numbers that `values` reads; where one is an expression
(`m \ge a+1`) a set of one interval keeps it as it was written, for algebra to compare.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from mmhicra.rewards.arithmetic import Amount
from mmhicra.rewards.notation import LONGEST_ANSWER, plain
from mmhicra.rewards.values import agree, read_number

Same = Callable[[str, str], bool | None]
"""Whether two expressions are the same; None if that takes algebra."""


@dataclass(frozen=True)
class End:
    """One end of an interval: its number, infinite or None for an expression, and how it was written."""

    amount: Amount | None
    written: str
    closed: bool = False


@dataclass(frozen=True)
class Interval:
    """All numbers between two ends."""

    low: End
    high: End


@dataclass(frozen=True)
class RealSet:
    """A set of real numbers, and the letter it was said of, if any."""

    intervals: tuple[Interval, ...]
    letter: str = ""


_MINUS_INFINITY, _INFINITY = End(-math.inf, r"-\infty"), End(math.inf, r"\infty")
_ALL = Interval(_MINUS_INFINITY, _INFINITY)
_INFINITE = re.compile(r"([+-]?)\s*(?:\\infty|\binf(?:inity)?\b|\boo\b)")
_BRACKETS = re.compile(r"([(\[])\s*([^\[\]]+?)\s*,\s*([^\[\]]+?)\s*([)\]])")
_REALS = re.compile(
    r"\\?(?:mathbb|mathbf)?\s*\{?\s*R\s*\}?|\\R(?:eals)?|\\Re|(?:all |the )?(?:set of )?(?:all )?reals?(?: numbers?)?"
    r"|全体实数|任意实数|实数集?"
)
_LETTER = r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|theta|lambda|mu|phi|omega|varphi))(?:_\{?\w\}?)?"
_MEMBER = re.compile(rf"(?P<letter>{_LETTER})\s*\\in\s*")
_BUILDER = re.compile(
    rf"\\?\{{\s*(?P<letter>{_LETTER})\s*(?:\\in\s*[^|:]{{1,12}}?)?(?:\||\\mid|:|\\vert)\s*(?P<rest>.+?)\s*\\?\}}"
)
_ABSOLUTE = re.compile(
    rf"\|\s*(?P<letter>{_LETTER})\s*(?P<shift>[+-]\s*[\d./]+)?\s*\|\s*(?P<sign><=?|>=?|\\(?:leq?|geq?|lt|gt)(?![a-zA-Z]))"
    r"\s*(?P<bound>[^<>=|]+)"
)
_LABEL = re.compile(r"^(?:[A-Z]|[Dd]omain|[Rr]ange|[Ss]olution(?: set)?|[Ii]nterval)\s*(?:=|:|\\colon|is)\s*")
_SIGN = re.compile(r"(<=?|>=?|\\(?:leq?|geq?|lt|gt|neq?)(?![a-zA-Z])|=)")
_UP = frozenset({"<", "<=", r"\le", r"\leq", r"\lt"})
_OR = re.compile(r"\s*(?:\bor\b|\\lor(?![a-zA-Z])|\\vee(?![a-zA-Z])|或|\\cup(?![a-zA-Z])|\bU\b)\s*")
_AND = re.compile(r"\s*(?:\band\b|\\land(?![a-zA-Z])|\\wedge(?![a-zA-Z])|且|,)\s*")
_WITHOUT = re.compile(r"\s*(?:\\setminus|\\backslash|(?<=\})\s*[-\\]|\bexcept\b)\s*")
_POINTS = re.compile(r"\\?\{([^{}]+?)\\?\}")
_OF_INTEREST = re.compile(r"[<>(\[{≤≥≠∈∞ℝ⩽⩾]|\\(?:l|g|n|i|mathbb)|R|real|实数")


@lru_cache(maxsize=4096)
def read_set(text: str) -> RealSet | None:
    """The set of real numbers that `text` is; None for points, tuples and whatever else it is."""
    if len(text) > LONGEST_ANSWER or not _OF_INTEREST.search(text):
        return None
    spelt = _LABEL.sub("", plain(text).replace(r"\{", "{").replace(r"\}", "}").replace("{R}", "R")).strip()
    return _read(spelt)


def same_set(gold: RealSet, answer: RealSet, same: Same) -> bool | None:
    """Whether two sets are equal; None if that takes algebra. Letters may be left out, not exchanged."""
    if gold.letter and answer.letter and gold.letter != answer.letter:
        return False
    if len(gold.intervals) != len(answer.intervals):
        return False
    verdicts = [
        _same_end(one, other, same)
        for left, right in zip(gold.intervals, answer.intervals, strict=True)
        for one, other in ((left.low, right.low), (left.high, right.high))
    ]
    return False if False in verdicts else None if None in verdicts else True


def is_certain(found: RealSet) -> bool:
    """Whether a set is no point and no list: it is unbounded, a union, half open, or was said of a letter."""
    (first, *others) = found.intervals or (None,)
    if first is None or others or found.letter:
        return True
    return first.low.closed != first.high.closed or not _is_finite(first.low) or not _is_finite(first.high)


def _is_finite(end: End) -> bool:
    return end.amount is None or math.isfinite(end.amount)


def _same_end(one: End, other: End, same: Same) -> bool | None:
    if one.closed != other.closed:
        return False
    if one.amount is None or other.amount is None:
        infinite = (end for end in (one, other) if not _is_finite(end))
        return False if any(infinite) else same(one.written, other.written)
    if not math.isfinite(one.amount) or not math.isfinite(other.amount):
        return one.amount == other.amount
    if not one.written or not other.written:
        return abs(one.amount - other.amount) <= 1e-9 * abs(one.amount)
    return same(one.written, other.written)


def _read(spelt: str) -> RealSet | None:
    if _REALS.fullmatch(spelt):
        return RealSet((_ALL,))
    if built := _BUILDER.fullmatch(spelt):
        inner = _read(built["rest"])
        return (
            None
            if inner is None or inner.letter not in ("", built["letter"])
            else RealSet(inner.intervals, built["letter"])
        )
    if member := _MEMBER.match(spelt):
        inner = _read(spelt[member.end() :])
        return None if inner is None or inner.letter else RealSet(inner.intervals, member["letter"])
    if len(parts := _WITHOUT.split(spelt)) == 2:
        return _without(*parts)
    if len(parts := _OR.split(spelt)) > 1:
        return _union([_read(part) for part in parts])
    if brackets := _BRACKETS.fullmatch(spelt):
        return _between(brackets[2], brackets[1] == "[", brackets[3], brackets[4] == "]")
    return _read_inequalities(spelt)


def _read_inequalities(spelt: str) -> RealSet | None:
    parts = _AND.split(spelt)
    if len(parts) > 4:
        return None
    read = [_read_inequality(part) for part in parts]
    if any(each is None for each in read):
        return None
    found = [each for each in read if each is not None]
    together = found[0]
    for other in found[1:]:
        if other.letter != together.letter:
            return None
        both = _intersection(together.intervals, other.intervals)
        if both is None:
            return None
        together = RealSet(both, together.letter)
    return together


def _read_absolute(text: str) -> RealSet | None:
    r"""`|x| < 3`, `|x - 2| \ge 1`: everything within a distance of a number, or all but that."""
    found = _ABSOLUTE.fullmatch(text)
    centre = read_number(re.sub(r"\s", "", found["shift"] or "0")) if found else None
    distance = read_number(found["bound"]) if found else None
    if found is None or centre is None or distance is None or not distance.amount > 0:
        return None
    closed = "e" in found["sign"] or "=" in found["sign"]
    low, high = (End(-centre.amount + side * distance.amount, "", closed) for side in (-1, 1))
    inner = (Interval(low, high),)
    outer = (Interval(_MINUS_INFINITY, low), Interval(high, _INFINITY))
    return RealSet(inner if found["sign"] in _UP else outer, found["letter"])


def _read_inequality(text: str) -> RealSet | None:
    r"""`x > 2`, `2 < x`, `0 \le x < 5`, `x \ne 3`, `> -2`, `|x| < 3`."""
    if "|" in text:
        return _read_absolute(text)
    pieces = [piece.strip() for piece in _SIGN.split(text)]
    signs, terms = pieces[1::2], pieces[0::2]
    if not signs or "=" in signs or len(terms) > 3:
        return None
    letters = [at for at, term in enumerate(terms) if re.fullmatch(_LETTER, term)]
    if len(terms) == 2 and not terms[0] and _bound(terms[1], closed=True):
        letters, terms[0] = [0], ""
    if len(letters) != 1 and not (len(letters) == 2 and len(terms) == 2):
        return None
    at = letters[0]
    letter = terms[at]
    if len(terms) == 2:
        number, sign = terms[1 - at], signs[0]
        if re.match(r"\\ne|\\neq", sign):
            return _without_points([_ALL], [number], letter)
        upwards = (sign in _UP) == (at == 0)
        bound = _bound(number, closed="e" in sign or "=" in sign)
        if bound is None:
            return None
        return RealSet((Interval(_MINUS_INFINITY, bound) if upwards else Interval(bound, _INFINITY),), letter)
    if at != 1 or (signs[0] in _UP) != (signs[1] in _UP) or any(re.match(r"\\ne", sign) for sign in signs):
        return None
    closed = ["e" in sign or "=" in sign for sign in signs]
    low, high = (0, 2) if signs[0] in _UP else (2, 0)
    found = _between(terms[low], closed[low // 2], terms[high], closed[high // 2])
    return None if found is None else RealSet(found.intervals, letter)


def _between(low: str, low_closed: bool, high: str, high_closed: bool) -> RealSet | None:
    one, other = _bound(low, closed=low_closed), _bound(high, closed=high_closed)
    if one is None or other is None:
        return None
    if one.amount is not None and other.amount is not None and not one.amount < other.amount:
        return None
    return RealSet((Interval(one, other),))


def _bound(text: str, *, closed: bool) -> End | None:
    if infinite := _INFINITE.fullmatch(text):
        return _MINUS_INFINITY if infinite[1] == "-" else _INFINITY
    if not text or re.search(r"[<>,;=]|\\(?:le|ge|in|cup|cap|setminus|ne)(?![a-zA-Z])", text):
        return None
    value = read_number(text)
    if value is None and re.search(r"[A-Za-z]{3,}(?<!sqrt)(?<!frac)", re.sub(r"\\[a-zA-Z]+", "", text)):
        return None
    return End(None if value is None else value.amount, text, closed)


def _without(whole: str, points: str) -> RealSet | None:
    base, listed = _read(whole.strip()), _POINTS.fullmatch(points.strip())
    if base is None or listed is None:
        return None
    return _without_points(base.intervals, listed[1].split(","), base.letter)


def _without_points(intervals: Sequence[Interval], points: list[str], letter: str) -> RealSet | None:
    ends = [_bound(point.strip(), closed=False) for point in points]
    found = [end for end in ends if end is not None and (end.amount is not None or len(points) == 1)]
    if len(found) < len(points) or len(intervals) != 1:
        return None
    (whole,) = intervals
    cuts = sorted(found, key=lambda end: end.amount or 0)
    lows, highs = [whole.low, *cuts], [*cuts, whole.high]
    return RealSet(tuple(Interval(low, high) for low, high in zip(lows, highs, strict=True)), letter)


def _union(parts: list[RealSet | None]) -> RealSet | None:
    found = [part for part in parts if part is not None]
    letters = {part.letter for part in found if part.letter}
    if len(found) < len(parts) or len(letters) > 1:
        return None
    pieces = [piece for part in found for piece in part.intervals]
    amounts = [(piece.low.amount, piece.high.amount) for piece in pieces]
    if any(amount is None for pair in amounts for amount in pair):
        ordered = sorted(pieces, key=lambda piece: piece.low.amount is None or piece.low.amount > -math.inf)
        return RealSet(tuple(ordered), next(iter(letters), "")) if len(pieces) == 2 else None
    merged: list[Interval] = []
    for piece in sorted(pieces, key=lambda piece: (piece.low.amount or 0, not piece.low.closed)):
        last = merged[-1] if merged else None
        if last is not None and _touch(last.high, piece.low):
            high = max(last.high, piece.high, key=lambda end: (end.amount or 0, end.closed))
            merged[-1] = Interval(last.low, high)
        else:
            merged.append(piece)
    return RealSet(tuple(merged), next(iter(letters), ""))


def _touch(high: End, low: End) -> bool:
    above, below = high.amount or 0, low.amount or 0
    return below < above or (below == above and (high.closed or low.closed))


def _intersection(one: Sequence[Interval], other: Sequence[Interval]) -> tuple[Interval, ...] | None:
    if (
        len(one) != 1
        or len(other) != 1
        or any(end.amount is None for piece in (*one, *other) for end in (piece.low, piece.high))
    ):
        return None
    low = max(one[0].low, other[0].low, key=lambda end: (end.amount or 0, not end.closed))
    high = min(one[0].high, other[0].high, key=lambda end: (end.amount or 0, end.closed))
    if low.amount is None or high.amount is None or not low.amount < high.amount:
        return None
    return (Interval(low, high),)


def same_written_number(one: str, other: str) -> bool | None:
    """Whether two ends are the same number; None unless both are numbers."""
    gold, answer = read_number(one), read_number(other)
    return None if gold is None or answer is None else agree(gold, answer)
