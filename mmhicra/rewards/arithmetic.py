r"""Works arithmetic out exactly, with limits: `3\frac{1}{2}`, `2\sqrt{3}`, `0.1\overline{6}`, `10!`, `\log_2 8`.

A small recursive-descent reader instead of sympy, because it has to be safe and fast enough to read every response in
the training process. Integers and fractions stay exact however small or large they are (`1/2004!`), up to `MOST_BITS`;
roots, pi, e and functions are floats. What is larger cannot be read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction

Amount = Fraction | float
MOST_BITS = 40_000
"""Bits of a numerator or denominator; 2004! has 19,100."""

_MOST_FACTORIAL = 3000
_DEEPEST = 30
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+")
_REPEATING = re.compile(r"\\overline\s*\{\s*(\d{1,40})\s*\}")
_DIGIT = re.compile(r"\d")
_EXPONENT = re.compile(r"[eE][+-]?\d{1,3}(?!\d)")
_FRACTION = re.compile(
    r"\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|\s*\\frac\s*(\d)\s*(\d)(?!\d)|\s+(\d+)\s*/\s*(\d+)(?![\d.])"
)
_SPACE = re.compile(r"\s*")
_COLON = re.compile(r"\s*:\s*")
_SIGN = re.compile(r"\s*([+-])\s*")
_OPERATOR = re.compile(r"\s*(?:([*/])|[xX](?=\s*10\s*\^))\s*")
_JUXTAPOSED = re.compile(
    r"\s*(?:\\(?:sqrt|pi|frac|binom|log|ln|lg|sin|cos|tan|exp)(?![a-zA-Z])|sqrt\b|pi\b|\(|(?<![\d.])e(?![a-zA-Z])|e\s*\^)"
)
_RAISED = re.compile(r"\s*\^\s*(?=[\d{(-])")
_FACTORIAL = re.compile(r"\s*!(?!\s*[!=])")
_SIGNED_DIGITS = re.compile(r"-?\d+")
_PI = re.compile(r"\\pi(?![a-zA-Z])|pi\b")
_E = re.compile(r"e(?![a-zA-Z])")
_OVER = re.compile(r"\\frac(?![a-zA-Z])\s*")
_BINOMIAL = re.compile(r"\\binom(?![a-zA-Z])\s*")
_ROOT = re.compile(r"(?:\\sqrt(?![a-zA-Z])|sqrt\b)\s*(?:\[\s*(\d{1,2})\s*\]\s*)?")
_FUNCTION = re.compile(r"\\?(log|ln|lg|sin|cos|tan|cot|sec|csc|exp|arcsin|arccos|arctan)(?![a-zA-Z])\s*")
_BASE = re.compile(r"_\s*(?:\{\s*(\d+|e)\s*\}|(\d|e))\s*")
_DEGREES = re.compile(r"\s*°")
_OPENING = re.compile(r"[{(]|\\lfloor\s*|\\lceil\s*|\|")
_CLOSING = {
    "{": re.compile(r"\s*\}"),
    "(": re.compile(r"\s*\)"),
    "|": re.compile(r"\s*\|"),
    r"\lfloor": re.compile(r"\s*\\rfloor"),
    r"\lceil": re.compile(r"\s*\\rceil"),
}


class UnreadableError(Exception):
    """The text does not start with a number of moderate size."""


class Reader:
    """Reads one arithmetic expression from the left of a `plain` text; `at` is where it stopped.

    Every method raises `UnreadableError`, `OverflowError` or `ZeroDivisionError` on what is no number.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.rounded = False
        """Whether a decimal point was read, so that the number may stand for a longer one."""
        self._depth = 0

    def ratio(self) -> Amount:
        """A sum, or one divided by another with a colon."""
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
            raise UnreadableError
        amount = self._product()
        while sign := self._take(_SIGN):
            term = self._product()
            amount = amount + term if sign[1] == "+" else amount - term
        self._depth -= 1
        return _moderate(amount)

    def _product(self) -> Amount:
        sign = self._take(_SIGN)
        amount = self._power()
        while True:
            if operator := self._take(_OPERATOR):
                factor = self._power()
                amount = amount / factor if operator[1] == "/" else amount * factor
            elif _JUXTAPOSED.match(self.text, self.at):
                amount = amount * self._power()
            else:
                return -amount if sign and sign[1] == "-" else amount
            _moderate(amount)

    def _power(self) -> Amount:
        base = self._atom()
        while self._take(_FACTORIAL):
            base = _factorial(base)
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
        if self._take(_BINOMIAL):
            above = self._argument(_DIGIT)
            return _choose(above, self._argument(_DIGIT))
        if root := self._take(_ROOT):
            return _raise(self._argument(), Fraction(1, int(root[1] or 2)))
        if function := self._take(_FUNCTION):
            return self._function(function[1])
        return self._argument()

    def _argument(self, digits: re.Pattern[str] = _NUMBER) -> Amount:
        r"""What stands in braces or brackets, pi, e, or bare digits: one for `\frac12`, all for `√13`."""
        self._take(_SPACE)
        if opening := self._take(_OPENING):
            bracket = opening[0].strip()
            amount = self._sum()
            if not self._take(_CLOSING[bracket]):
                raise UnreadableError
            return abs(amount) if bracket == "|" else _rounded(amount, bracket) if bracket[0] == "\\" else amount
        if self._take(_PI):
            return math.pi
        if self._take(_E):
            return math.e
        number = self._take(digits)
        if not number:
            raise UnreadableError
        self.rounded |= "." in number[0]
        return Fraction(number[0].replace(",", "").rstrip("."))

    def _function(self, name: str) -> Amount:
        base = self._take(_BASE) if name == "log" else None
        power = self._argument(_DIGIT) if self._take(_RAISED) else Fraction(1)
        self._take(_SPACE)
        argument = self._power()
        if self._take(_DEGREES):
            argument = math.radians(argument)
        if base is not None and "e" not in (base[1], base[2]):
            found = _logarithm(argument, int(base[1] or base[2]))
        elif name == "log" and base is None:
            raise UnreadableError  # to base 10 or to base e?
        else:
            found = _FUNCTIONS["ln" if name == "log" else name](float(argument))
        return _raise(found, power) if power != 1 else found

    def _number(self, digits: str) -> Amount:
        self.rounded |= "." in digits
        if "." in digits and (block := self._take(_REPEATING)):
            self.rounded = False
            return _repeating(digits, block[1])
        exponent = self._take(_EXPONENT)
        amount = Fraction(digits.replace(",", "").rstrip(".") + (exponent[0] if exponent else ""))
        part = None if "." in digits else self._take(_FRACTION)
        if not part:
            return amount
        above, below = (int(next(filter(None, part.groups()[n::2]))) for n in (0, 1))
        if above < below:  # a mixed number
            return amount + Fraction(above, below)
        return amount * Fraction(above, below)


