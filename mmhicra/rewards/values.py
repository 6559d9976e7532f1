r"""Numbers as people write them: `1,234`, `3\frac{1}{2}`, `9\pi cm^2`, `x = 50%`, `5 million`, `5 h 30 min`, `twelve`.

Arithmetic is `arithmetic`'s, units are `units`'. Nothing here evaluates symbols; what it cannot read is left to others.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from mmhicra.rewards.arithmetic import Amount, Reader, UnreadableError, is_moderate
from mmhicra.rewards.notation import LONGEST_ANSWER, plain
from mmhicra.rewards.numerals import in_digits, power_after, scale_after
from mmhicra.rewards.units import COUNT, UNKNOWN, Unit, read_unit

NO_NOUNS: frozenset[str] = frozenset()

_SEVERAL = re.compile(r"\b(?:or|and)\b|[;；或和、]|,(?!\d{3})|\\pm|±")
_LEADS = (  # what may stand before a number, and an example
    (r"about|approximately|approx\.?|around|exactly|only|roughly|nearly|therefore|thus|hence|simply|[≈=]", "about 5"),
    (r"(?:a|the) total of|in total|the year|year|in the year|the number|the value|in(?= [12]\d{3}$)", "the year 2015"),
    (r"(?:US|USD|CNY|RMB|EUR|GBP|JPY|INR|Rs\.?|[€£¥₹])", "USD 1000"),
    (r"(?:the )?(?:final )?answer\s*[:=]|(?:答案|结果)\s*:", "Answer: 5"),
    (r"约|大约|共|一共|总共|共有", "约5"),
)
_LEAD = re.compile(rf"^(?:(?:{'|'.join(lead for lead, _ in _LEADS)})\s*)+(?=[^A-Za-z]|[a-z]{{3}})", re.IGNORECASE)
_CURRENCY = re.compile(r"(\\\$|US(?=\\?\$)|USD|CNY|RMB|EUR|GBP|JPY|INR|[$€£¥₹])\s*\\?\$?\s*[\d.]")
_SAYING = re.compile(r"^(.*(?:\bis\b|\bare\b|\bequals?\b|[为是]))\s*:?\s*", re.IGNORECASE)
_DENIAL = re.compile(
    r"\b(?:not|never|no|cannot|neither|nor|wrong|false|unlikely|if|unless)\b|n't\b|[不非没否错]", re.IGNORECASE
)
_NAME = re.compile(r"(?:∠|\\angle|angle)\s*([A-Z]{1,3}|\d)|([A-Z]{2})")
_GREEK = {
    **{r"\alpha": "α", r"\beta": "β", r"\gamma": "γ", r"\delta": "δ", r"\theta": "θ", r"\lambda": "λ", r"\mu": "μ"},
    **{r"\rho": "ρ", r"\sigma": "σ", r"\phi": "φ", r"\varphi": "φ", r"\omega": "ω"},
}
_NUMBERED = re.compile(r"(?:_|∠|\\angle)\s*\{?\w{1,3}\}?")
_LABEL = re.compile(r"(?:[^\W\d]|[\s\\.'∠△/:{}|])*(?:\([\w\s]{1,5}\))?")
_INEQUALITY = re.compile(r"[<>]|\\(?:leq?|geq?|lt|gt|neq?)(?![a-zA-Z])")
_DECIMAL = re.compile(r"[+-]?\s*[\d,]*\.(\d+)")
_PERCENT = re.compile(r"\s*(?:%|percent|per cent)\s*", re.IGNORECASE)
_PIECE = re.compile(
    r"\s*(?:,\s*|and\s+)?(\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?)\s*([^\d\s,/][^\d,]*?)(?=\s*,?\s*(?:and\s+)?\d|$)"
)
_FEET_INCHES = re.compile(r"(\d+)\s*'\s*(\d+(?:\.\d+)?)\s*(?:\"|'')")
_CHAINED = frozenset({"length", "time", "mass", "angle", "usd", "cny", "gbp"})
_FEW_BITS = 1000
_DEGREES = Unit((("angle", 1),))


@dataclass(frozen=True)
class Value:
    """A number somebody wrote.

    Attributes:
        amount: exact where it can be, a float where a root, pi or a function is in it.
        rounded: a decimal point was written, so the number may stand for a longer one.
        decimals: digits after the point of a plain decimal, less those of a scale word (`5.2 million`: -5); else None.
        percent: a percent sign followed.
        unit: `UNKNOWN` if there is none, or none that can be compared.
        label: the single letter of `x = 5`, the name of `AB = 5` or `∠A = 5`, else empty.
    """

    amount: Amount
    rounded: bool = False
    decimals: int | None = None
    percent: bool = False
    unit: Unit = UNKNOWN
    label: str = ""


def read_value(text: str) -> Value | None:
    """`read_number` for those who calculate on with floats: None for a number of more than 300 digits too."""
    value = read_number(text)
    if value is None or isinstance(value.amount, float):
        return value
    bits = max(value.amount.numerator.bit_length(), value.amount.denominator.bit_length())
    return value if bits <= _FEW_BITS else None


@lru_cache(maxsize=8192)
def read_number(text: str, nouns: frozenset[str] = NO_NOUNS) -> Value | None:
    """The one number that `text` states, with or without a unit, a label or words before it; None if it is not one.

    Several numbers are none: `5 or 6`, `5, 6`, `±5`; nor is an equation (`x^2 + y^2 = 1`). In a chain
    `x = 2√3 ≈ 3.46` every link that can be read must agree, and the first counts.

    Args:
        text: as it was written.
        nouns: words that count as units besides those of the table.
    """
    if len(text) > LONGEST_ANSWER:
        return None
    spelt = plain(text)
    if _SEVERAL.search(spelt):
        return _read_several(spelt)
    saying = _SAYING.match(spelt)
    if saying and _DENIAL.search(saying[1]):
        return None
    links = _links(spelt[saying.end() :] if saying else spelt)
    readings = [_read_link(link, nouns) for link in links]
    if readings[-1] is None or (readings[0] is None and not _is_label(links[0])):
        return None
    first, *others = (value for value in readings if value is not None)
    if not all(agree(other, first) or agree(first, other) for other in others):
        return None
    if first.unit == UNKNOWN and (money := _currency(text)):
        first = replace(first, unit=money)
    return replace(first, label=_name(links[0])) if len(links) > 1 else first


def _name(link: str) -> str:
    r"""What a value is said of, one spelling for `AB` and `BA`, `\angle ABC` and `∠CBA`; empty for other labels."""
    if re.fullmatch(r"[A-Za-zα-ω]", link):
        return link
    if greek := _GREEK.get(link.strip()):
        return greek
    named = _NAME.fullmatch(link.strip())
    if named is None:
        return ""
    mark, letters = ("∠", named[1]) if named[1] else ("", named[2])
    return mark + min(letters, letters[::-1])


def _currency(text: str) -> Unit | None:
    r"""The unit of a sign before a number: `\$45`, `€45`, `USD 45`; `$45$` is mathematics."""
    sign = _CURRENCY.search(text)
    if sign is None or (sign[1] == "$" and text.replace(r"\$", "").count("$") % 2 == 0):
        return None
    return read_unit("USD" if sign[1] in ("$", r"\$", "US") else sign[1])


def right_hand_side(text: str) -> str | None:
    r"""`text` without the label of `x = \log_2 8`, `f(2) = `, `\frac{AB}{CD} = `.

    None for an equation or an inequality, which state no number even if they end in one.
    """
    links = _links(plain(text))
    if len(links) == 1:
        return None if _INEQUALITY.search(links[0]) else links[0]
    return links[-1] if _is_label(links[0]) else None


def agree(gold: Value, answer: Value, *, percent_asked: bool = False) -> bool:
    r"""Whether `answer` states the number `gold`.

    * Exact forms (integers, fractions, roots, pi) must be equal; to 1e-9 relative where a float had to be used.
    * A gold that is an integer takes no other number, however near.
    * A gold with d printed decimals takes every number that rounds to it (half a unit of its last digit).
    * A gold with decimals takes itself cut or rounded to fewer, if that is within 1e-4 of it, relative.
    * Any other gold takes a decimal within 1e-4 of it, relative.
    * A unit may be left out. Known units of one dimension are converted: `500 cm` is `5 m`, `5 cm` is not; known units
      of two dimensions never agree: `5 kg` is not `5 m`, nor 5 people. `\frac{\pi}{3}` is `60^\circ`.
    * A percent sign may be left out, or worked out: `20%` is `20` and `0.2`. A gold below 1 without one takes `15%` for
      0.15, and `0.15%` only where the question asks for a percentage.
    * `x = 5` is `5`, but not `y = 5`.
    """
    if gold.label and len(gold.label) == len(answer.label) and gold.label != answer.label:
        return False
    try:
        return _agree(gold, answer, percent_asked)
    except OverflowError:  # a float beside a fraction of a thousand digits
        return False


def _agree(gold: Value, answer: Value, percent_asked: bool) -> bool:
    stated, expected, given = answer.amount, gold.unit, answer.unit
    if expected.dimension and given.dimension:
        if expected.dimension != given.dimension and not (_are_degrees(expected, given) or _count(expected, given)):
            return False
        if expected != given and expected.dimension == given.dimension:
            stated = (stated * given.factor + given.shift - expected.shift) / expected.factor
            if answer.rounded and abs(gold.amount - stated) <= Fraction(1, 10_000) * abs(gold.amount):
                return True
    degrees = expected == _DEGREES and not given.dimension and isinstance(stated, float) and not answer.rounded
    if degrees and _near(gold, math.degrees(stated), answer):
        return True
    radians = given == _DEGREES and not expected.dimension and isinstance(gold.amount, float) and not gold.rounded
    if radians and _near(gold, math.radians(stated), answer):
        return True
    worked_out_only = answer.percent and not gold.percent and abs(gold.amount) < 1 and not percent_asked
    if not worked_out_only and _near(gold, stated, answer):
        return True
    if gold.percent and not answer.percent:
        return _near(gold, stated * 100, answer, shift=-2)
    return answer.percent and not gold.percent and _near(gold, stated / 100, answer, shift=2)


def _are_degrees(one: Unit, other: Unit) -> bool:
    """`25°` may be an angle or a temperature."""
    return {one.dimension, other.dimension} == {(("angle", 1),), (("temperature", 1),)}


def _count(one: Unit, other: Unit) -> bool:
    """`5 people` and `5 students`, `4 个` and `4 apples`."""
    return all(name[0] == "#" or name == "count" for unit in (one, other) for name, _ in unit.dimension) and (
        COUNT in (one, other)
    )


def _near(gold: Value, stated: Amount, answer: Value, shift: int = 0) -> bool:
    """Whether `stated`, what `answer` states in the gold's unit, is the gold; `shift` digits after its point moved."""
    gap = abs(gold.amount - stated)
    inexact = isinstance(gold.amount, float) or isinstance(stated, float)
    if gap == 0 or (inexact and gap <= 1e-9 * abs(gold.amount)):
        return True
    if gold.decimals is not None and gap <= Fraction(10) ** -gold.decimals / 2:
        return True
    if isinstance(gold.amount, Fraction) and gold.amount.denominator == 1:
        return False
    if gold.decimals is not None and answer.decimals is not None:
        digits = answer.decimals + shift
        if digits >= gold.decimals or gap >= Fraction(10) ** -digits:
            return False
    elif gold.decimals is not None and not answer.rounded:
        return False
    return (answer.rounded or gold.rounded) and gap <= Fraction(1, 10_000) * abs(gold.amount)


