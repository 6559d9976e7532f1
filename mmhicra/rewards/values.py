r"""Reads numbers exactly and evaluates nothing: `1,234`, `3\frac{1}{2}`, `2\sqrt{3}`, `9\pi cm^2`, `x = 50%`.

A small recursive-descent reader instead of sympy, because it has to be safe and fast enough to read every response
in the training process. What it cannot read is left to `algebra`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from mmhicra.rewards.notation import LONGEST_ANSWER, plain
from mmhicra.rewards.units import Unit, is_unit, read_unit

Amount = Fraction | float

_SEVERAL = re.compile(r"\b(?:or|and)\b|[;；或和、]|,(?!\d{3})|\\pm|±")
_LEAD = re.compile(r"^(?:about|approximately|approx\.?|around|exactly|only|[≈=€£¥])\s*", re.IGNORECASE)
_SAYING = re.compile(r"^.*(?:\bis\b|\bare\b|\bequals?\b|[为是])\s*:?\s*", re.IGNORECASE)
_NUMBERED = re.compile(r"(?:_|∠|\\angle)\s*\{?\w{1,3}\}?")
_LABEL = re.compile(r"(?:[^\W\d]|[\s\\.'∠△/:{}|])*(?:\([\w\s]{1,5}\))?")
_INEQUALITY = re.compile(r"[<>]|\\(?:leq?|geq?|lt|gt|neq?)(?![a-zA-Z])")
_DECIMAL = re.compile(r"[+-]?\s*[\d,]*\.(\d+)")

_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+")
_DIGIT = re.compile(r"\d")
_EXPONENT = re.compile(r"[eE][+-]?\d{1,3}(?!\d)")
_FRACTION = re.compile(r"\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|\s+(\d+)\s*/\s*(\d+)(?![\d.])")
_SPACE = re.compile(r"\s*")
_COLON = re.compile(r"\s*:\s*")
_SIGN = re.compile(r"\s*([+-])\s*")
_OPERATOR = re.compile(r"\s*([*/])\s*")
_JUXTAPOSED = re.compile(r"\s*(?:\\(?:sqrt|pi|frac)(?![a-zA-Z])|sqrt\b|pi\b|\()")
_RAISED = re.compile(r"\s*\^\s*(?=[\d{(-])")
_SIGNED_DIGITS = re.compile(r"-?\d+")
_PI = re.compile(r"\\pi(?![a-zA-Z])|pi\b")
_OVER = re.compile(r"\\frac(?![a-zA-Z])\s*")
_ROOT = re.compile(r"(?:\\sqrt(?![a-zA-Z])|sqrt\b)\s*(?:\[\s*(\d{1,2})\s*\]\s*)?")
_OPENING = re.compile(r"[{(]")
_CLOSING = {"{": re.compile(r"\s*\}"), "(": re.compile(r"\s*\)")}
_DEEPEST = 30
_MOST_BITS = 1000


@dataclass(frozen=True)
class Value:
    """A number somebody wrote.

    Attributes:
        amount: exact where it can be, a float where a root or pi is in it.
        rounded: a decimal point was written, so the number may stand for a longer one.
        decimals: digits after the point of a plain decimal, None for anything else.
        percent: a percent sign followed.
        unit: only units that can be converted; others are ignored.
        label: the single letter of `x = 5`, else empty.
    """

    amount: Amount
    rounded: bool = False
    decimals: int | None = None
    percent: bool = False
    unit: Unit | None = None
    label: str = ""


@lru_cache(maxsize=4096)
def read_value(text: str) -> Value | None:
    """The one number that `text` states, with or without a unit, a label or words before it; None if it is not one.

    Several numbers are none: `5 or 6`, `5, 6`, `±5`; nor is an equation (`x^2 + y^2 = 1`). In a chain
    `x = 2√3 ≈ 3.46` every link that can be read must agree, and the first counts.
    """
    if len(text) > LONGEST_ANSWER:
        return None
    spelt = plain(text)
    if _SEVERAL.search(spelt):
        return None
    links = _links(_SAYING.sub("", spelt))
    readings = [_read_link(link) for link in links]
    if readings[-1] is None or (readings[0] is None and not _is_label(links[0])):
        return None
    first, *others = (value for value in readings if value is not None)
    if not all(agree(other, first) or agree(first, other) for other in others):
        return None
    return replace(first, label=links[0]) if re.fullmatch(r"[A-Za-z]", links[0]) else first


def right_hand_side(text: str) -> str | None:
    r"""`text` without the label of `x = \log_2 8`, `f(2) = `, `\frac{AB}{CD} = `.

    None for an equation or an inequality, which state no number even if they end in one.
    """
    links = _links(plain(text))
    if len(links) == 1:
        return None if _INEQUALITY.search(links[0]) else links[0]
    return links[-1] if _is_label(links[0]) else None


def agree(gold: Value, answer: Value) -> bool:
    """Whether `answer` states the number `gold`.

    * Exact forms (integers, fractions, roots, pi) must be equal; to 1e-9 relative where a float had to be used.
    * A gold that is an integer takes no other number, however near.
    * A gold with d printed decimals takes every number that rounds to it (half a unit of its last digit).
    * Any other gold takes a decimal within 1e-4 of it, relative; so does a gold with decimals.
    * Units are not compared, but lengths, areas, volumes, masses and times in different known units are converted:
      `500 cm` is `5 m`, `5 cm` is not.
    * A percent sign may be left out, or worked out: `20%` is `20` and `0.2`.
    * `x = 5` is `5`, but not `y = 5`.
    """
    if gold.label and answer.label and gold.label != answer.label:
        return False
    stated = answer.amount
    expected, given = gold.unit, answer.unit
    if expected and given and (expected.dimension, expected.power) == (given.dimension, given.power):
        stated = stated * (given.factor / expected.factor)
    if _near(gold, stated, answer.rounded):
        return True
    if gold.percent and not answer.percent:
        return _near(gold, stated * 100, answer.rounded)
    return answer.percent and not gold.percent and _near(gold, stated / 100, answer.rounded)


def _near(gold: Value, stated: Amount, rounded: bool) -> bool:
    gap = abs(gold.amount - stated)
    inexact = isinstance(gold.amount, float) or isinstance(stated, float)
    if gap == 0 or (inexact and gap <= 1e-9 * abs(gold.amount)):
        return True
    if gold.decimals is not None and gap <= Fraction(1, 2 * 10**gold.decimals):
        return True
    if isinstance(gold.amount, Fraction) and gold.amount.denominator == 1:
        return False
    return (rounded or gold.rounded) and gap <= Fraction(1, 10_000) * abs(gold.amount)


def _links(spelt: str) -> list[str]:
    """`x = 2√3 ≈ 3.46` cut at its signs; `5 = s` turned round."""
    links = [link.strip() for link in re.split(r"[=≈]", spelt)]
    if len(links) > 1 and re.fullmatch(r"[A-Za-z]", links[-1]):
        return [links[-1], *links[:-1]]
    return links


def _is_label(link: str) -> bool:
    r"""Whether a link names a quantity (`Area`, `f(2)`, `x_1`, `∠2`, `\frac{AB}{CD}`) and is no expression."""
    return bool(_LABEL.fullmatch(_NUMBERED.sub("", link)))


def _read_link(text: str) -> Value | None:
    text = _LEAD.sub("", text).strip()
    reader = _Reader(text)
    try:
        amount = reader.ratio()
    except (_UnreadableError, OverflowError, ZeroDivisionError):
        return None
    number, rest = text[: reader.at].strip(), text[reader.at :].strip()
    if not _is_moderate(amount) or not (rest == "%" or is_unit(rest)):
        return None
    decimal = _DECIMAL.fullmatch(number)
    return Value(amount, reader.rounded, len(decimal[1]) if decimal else None, rest == "%", read_unit(rest))


def _is_moderate(amount: Amount) -> bool:
    """Whether an amount can be compared with floats without overflow."""
    if isinstance(amount, float):
        return math.isfinite(amount)
    return max(amount.numerator.bit_length(), amount.denominator.bit_length()) <= _MOST_BITS


class _UnreadableError(Exception):
    """The text does not start with a number."""


class _Reader:
    """Reads one arithmetic expression from the left of a `plain` text; `at` is where it stopped."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.rounded = False
        self._depth = 0

    def ratio(self) -> Amount:
        amount = self._sum()
        return amount / self._sum() if self._take(_COLON) else amount

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match

    def _sum(self) -> Amount:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _UnreadableError
        amount = self._product()
        while sign := self._take(_SIGN):
            term = self._product()
            amount = amount + term if sign[1] == "+" else amount - term
        self._depth -= 1
        return amount

    def _product(self) -> Amount:
        sign = self._take(_SIGN)
        amount = self._power()
        while True:
            if operator := self._take(_OPERATOR):
                factor = self._power()
                amount = amount * factor if operator[1] == "*" else amount / factor
            elif _JUXTAPOSED.match(self.text, self.at):
                amount = amount * self._power()
            else:
                return -amount if sign and sign[1] == "-" else amount

    def _power(self) -> Amount:
        base = self._atom()
        if not self._take(_RAISED):
            return base
        digits = self._take(_SIGNED_DIGITS)
        return _raise(base, Fraction(digits[0]) if digits else self._argument())

    def _atom(self) -> Amount:
        self._take(_SPACE)
        if digits := self._take(_NUMBER):
            return self._number(digits[0])
        if self._take(_OVER):
            above = self._argument(_DIGIT)
            return above / self._argument(_DIGIT)
        if root := self._take(_ROOT):
            return _raise(self._argument(), Fraction(1, int(root[1] or 2)))
        return self._argument()

    def _argument(self, digits: re.Pattern[str] = _NUMBER) -> Amount:
        r"""What stands in braces or brackets, pi, or bare digits: one for `\frac12`, all for `√13`."""
        self._take(_SPACE)
        if opening := self._take(_OPENING):
            amount = self._sum()
            if not self._take(_CLOSING[opening[0]]):
                raise _UnreadableError
            return amount
        if self._take(_PI):
            return math.pi
        number = self._take(digits)
        if not number:
            raise _UnreadableError
        self.rounded |= "." in number[0]
        return Fraction(number[0].replace(",", "").rstrip("."))

    def _number(self, digits: str) -> Amount:
        self.rounded |= "." in digits
        exponent = self._take(_EXPONENT)
        amount = Fraction(digits.replace(",", "").rstrip(".") + (exponent[0] if exponent else ""))
        part = None if "." in digits else self._take(_FRACTION)
        if not part:
            return amount
        above, below = int(part[1] or part[3]), int(part[2] or part[4])
        if above < below:  # a mixed number
            return amount + Fraction(above, below)
        return amount * Fraction(above, below)


def _raise(base: Amount, exponent: Amount) -> Amount:
    """`base ** exponent`, exact where it can be. Raises `_UnreadableError` unless it is real and of moderate size."""
    if not isinstance(exponent, Fraction) or (base < 0 and exponent.denominator > 1):
        raise _UnreadableError
    if isinstance(base, Fraction) and (root := _exact_root(base, exponent.denominator)) is not None:
        bits = max(root.numerator.bit_length(), root.denominator.bit_length())
        if bits * abs(exponent.numerator) > 4 * _MOST_BITS:
            raise _UnreadableError
        return root**exponent.numerator
    return float(base) ** float(exponent)


def _exact_root(base: Fraction, degree: int) -> Fraction | None:
    if degree == 1:
        return base
    above, below = (round(part ** (1 / degree)) for part in (base.numerator, base.denominator))
    root = Fraction(above, below)
    return root if root**degree == base else None
