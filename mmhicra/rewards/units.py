"""Units after a number: told apart from everything else that may follow one, and converted where that is certain."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_SCALES_TABLE = """
length .001     mm millimeter millimetre 毫米
length .01      cm centimeter centimetre 厘米
length .1       dm decimeter decimetre 分米
length 1        m meter metre 米
length 1000     km kilometer kilometre 千米 公里
length 1852     海里
length .0254    in inch inche
length .3048    ft foot feet
length .9144    yd yard
length 1609.344 mi mile
mass   .001     mg
mass   1        g gram 克
mass   1000     kg kilogram 千克 公斤
time   1        s sec second 秒
time   60       min minute 分钟
time   3600     h hr hour 小时
volume .001     ml milliliter millilitre 毫升
volume 1        l liter litre 升
"""
_SCALES = {
    name: (dimension, Fraction(factor))
    for dimension, factor, *names in map(str.split, _SCALES_TABLE.strip().splitlines())
    for name in names
}
_OTHERS = frozenset({*"CFTKNWJVA", "Pa", "Hz", "kN", "kW", "cc", "sq", "cu", "rs", "Rs", *"度元个人步岁天年"})
"""Short units that are not converted, by their exact case: `5n` is algebra, `5 N` a force, `118°T` a bearing."""
_NO_UNITS = frozenset(
    {
        "not",
        "nor",
        "but",
        "plus",
        "minus",
        "times",
        "over",
        "divided",
        "wrong",
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
    }
    | {"log", "exp", "mod", "max", "min", "arcsin", "arccos", "arctan"}
)
_PREFIX = re.compile(r"(square|sq\.?|平方|cubic|cu\.?|立方)\s*")
_SUFFIX = re.compile(r"\s*(?:\^\s*\{?\s*([23])\s*\}?|\b(squared|cubed))$")
_BRACKETED = re.compile(r"^[({]\s*(.*?)\s*[)}]$")
_LONGEST = 40


@dataclass(frozen=True)
class Unit:
    """A unit that can be converted: `cm^2` is length, power 2, factor 1/10000."""

    dimension: str
    power: int
    factor: Fraction


def is_unit(text: str) -> bool:
    """Whether `text` is nothing but a unit: `cm^2`, `square units`, `km/h`, `apples`, `°`, or nothing at all.

    Any word of three letters or more passes, since one may count anything, but no variables, functions or digits.
    """
    text = text.strip(" ^")
    if len(text) > _LONGEST:
        return False
    name = _PREFIX.sub("", _SUFFIX.sub("", text), count=1)
    name = _BRACKETED.sub(r"\1", name.strip())
    parts = [part for part in re.split(r"[\s/*°.]+", name) if part]
    return all(
        part.lower() not in _NO_UNITS and bool(_scale(part) or part in _OTHERS or (len(part) >= 3 and part.isalpha()))
        for part in parts
    )


def read_unit(text: str) -> Unit | None:
    """The unit that `text` is, None if it cannot be converted."""
    text = text.strip(" ^")
    power = 1
    if prefix := _PREFIX.match(text):
        power, text = (2 if prefix[1][0] in "s平" else 3), text[prefix.end() :]
    elif suffix := _SUFFIX.search(text):
        power, text = int(suffix[1] or (2 if suffix[2] == "squared" else 3)), text[: suffix.start()]
    scale = _scale(_BRACKETED.sub(r"\1", text.strip()))
    return Unit(scale[0], power, scale[1] ** power) if scale else None


def _scale(name: str) -> tuple[str, Fraction] | None:
    name = name.lower()
    return _SCALES.get(name) or (_SCALES.get(name.removesuffix("s")) if len(name) > 2 else None)