def _links(spelt: str) -> list[str]:
    """`x = 2√3 ≈ 3.46` cut at its signs; `5 = s` turned round."""
    links = [link.strip() for link in re.split(r"[=≈]", spelt)]
    if len(links) > 1 and re.fullmatch(r"[A-Za-z]", links[-1]):
        return [links[-1], *links[:-1]]
    return links


def _is_label(link: str) -> bool:
    r"""Whether a link names a quantity (`Area`, `f(2)`, `x_1`, `∠2`, `\frac{AB}{CD}`) and is no expression."""
    return bool(_LABEL.fullmatch(_NUMBERED.sub("", link))) and not _DENIAL.search(link)


def _read_several(spelt: str) -> Value | None:
    """What holds an "and" or a comma and is one number all the same: `one hundred and five`, `5 h and 30 min`."""
    spelt = _LEAD.sub("", spelt)
    digits = in_digits(spelt)
    if digits != spelt and not _SEVERAL.search(digits):
        return _read_link(digits, NO_NOUNS)
    return _read_chain(spelt)


def _read_link(text: str, nouns: frozenset[str]) -> Value | None:
    text = in_digits(_LEAD.sub("", text).strip())
    reader = Reader(text)
    try:
        amount = reader.ratio()
    except (UnreadableError, OverflowError, ZeroDivisionError, ValueError):
        return None
    number, rest = text[: reader.at].strip(), text[reader.at :]
    if not is_moderate(amount):
        return None
    if not rest:
        return Value(amount, reader.rounded, _decimals(number))
    return _with_rest(amount, reader.rounded, number, rest, nouns) or _read_chain(text)