def is_moderate(amount: Amount) -> bool:
    """Whether an amount can be calculated with."""
    if isinstance(amount, float):
        return math.isfinite(amount)
    return max(amount.numerator.bit_length(), amount.denominator.bit_length()) <= MOST_BITS


def _moderate(amount: Amount) -> Amount:
    if not is_moderate(amount):
        raise UnreadableError
    return amount


def _raise(base: Amount, exponent: Amount) -> Amount:
    """`base ** exponent`, exact where it can be; real and of moderate size, else `UnreadableError`."""
    if base < 0 and (not isinstance(exponent, Fraction) or exponent.denominator > 1):
        if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator % 2:
            return _raise(-base, exponent) * (-1 if exponent.numerator % 2 else 1)
        raise UnreadableError
    if not isinstance(exponent, Fraction):
        return float(base) ** exponent
    if isinstance(base, Fraction) and (root := _exact_root(base, exponent.denominator)) is not None:
        bits = max(root.numerator.bit_length(), root.denominator.bit_length())
        if bits * abs(exponent.numerator) > MOST_BITS:
            raise UnreadableError
        return root**exponent.numerator
    return float(base) ** float(exponent)


def _exact_root(base: Fraction, degree: int) -> Fraction | None:
    if degree == 1:
        return base
    if max(base.numerator.bit_length(), base.denominator.bit_length()) > 1000:
        return None
    above, below = (round(part ** (1 / degree)) for part in (base.numerator, base.denominator))
    root = Fraction(above, below)
    return root if root**degree == base else None


def _repeating(digits: str, block: str) -> Fraction:
    """`0.1` and `6` are 1/6."""
    places = len(digits.partition(".")[2])
    start = Fraction(digits.replace(",", "").rstrip(".") or 0)
    return start + Fraction(int(block), (10 ** len(block) - 1) * 10**places)


def _factorial(amount: Amount) -> Fraction:
    if not isinstance(amount, Fraction) or amount.denominator > 1 or not 0 <= amount <= _MOST_FACTORIAL:
        raise UnreadableError
    return Fraction(math.factorial(amount.numerator))


def _choose(above: Amount, below: Amount) -> Fraction:
    whole = [each for each in (above, below) if isinstance(each, Fraction) and each.denominator == 1]
    if len(whole) < 2 or min(whole) < 0:
        raise UnreadableError
    n, k = (each.numerator for each in whole)
    if max(min(k, n - k), 0) * n.bit_length() > MOST_BITS:
        raise UnreadableError
    return Fraction(math.comb(n, k))


def _logarithm(argument: Amount, base: int) -> Amount:
    if argument <= 0 or base < 2:
        raise UnreadableError
    found = math.log(argument) / math.log(base)
    exact = Fraction(found).limit_denominator(12)
    moderate = isinstance(argument, Fraction) and abs(exact) < 500
    return exact if moderate and _raise(Fraction(base), exact) == argument else found


def _rounded(amount: Amount, bracket: str) -> Fraction:
    return Fraction(math.floor(amount) if bracket == r"\lfloor" else math.ceil(amount))


_FUNCTIONS: Mapping[str, Callable[[float], float]] = {
    "ln": math.log,
    "lg": math.log10,
    "exp": math.exp,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "cot": lambda x: 1 / math.tan(x),
    "sec": lambda x: 1 / math.cos(x),
    "csc": lambda x: 1 / math.sin(x),
    "arcsin": math.asin,
    "arccos": math.acos,
    "arctan": math.atan,
}
