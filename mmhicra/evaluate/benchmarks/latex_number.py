r"""The number a piece of LaTeX states, in the reading of MathVision's official scorer.

That scorer evaluates `str(latex2sympy(text))` as Python. This reader gives the same numbers for the grammar of
latex2sympy2 1.9.1 as far as answers use it, and evaluates no text: it knows numbers, fractions, roots, powers, pi, the
four operations and some functions. Its habits are kept because labels depend on them: `:` divides, `1 1/2` is a
product, the longest valid beginning counts (`5}6` is 5, `5.abc` is 5), a letter makes a symbol, and a symbol has no
value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache

Number = int | float

_BLANK = re.compile(r"(?:\s|[$~]|\\,|\\q?quad(?![a-zA-Z])|\\displaystyle(?![a-zA-Z])|\\left(?=[(\[]|\\\{))+")
_NUMBER = re.compile(r"(\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(\\%)?")
_PRODUCT = re.compile(r"\*|/|:|\\(?:times|cdot|div)(?![a-zA-Z])")
_OPENING = re.compile(r"\\?\{|\(|\[")
_CLOSING = {"(": re.compile(r"(?:\\right)?\)"), "[": re.compile(r"(?:\\right)?\]"), "{": re.compile(r"\}")}
_CLOSING[r"\{"] = re.compile(r"(?:\\right)?\\\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*(?=\{)")
_ROOT = re.compile(r"\\sqrt\s*(?:\[(\d{1,3})\]\s*)?(?=\{)")
_CONSTANT = re.compile(r"\\pi(?![a-zA-Z])|e(?=\^)")
_FUNCTION = re.compile(r"\\(sin|cos|tan|arcsin|arccos|arctan|log)(?![a-zA-Z])\s*(?:_\{?(\d{1,3})\}?)?")
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "sin": math.sin, "cos": math.cos, "tan": math.tan,
    "arcsin": math.asin, "arccos": math.acos, "arctan": math.atan,
}  # fmt: skip
_ASSIGNED = re.compile(r"\s*[a-z]\s*=(?!=)")
_SUBSCRIPT = re.compile(r"_(?:\{\w*\}|\w)")
_END = re.compile(r"[)\]}.&_]|\\(?:right|to|rightarrow)(?![a-zA-Z])|\\\}|\\\\|\Z")
"""What may follow a whole expression; everything after it is ignored."""
_DEEPEST = 40
_MOST_BITS = 20_000
_LARGEST_FACTORIAL = 170


class _NoNumberError(Exception):
    """The text states no number, or one too large to be worked out."""


@lru_cache(maxsize=16_384)
def latex_number(text: str) -> Number | None:
    r"""The value of `text`, None where the official scorer raises and calls the answer wrong.

    An integer where Python would have one: `2` and `2.0` are 2, `4/2` is 2.0.
    """
    assigned = _ASSIGNED.match(text)
    reader = _Reader(text, assigned.end() if assigned else 0)
    try:
        value = reader.sum()
        reader.skip_blank()
    except (_NoNumberError, ArithmeticError, ValueError):
        return None
    if not _END.match(text, reader.at):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


class _Reader:
    """Recursive descent over one text; `at` is where it stands."""

    def __init__(self, text: str, at: int) -> None:
        self.text = text
        self.at = at
        self._depth = 0
        self._in_function = False

    def skip_blank(self) -> None:
        self._take(_BLANK)

    def sum(self) -> Number:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _NoNumberError
        value = self._product()
        while sign := self._sign():
            term = self._product()
            value = value + term if sign == "+" else value - term
        self._depth -= 1
        return value

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match

    def _sign(self) -> str:
        self.skip_blank()
        sign = self.text[self.at : self.at + 1]
        if sign not in ("+", "-"):
            return ""
        self.at += 1
        return sign

    def _product(self) -> Number:
        value = self._signed()
        while True:
            self.skip_blank()
            operator = self._take(_PRODUCT)
            if operator is None:
                return value
            factor = self._signed()
            value = value / factor if operator[0] in ("/", ":", r"\div") else value * factor

    def _signed(self) -> Number:
        negative = False
        while sign := self._sign():
            negative ^= sign == "-"
        value = self._juxtaposed()
        return -value if negative else value

    def _juxtaposed(self) -> Number:
        """Factors side by side; they bind tighter than `*` and `/`, as in the grammar."""
        value = self._power()
        while self._starts_atom():
            value = value * self._power()
        return value

    def _starts_atom(self) -> bool:
        self.skip_blank()
        starts = (_NUMBER, _OPENING, _FRACTION, _ROOT, _CONSTANT, *([] if self._in_function else [_FUNCTION]))
        return any(pattern.match(self.text, self.at) for pattern in starts)

    def _power(self) -> Number:
        value = self._postfixed()
        while True:
            self.skip_blank()
            if not self.text.startswith("^", self.at):
                return value
            self.at += 1
            value = self._after(_power_of(value, self._atom()))

    def _postfixed(self) -> Number:
        return self._after(self._atom())

    def _after(self, value: Number) -> Number:
        """`value` with what is written behind it: factorials; primes and subscripts say nothing."""
        while True:
            self.skip_blank()
            if self.text.startswith("!", self.at):
                self.at += 1
                value = _factorial(value)
            elif self.text.startswith("'", self.at):
                self.at += 1
            elif not self._take(_SUBSCRIPT):
                return value

    def _atom(self) -> Number:
        self.skip_blank()
        if number := self._take(_NUMBER):
            return _read(number[1]) / 100 if number[2] else _read(number[1])
        if constant := self._take(_CONSTANT):
            return math.e if constant[0] == "e" else math.pi
        if function := self._take(_FUNCTION):
            return self._applied(function[1], function[2])
        if self._take(_FRACTION):
            above = self._group()
            self.skip_blank()
            return above / self._group()
        if root := self._take(_ROOT):
            inner = self._group()
            return math.sqrt(inner) if root[1] is None else _power_of(inner, 1 / int(root[1]))
        return self._group()

    def _applied(self, name: str, base: str | None) -> Number:
        """A function of what stands in round brackets, else of all factors up to the next function."""
        if self.text.startswith("(", self.at):
            argument = self._group()
        else:
            outer, self._in_function = self._in_function, True
            argument = self._product()
            self._in_function = outer
        if name == "log":
            return math.log(argument, int(base or 10))
        return _FUNCTIONS[name](argument)

    def _group(self) -> Number:
        opening = self._take(_OPENING)
        if opening is None:
            raise _NoNumberError
        value = self.sum()
        self.skip_blank()
        if not self._take(_CLOSING[opening[0]]):
            raise _NoNumberError
        return value


def _read(digits: str) -> Number:
    """Whole numbers as integers, also `2.0`: the official reading goes through exact fractions."""
    whole, _, decimals = digits.replace(",", "").partition(".")
    return int(whole or "0") if not decimals.strip("0") else float(f"{whole}.{decimals}")


def _power_of(base: Number, exponent: Number) -> Number:
    size = base.bit_length() if isinstance(base, int) else 0
    if isinstance(exponent, int) and size * abs(exponent) > _MOST_BITS:
        raise _NoNumberError
    value = base**exponent
    if isinstance(value, complex):
        raise _NoNumberError
    return value


def _factorial(value: Number) -> int:
    if not isinstance(value, int) or not 0 <= value <= _LARGEST_FACTORIAL:
        raise _NoNumberError
    return math.factorial(value)