def _with_rest(amount: Amount, rounded: bool, number: str, rest: str, nouns: frozenset[str]) -> Value | None:
    """A number and what follows it: a percent sign, a scale word, a power, a unit, or something that makes it none."""
    decimals = _decimals(number)
    if _PERCENT.fullmatch(rest):
        return Value(amount, rounded, decimals, percent=True)
    if (unit := read_unit(rest, nouns)) is not None:
        return Value(amount, rounded, decimals, unit=unit)
    if (power := power_after(rest)) is not None:
        return _raised(amount, power)
    scale, rest = scale_after(rest)
    if scale == 1:
        return None
    if decimals is not None:
        zeros = len(str(scale)) - 1
        decimals = decimals - zeros if scale == 10**zeros else None
    unit = read_unit(rest, nouns)
    return None if unit is None else Value(amount * scale, rounded, decimals, unit=unit)


def _decimals(number: str) -> int | None:
    decimal = _DECIMAL.fullmatch(number)
    return len(decimal[1]) if decimal else None


def _raised(amount: Amount, power: str) -> Value | None:
    if power == "factorial":
        whole = isinstance(amount, Fraction) and amount.denominator == 1
        return _read_link(f"{amount}!", NO_NOUNS) if whole else None
    return Value(amount ** (2 if power == "squared" else 3))


def _read_chain(text: str) -> Value | None:
    """`5 h 30 min`, `35°20'`, `5 ft 6 in`: units of one dimension, each smaller than the one before it."""
    text = re.sub("分(?!钟)", "分钟", text)
    text = _FEET_INCHES.sub(r"\1 ft \2 in", text) if "°" not in text else text.replace("'", "′").replace('"', "″")
    pieces, at = [], 0
    while at < len(text) and (piece := _PIECE.match(text, at)):
        pieces.append(piece)
        at = piece.end()
    if at < len(text) or len(pieces) < 2:
        return None
    units = [read_unit(f" {piece[2]}") for piece in pieces]
    amounts = [_read_link(piece[1], NO_NOUNS) for piece in pieces]
    first, total = units[0], Fraction(0)
    if first is None or len(first.dimension) != 1 or first.dimension[0][0] not in _CHAINED:
        return None
    for unit, amount, before in zip(units, amounts, [None, *units], strict=False):
        if unit is None or amount is None or unit.dimension != first.dimension:
            return None
        if (before is not None and unit.factor >= before.factor) or isinstance(amount.amount, float):
            return None
        total += amount.amount * unit.factor / first.factor
    return Value(total, unit=first)
