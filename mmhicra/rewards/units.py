"""Units after a number: told apart from everything else that may follow one, and converted where they are known.

A unit is what `unit_table` lists, a product or quotient of that (`km/h`, `m s^{-2}`, `dollars per hour`), or a noun
that the question itself uses. No other word is one: `5 million`, `5 squared`, `5 incorrect` are other numbers, or none.
A table of our own and not pint: pint takes 0.8 s of processor time to import and 160 microseconds a unit, has no
counted things and no Chinese, and takes words that name no unit to somebody who reads an answer (`a` is a year).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from mmhicra.rewards.unit_table import COUNTS, LOOSE, SYMBOL_PREFIXES, THINGS, UNITS, WORD_PREFIXES

Dimension = tuple[tuple[str, int], ...]
"""Powers of base dimensions, sorted by name; empty if it is not known."""


@dataclass(frozen=True)
class Unit:
    """What a number counts: `cm^2` is (("length", 2),) with factor 1/10000."""

    dimension: Dimension = ()
    factor: Fraction = Fraction(1)
    shift: Fraction = Fraction(0)


UNKNOWN = Unit()
COUNT = Unit((("count", 1),))
"""Things of no certain kind: people, pieces, times."""
MONEY = frozenset({"usd", "eur", "gbp", "cny", "jpy", "inr"})
"""Dimensions of currencies, which are not converted into each other."""
_PER = re.compile(r"\s*(?:/|\bper\b|每)\s*", re.IGNORECASE)
_TIMES = re.compile(r"[\s*·]+")
_POWER = re.compile(r"(?:\^\s*\{?\s*([+-]?\s*\d)\s*\}?|(?<=[A-Za-z])([23])|\s(squared|cubed))$")
_RAISED_BEFORE = re.compile(r"(square\s+|sq\.?\s+|sq\.|平方|cubic\s+|cu\.?\s+|cu\.|立方)(?=\S)", re.IGNORECASE)
_RAISING_WORDS = frozenset({"square", "sq", "sq.", "cubic", "cu", "cu."})
_BRACKETED = re.compile(r"^[({\[]\s*(.*?)\s*[)}\]]$")
_COMPOUND_WORDS = (
    (re.compile(r"(degrees?|°)\s*(?=(?:celsius|fahrenheit|centigrade)\b)", re.IGNORECASE), ""),
    (re.compile(r"°\s+(?=[CFKT]\b)"), "°"),
    (re.compile(r"\b(fluid|nautical|short|metric|watt|kilowatt|electron|light)[ -](?=[a-z])", re.I), r"\1-"),
    (re.compile(r"\\mu\s*"), "μ"),
)
_TAIL = re.compile(
    r"\s*\b(?:old|long|wide|tall|high|deep|thick|away|altogether|of age"
    r"|in (?:total|all|length|width|height|area|volume))$"
    r"|\s*[左右]{2}$"
)
_TIMES_MORE = re.compile(r"times\s+(?!per\b|an?\b)", re.IGNORECASE)
_SPACED = frozenset("tduhKT")
"""`5 t` is a mass, `5t` is algebra."""
_LONGEST = 60


def is_unit(text: str) -> bool:
    """Whether `text` is nothing but a unit: `cm^2`, `square units`, `km/h`, `apples`, `°`, or nothing at all."""
    return read_unit(text) is not None


@lru_cache(maxsize=4096)
def read_unit(text: str, nouns: frozenset[str] = frozenset()) -> Unit | None:
    """The unit that `text` is, `UNKNOWN` for an empty text, None for anything that is no unit.

    Args:
        text: in the spelling of `notation.plain`.
        nouns: words of the question that may be counted.
    """
    if len(text) > _LONGEST:
        return None
    spaced, text = text[:1] in ("", " ", "("), text.strip(" ^.")
    if not text:
        return UNKNOWN
    if text in _SPACED and not spaced:
        return None
    for pattern, spelling in _COMPOUND_WORDS:
        text = pattern.sub(spelling, text)
    text = _BRACKETED.sub(r"\1", text)
    if (tail := _TAIL.search(text)) and tail.start() > 0:
        text = text[: tail.start()]
    if _TIMES_MORE.match(text):
        return None
    above, *below = _PER.split(text)
    factors = [(part, 1) for part in _parts(above)] if above else []
    factors += [(part, -1) for group in below for part in _parts(_BRACKETED.sub(r"\1", group))]
    return _product(factors, nouns) if factors else None


def _parts(text: str) -> Iterator[str]:
    """`square cm`, `N*m`, `m s^{-2}`, `red balls` cut into units with their powers."""
    words = [word for word in _TIMES.split(re.sub(r"\s*\^\s*", "^", text)) if word]
    at = 0
    while at < len(words):
        word, following = words[at], words[at + 1] if at + 1 < len(words) else None
        at += 1
        if following is not None and (word.lower() in _RAISING_WORDS or following in ("squared", "cubed")):
            word, at = f"{word} {following}", at + 1
        yield word


def _product(factors: list[tuple[str, int]], nouns: frozenset[str]) -> Unit | None:
    total, known = {}, True
    factor, shift = Fraction(1), Fraction(0)
    counted = [word for word, _ in factors if _is_counted(word, nouns)]
    for word, sign in factors:
        unit = _lookup(word)
        if word in counted and (unit is None or _is_thing(unit)):
            unit = UNKNOWN
        if unit is None:
            return None
        known &= bool(unit.dimension)
        factor *= unit.factor**sign
        shift = unit.shift
        for name, power in unit.dimension:
            total[name] = total.get(name, 0) + sign * power
    things = [name for name in total if name.startswith("#")]
    if not known or len(things) > 1 or ("count" in total and len(factors) > 1):
        return UNKNOWN
    return Unit(tuple(sorted((name, power) for name, power in total.items() if power)), factor, shift)


def _is_thing(unit: Unit) -> bool:
    return unit == COUNT or any(name.startswith("#") for name, _ in unit.dimension)


def _lookup(word: str) -> Unit | None:
    """One unit with its power: `cm^2`, `cm2`, `square cm`, `平方厘米`."""
    power = 1
    if before := _RAISED_BEFORE.match(word):
        power, word = (2 if before[1][0] in "sS平" else 3), word[before.end() :]
    elif after := _POWER.search(word):
        digits = (after[1] or after[2] or "").replace(" ", "")
        power = int(digits) if digits else 2 if after[3] == "squared" else 3
        word = word[: after.start()]
    unit = _named(word)
    if unit is None or power == 1:
        return unit
    return Unit(tuple((name, each * power) for name, each in unit.dimension), unit.factor**power)


def _named(word: str) -> Unit | None:
    if unit := _SYMBOLS.get(word):
        return unit
    lower = word.lower()
    for name in _singulars(lower):
        if unit := _WORDS.get(name):
            return unit
    return None


def _singulars(word: str) -> Iterator[str]:
    yield word
    if len(word) > 2 and word.endswith("s"):
        yield word[:-1]
        if word.endswith("ies"):
            yield word[:-3] + "y"
        if word.endswith("es"):
            yield word[:-2]


def _is_counted(word: str, nouns: frozenset[str]) -> bool:
    if word in ("of", "的"):
        return bool(nouns)
    if re.fullmatch(r"[一-鿿]{2,6}", word):
        return word in nouns or (word[0] in _WORDS and (word[1:] in nouns or word[1:] in _WORDS))
    return any(name in nouns or f"{name}s" in nouns for name in _singulars(word.lower()))


def _read_table() -> tuple[Mapping[str, Unit], Mapping[str, Unit]]:
    symbols: dict[str, Unit] = {}
    words: dict[str, Unit] = {}
    prefixed: list[tuple[dict[str, Unit], str, Unit]] = []
    for line in UNITS.strip().splitlines():
        dimension, numbers, signs, names = (cell.strip() for cell in line.split("|"))
        factor, shift = (*map(Fraction, numbers.split()), Fraction(0))[:2]
        powers = (part.partition("^") for part in dimension.split())
        unit = Unit(tuple(sorted((name, int(power or 1)) for name, _, power in powers)), factor, shift)
        for table, spellings in ((symbols, signs), (words, names)):
            for name in spellings.split():
                table[name.lstrip("*")] = unit
                if name.startswith("*"):
                    prefixed.append((table, name[1:], unit))
    for table, name, unit in prefixed:  # what is written out in the table goes before a prefix and a unit
        for prefix, scale in (SYMBOL_PREFIXES if table is symbols else WORD_PREFIXES).items():
            table.setdefault(prefix + name, Unit(unit.dimension, unit.factor * Fraction(scale)))
    for names in THINGS.split():
        thing, *irregular = names.split("=")
        for name in (thing, *irregular):
            words.setdefault(name, Unit(((f"#{thing}", 1),)))
    del symbols["pm"]  # a time of day
    loose = dict.fromkeys(LOOSE.split(), UNKNOWN) | dict.fromkeys(COUNTS.split(), COUNT)
    return {**symbols, **{k: v for k, v in loose.items() if len(k) < 3}}, {**words, **loose}


_SYMBOLS, _WORDS = _read_table()
