"""Values of sympy expressions at a point, in so many bits, without evaluating anything exactly.

Numbers here have exponents without limit but never many digits, so that a tower of powers costs microseconds where
sympy would fill the memory.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import mpmath
import sympy
from sympy.core.function import AppliedUndef

Expression = Any
"""An expression of sympy, whose own annotations say too little to check anything by."""
Value = Any
"""An `mpf` or `mpc` of the context at hand."""

_MOST_BITS = 10**6
"""Binary digits of an integer exponent's result or a literal that is still worked out exactly elsewhere."""
_LARGEST_ARGUMENT = 2.0**64
"""The largest argument of an exponential, a factorial or an angle that is worked out."""
_MOST_TERMS = 500
"""Terms of a sum or product that are worked out."""
_NEAR_A_JUMP = 1e-15
"""How near to a jump of a function, relative to its argument, a value is not trusted."""


class Undecided(Exception):
    """The expression has no value here, or none that can be trusted."""


class TooLarge(Undecided):
    """A number larger than can be worked out."""


def points(*expressions: Expression) -> Iterator[Mapping[Expression, sympy.Rational]]:
    """Values for all symbols of some expressions, the same every time.

    Two points of positive fractions and one of integers, where sums up to n have values too.
    """
    names = sorted({symbol for each in expressions for symbol in each.free_symbols}, key=lambda symbol: symbol.name)
    if not names:
        yield {}
        return
    for number in range(2):
        yield {name: _fraction(name.name, number) for name in names}
    yield {name: sympy.Integer(3 + 2 * at) for at, name in enumerate(names)}


def value_at(expression: Expression, point: Mapping[Expression, Any], bits: int) -> Value:
    """The value of a scalar expression with every symbol of it as `point` says.

    Undefined functions get smooth values that depend on their name and arguments.

    Raises:
        TooLarge: a part of it is too large.
        Undecided: a part of it has no finite value here, or is of a kind that is not known here.
    """
    return _Evaluator(bits, point).value(expression)


class _Evaluator:
    def __init__(self, bits: int, point: Mapping[Expression, Any]) -> None:
        self.context = _context(bits)
        self.point = {
            symbol: self.number(given) if isinstance(given, sympy.Expr) else self.context.mpmathify(given)
            for symbol, given in point.items()
        }

    def value(self, expression: Expression) -> Value:
        try:
            found = self.work_out(expression)
        except (ZeroDivisionError, OverflowError, ValueError, TypeError, RecursionError) as error:
            raise Undecided(type(error).__name__) from error
        if not self.context.isfinite(found):
            raise Undecided("not finite")
        return found

    def work_out(self, expression: Expression) -> Value:
        if expression.is_Number or expression in _CONSTANTS:
            return self.number(expression)
        if expression.is_Symbol:
            return self.symbol(expression)
        if isinstance(expression, AppliedUndef):
            return self.undefined(expression)
        known = _KNOWN.get(expression.func)
        if known is None:
            raise Undecided(expression.func.__name__)
        return known(self, expression.args)

    def number(self, number: Any) -> Value:
        if isinstance(number, sympy.Rational):
            if max(number.p.bit_length(), number.q.bit_length()) > _MOST_BITS:
                raise TooLarge(f"{number.p.bit_length()} bits")
            return self.context.mpf(number.p) / number.q
        if isinstance(number, sympy.Float):
            return self.context.make_mpf(number._mpf_)
        if number in _CONSTANTS:
            return +getattr(self.context, _CONSTANTS[number])
        raise Undecided(str(number))

    def symbol(self, symbol: Any) -> Value:
        if symbol not in self.point:
            raise Undecided(symbol.name)
        return self.point[symbol]

    def undefined(self, function: Any) -> Value:
        total = self.context.mpf(0)
        for at, each in enumerate(function.args):
            total += self.number(_fraction(function.func.__name__, at)) * self.value(each)
        return self.context.sin(_modest(total)) + self.number(_fraction(function.func.__name__, -1))

    def add(self, args: tuple[Any, ...]) -> Value:
        return sum(map(self.value, args), self.context.mpf(0))

    def multiply(self, args: tuple[Any, ...]) -> Value:
        return math.prod(map(self.value, args), start=self.context.mpf(1))

    def power(self, args: tuple[Any, ...]) -> Value:
        base, exponent = map(self.value, args)
        if not base:
            if self.context.im(exponent) or exponent < 0:
                raise Undecided("a power of zero")
            return self.context.mpf(1 if not exponent else 0)
        if abs(exponent) * abs(self.context.log(abs(base), 2)) > _LARGEST_ARGUMENT:
            raise TooLarge("power")
        if self.context.isint(exponent):
            return self.context.power(base, exponent)
        return self.context.power(self.off_the_cut(base), exponent)

    def logarithm(self, args: tuple[Any, ...]) -> Value:
        of, *base = map(self.value, args)
        found = self.context.log(self.off_the_cut(of))
        return found / self.context.log(self.off_the_cut(base[0])) if base else found

    def absolute(self, args: tuple[Any, ...]) -> Value:
        return abs(self.value(args[0]))

    def factorial(self, args: tuple[Any, ...]) -> Value:
        return self.context.factorial(_modest(self.value(args[0])))

    def binomial(self, args: tuple[Any, ...]) -> Value:
        return self.context.binomial(*(_modest(self.value(each)) for each in args))

    def round_down(self, args: tuple[Any, ...]) -> Value:
        return self.context.floor(self.between_jumps(self.value(args[0])))

    def round_up(self, args: tuple[Any, ...]) -> Value:
        return self.context.ceil(self.between_jumps(self.value(args[0])))

    def largest(self, args: tuple[Any, ...]) -> Value:
        return max(map(self.value, args))

    def smallest(self, args: tuple[Any, ...]) -> Value:
        return min(map(self.value, args))

    def inner(self, args: tuple[Any, ...]) -> Value:
        return self.value(args[0])

    def add_up(self, args: tuple[Any, ...]) -> Value:
        return sum(self.terms(args), self.context.mpf(0))

    def multiply_up(self, args: tuple[Any, ...]) -> Value:
        return math.prod(self.terms(args), start=self.context.mpf(1))

    def terms(self, args: tuple[Any, ...]) -> Iterator[Value]:
        body, (index, low, high) = args[0], tuple(args[1])
        if len(args) != 2:
            raise Undecided("several indices")
        first, last = self.value(low), self.value(high)
        if not (self.context.isint(first) and self.context.isint(last) and 0 <= last - first + 1 <= _MOST_TERMS):
            raise Undecided("the number of terms")
        for at in range(int(first), int(last) + 1):
            yield self.inside(index, at).value(body)

    def integrate(self, args: tuple[Any, ...]) -> Value:
        if len(args) != 2 or len(args[1]) != 3:
            raise Undecided("not one definite integral")
        body, (variable, low, high) = args[0], tuple(args[1])
        bounds = [self.value(low), self.value(high)]
        found, error = self.context.quad(
            lambda at: self.inside(variable, at).value(body), bounds, error=True, maxdegree=4
        )
        if error > abs(found) / 1000:
            raise Undecided("a quadrature that does not settle")
        return found

    def inside(self, variable: Any, at: Value) -> _Evaluator:
        return _Evaluator(self.context.prec, {**self.point, variable: at})

    def off_the_cut(self, value: Value) -> Value:
        """`value`, unless it lies so near the negative axis that rounding decides on which side."""
        imaginary = self.context.im(value)
        if imaginary and self.context.re(value) < 0 and abs(imaginary) < _NEAR_A_JUMP * abs(value):
            raise Undecided("a branch cut")
        return value

    def between_jumps(self, value: Value) -> Value:
        if not isinstance(value, self.context.mpf):
            raise Undecided("rounding a complex number")
        if abs(value - self.context.nint(value)) < _NEAR_A_JUMP * max(1, abs(value)):
            raise Undecided("a jump")
        return value


