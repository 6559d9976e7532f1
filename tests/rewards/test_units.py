"""The table of units against sympy's, and what counts as a unit."""

from __future__ import annotations

from fractions import Fraction

import pytest
from sympy.physics import units as sympy_units

from mmhicra.rewards.asked import nouns_asked, order_asked
from mmhicra.rewards.units import UNKNOWN, read_unit
from mmhicra.rewards.values import read_number

BASES = {"length": "meter", "mass": "kilogram", "time": "second", "current": "ampere", "angle": "degree"}
KNOWN_TO_SYMPY = {
    **{
        "mm": "millimeter",
        "cm": "centimeter",
        "dm": "decimeter",
        "km": "kilometer",
        "μm": "micrometer",
        "nm": "nanometer",
    },
    **{"inch": "inch", "feet": "foot", "yards": "yard", "miles": "mile", "nmi": "nautical_mile", "ly": "lightyear"},
    **{
        "g": "gram",
        "mg": "milligram",
        "lb": "pound",
        "t": "metric_ton",
        "L": "liter",
        "mL": "milliliter",
        "quart": "quart",
    },
    **{"min": "minute", "h": "hour", "days": "day", "ms": "millisecond", "μs": "microsecond", "ns": "nanosecond"},
    **{
        "N": "newton",
        "J": "joule",
        "W": "watt",
        "Pa": "pascal",
        "Hz": "hertz",
        "atm": "atmosphere",
    },
    **{
        "bar": "bar",
        "psi": "psi",
        "A": "ampere",
        "V": "volt",
        "Ω": "ohm",
        "ha": "hectare",
        "rad": "radian",
        "eV": "electronvolt",
    },
}


@pytest.mark.parametrize(("ours", "theirs"), KNOWN_TO_SYMPY.items())
def test_factors_are_those_of_sympy(ours, theirs):
    unit = read_unit(f" {ours}")
    assert unit is not None
    target = [getattr(sympy_units, BASES[name]) ** power for name, power in unit.dimension]
    product = sympy_units.convert_to(getattr(sympy_units, theirs), target)
    for base in target:
        product = product / base
    assert float(product) == pytest.approx(float(unit.factor), rel=2e-4)  # sympy's light year and mile are rounded


@pytest.mark.parametrize(
    ("one", "other", "factor"),
    [
        ("km/h", "m/s", Fraction(5, 18)),
        ("km per hour", "kph", 1),
        ("sq. ft", "square feet", 1),
        ("m^3", "L", 1000),
        ("gallons", "quarts", 4),
        ("kWh", "J", 3_600_000),
        ("N*m", "J", 1),
        ("m s^{-2}", "m/s^2", 1),
        ("dollars per hour", "cents/h", 100),
        ("weeks", "days", 7),
        ("平方厘米", "cm2", 1),
        ("dozen-free acres", "", 0),
    ],
)
def test_products_and_quotients(one, other, factor):
    left, right = read_unit(f" {one}"), read_unit(f" {other}")
    if not factor:
        assert left is None
        return
    assert left is not None
    assert right is not None
    assert left.dimension == right.dimension != ()
    assert float(left.factor / right.factor) == pytest.approx(float(factor), rel=1e-9)


def test_unknown_dimensions_go_with_any_other():
    for text in ("", " units", " square units", " points", " °T", " people per square mile"):
        assert read_unit(text) is not None, text
    assert read_unit(" units") == UNKNOWN
    for text in (" million", " not", " wrong", " x", " or 6", " percent of", " squared", "t", " apples and pears"):
        assert read_unit(text) is None, text


def test_nouns_of_the_question():
    nouns = nouns_asked("How many more gizmos than 3 dozen widgets are not false, and how many miles per hour is that?")
    assert {"gizmos", "widgets", "miles", "more"} <= nouns
    assert not {"not", "false", "dozen", "and", "than"} & nouns
    assert read_number("5 gizmos", nouns) is not None
    assert read_number("5 gizmos") is None
    assert read_number("5 dozen", nouns) != read_number("5", nouns)


def test_order():
    assert order_asked("Give length and width respectively.") is True
    assert order_asked("Find all real solutions.") is False
    assert order_asked("What are the length and the width?") is None