def _modest(value: Value) -> Value:
    if abs(value) > _LARGEST_ARGUMENT:
        raise TooLarge("argument")
    return value


def _plain(name: str) -> Callable[[_Evaluator, tuple[Any, ...]], Value]:
    def function(self: _Evaluator, args: tuple[Any, ...]) -> Value:
        return getattr(self.context, name)(*(_modest(self.value(each)) for each in args))

    return function


_SAME_NAME = "exp sin cos tan cot sec csc sinh cosh tanh coth asin acos atan asinh gamma"
_KNOWN: dict[Any, Callable[[_Evaluator, tuple[Any, ...]], Value]] = {
    sympy.Add: _Evaluator.add,
    sympy.Mul: _Evaluator.multiply,
    sympy.Pow: _Evaluator.power,
    sympy.log: _Evaluator.logarithm,
    sympy.Abs: _Evaluator.absolute,
    sympy.factorial: _Evaluator.factorial,
    sympy.binomial: _Evaluator.binomial,
    sympy.floor: _Evaluator.round_down,
    sympy.ceiling: _Evaluator.round_up,
    sympy.Max: _Evaluator.largest,
    sympy.Min: _Evaluator.smallest,
    sympy.UnevaluatedExpr: _Evaluator.inner,
    sympy.Sum: _Evaluator.add_up,
    sympy.Product: _Evaluator.multiply_up,
    sympy.Integral: _Evaluator.integrate,
} | {getattr(sympy, name): _plain(name) for name in _SAME_NAME.split()}
_CONSTANTS = {sympy.pi: "pi", sympy.E: "e", sympy.I: "j", sympy.EulerGamma: "euler", sympy.GoldenRatio: "phi"}


@lru_cache
def _context(bits: int) -> Any:
    context = mpmath.MPContext()
    context.prec = bits
    return context


@lru_cache(maxsize=256)
def _fraction(name: str, number: int) -> Expression:
    """A fraction between 0.3 and 2.7 that the name and the number choose."""
    return sympy.Rational(random.Random(f"{name} {number}").randint(3_000_000, 27_000_000), 10_000_019)
