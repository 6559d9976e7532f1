"""Short cuts for math-verify's comparison of two expressions, which `simplify` and `solve` make slow.

Most wrong answers differ from the gold at the first point that both are evaluated at, and most right ones cancel when
their difference is expanded. What neither shows goes the long way as before.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import math_verify.grader
import mpmath
import sympy
from math_verify.grader import is_atomic_or_pct_atomic

from mmhicra.rewards.points import Expression, TooLarge, Undecided, Value, points, value_at

_BITS = (100, 150)
"""A difference must be the same in both precisions, or it is rounding."""
_CLEAR = 1e-9
"""Share of the larger value that a difference must exceed."""
_CLEAR_INTEGRAL = 1e-2
"""The same where a quadrature is involved, which has errors of its own."""
_MOST_BITS = 10**6
"""Binary digits, before or behind the point, of a number that is worked out exactly."""
_MOST_EXPANDED = 12
"""The largest power of a sum that is multiplied out."""
_UNEVALUATED = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit, sympy.Derivative)
_SEARCHED = 32
"""Values of one symbol among which a zero of an equation is searched for."""
_SECANTS = 12
"""Steps of the secant method before that search."""
_HALVINGS = 60

_long_numeric, _long_symbolic = math_verify.grader.sympy_numeric_eq, math_verify.grader.sympy_symbolic_eq
_long_solve, _long_sets = math_verify.grader.sympy_solve_and_compare, math_verify.grader.sympy_compare_sets


def take_short_cuts() -> None:
    """Let `math_verify.verify` in this process try the short cuts first."""
    math_verify.grader.sympy_numeric_eq = _numeric
    math_verify.grader.sympy_symbolic_eq = _symbolic
    math_verify.grader.sympy_solve_and_compare = _solve
    math_verify.grader.sympy_compare_sets = _sets


@lru_cache(maxsize=64)
def differ(one: Expression, other: Expression) -> bool:
    """Whether two scalar expressions are certainly not equal for all real values of their symbols."""
    clear = _CLEAR_INTEGRAL if one.has(sympy.Integral) or other.has(sympy.Integral) else _CLEAR
    least_scale = 1 if one.has(sympy.Float) or other.has(sympy.Float) else 0  # 0.1 + 0.2 - 0.3 is not quite 0
    for point in points(one, other):
        try:
            pairs = [(value_at(one, point, bits), value_at(other, point, bits)) for bits in _BITS]
        except Undecided:
            continue
        gap, again = (abs(a - b) for a, b in pairs)
        scale = max(abs(pairs[0][0]), abs(pairs[0][1]), least_scale)
        if gap > clear * scale and abs(gap - again) <= gap / 1000:
            return True
    return False


def cancels(one: Expression, other: Expression) -> bool:
    """Whether the difference of two scalar expressions is 0 once it is multiplied out."""
    raw = one - other
    if raw.has(*_UNEVALUATED) or any(map(_is_large_power, raw.atoms(sympy.Pow))):
        return False
    difference: Any = sympy.expand(raw.doit())
    return difference.is_zero is True or sympy.expand(_numerator(difference)).is_zero is True


def curves_differ(one: Expression, other: Expression) -> bool:
    """Whether `one = 0` and `other = 0` certainly have different real solutions: a zero of one that the other lacks."""
    return _zero_is_its_own(one, other) or _zero_is_its_own(other, one)


def is_multiple(one: Expression, other: Expression) -> bool:
    """Whether one expression is a number times the other, so that both are 0 at the same places."""
    if one.has(*_UNEVALUATED, sympy.Float) or other.has(*_UNEVALUATED, sympy.Float):
        return False
    point = next(iter(points(one, other)))
    ratio = one.doit().subs(point) / other.doit().subs(point)
    return bool(ratio.is_Rational and ratio) and cancels(one, ratio * other)


def is_too_large(expression: Expression) -> bool:
    """Whether a number in `expression`, however deep, has more digits than can be worked out."""
    for part in sympy.preorder_traversal(expression):
        if isinstance(part, sympy.Pow | sympy.factorial | sympy.binomial | sympy.exp) and not part.free_symbols:
            try:
                size = abs(value_at(part, {}, _BITS[0]))
            except TooLarge:
                return True
            except Undecided:
                continue
            if size and abs(mpmath.mag(size)) > _MOST_BITS:
                return True
    return False


def _numeric(one: Any, other: Any, *settings: int) -> bool:
    settled = any(is_atomic_or_pct_atomic(each, kind) for each in (one, other) for kind in (sympy.Float, sympy.Integer))
    if not settled and _are_scalars(one, other) and differ(one, other):
        return False
    return _long_numeric(one, other, *settings)


def _symbolic(one: Any, other: Any) -> bool:
    if _are_scalars(one, other):
        if differ(one, other):
            return False
        if cancels(one, other):
            return True
    return _long_symbolic(one, other)


def _solve(gold: Any, answer: Any, *settings: int) -> bool:
    sides: list[Any] = [*gold.args, *answer.args] if isinstance(gold, sympy.Eq) and isinstance(answer, sympy.Eq) else []
    if len(sides) == 4 and _are_scalars(*sides):
        one, other = sides[0] - sides[1], sides[2] - sides[3]
        if len(one.free_symbols | other.free_symbols) > 1 and is_multiple(one, other):
            return True
        if curves_differ(one, other):
            return False
    return _long_solve(gold, answer, *settings)


def _sets(gold: Any, answer: Any, *settings: int) -> bool:
    if isinstance(gold, sympy.Interval) != isinstance(answer, sympy.Interval):
        interval, other = (gold, answer) if isinstance(gold, sympy.Interval) else (answer, gold)
        if isinstance(other, sympy.FiniteSet | sympy.Tuple | sympy.Expr):
            return _is_point(interval, other) and _long_sets(gold, answer, *settings)
    elements = [_elements(each) for each in (gold, answer)]
    if all(elements) and (_has_its_own(*elements) or _has_its_own(*reversed(elements))):
        return False
    return _long_sets(gold, answer, *settings)


def _is_point(interval: Expression, other: Any) -> bool:
    """Whether what was read as an open interval may be a point `(a, b)`: nothing else has finitely many elements."""
    return bool(interval.is_open) and isinstance(other, sympy.FiniteSet | sympy.Tuple) and len(other) == 2


def _elements(expression: Any) -> list[Expression]:
    """The elements of a list, set or tuple of scalars, or of one scalar; none of anything else."""
    listed = isinstance(expression, sympy.FiniteSet | sympy.Tuple)
    elements = list(expression.args) if listed else [expression]
    return elements if _are_scalars(*elements) and not any(map(_is_percent_or_float, elements)) else []


def _has_its_own(ones: list[Expression], others: list[Expression]) -> bool:
    """Whether one of the first elements certainly differs from all others."""
    return any(all(one != other and differ(one, other) for other in others) for one in ones)


def _is_percent_or_float(expression: Expression) -> bool:
    """What math-verify compares with a tolerance."""
    return expression.has(sympy.UnevaluatedExpr, sympy.Float)


def _are_scalars(*expressions: Any) -> bool:
    return all(isinstance(each, sympy.Expr) and not isinstance(each, sympy.MatrixExpr) for each in expressions)


def _numerator(expression: Expression) -> Expression:
    return sympy.fraction(sympy.together(expression))[0]


def _is_large_power(power: Expression) -> bool:
    return not power.exp.is_Integer or abs(power.exp) > _MOST_EXPANDED if power.base.is_Add else False


def _zero_is_its_own(one: Expression, other: Expression) -> bool:
    for point in points(one, other):
        for symbol in sorted(one.free_symbols, key=lambda each: each.name):
            zero = _zero(one, {**point}, symbol)
            if zero is None:
                continue
            try:
                near, away = ([abs(_real(each, {**point, symbol: at})) for each in (one, other)] for at in zero)
            except Undecided:
                continue
            if near[0] < 1e-9 * away[0] and near[1] > 1e-6 * away[1]:
                return True
    return False


def _zero(one: Expression, point: dict[Any, Any], symbol: Expression) -> tuple[Any, Any] | None:
    """A point at which `one` is 0 as a function of `symbol`, and a place nearby where it is not."""
    before, at = (_real(sympy.Rational(n, 13), {}) for n in (17, 29))
    first = at
    try:
        last, value = (_real(one, {**point, symbol: each}) for each in (before, at))
        scale = abs(value)
        for _ in range(_SECANTS):  # one is enough for a line
            if abs(value) <= 1e-20 * scale or value == last:
                break
            before, at, last = at, at - value * (at - before) / (value - last), value
            value = _real(one, {**point, symbol: at})
        if at != first and abs(value) <= 1e-12 * scale:
            return at, first
    except Undecided:
        pass
    bracket = _bracket(one, point, symbol)
    return (_bisect(one, point, symbol, *bracket), bracket[1]) if bracket else None


def _bracket(one: Expression, point: dict[Any, Any], symbol: Expression) -> tuple[Any, Any] | None:
    """Two neighbouring values of `symbol` between which `one` changes its sign."""
    before = None
    for step in range(_SEARCHED):
        at = sympy.Rational(-8117 + 541 * step, 1009)
        try:
            value = _real(one, {**point, symbol: at})
        except Undecided:
            before = None
            continue
        if before is not None and (value > 0) != (before[1] > 0):
            return before[0], at
        before = at, value
    return None


def _bisect(one: Expression, point: dict[Any, Any], symbol: Expression, low: Any, high: Any) -> Any:
    """A point at which `one` changes its sign between two values; somewhere between them if it has gaps there."""
    low, high = (_real(symbol, {symbol: end}) for end in (low, high))
    try:
        rising = _real(one, {**point, symbol: high}) > 0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if (_real(one, {**point, symbol: middle}) > 0) == rising:
                high = middle
            else:
                low = middle
    except Undecided:
        pass
    return (low + high) / 2


def _real(expression: Expression, point: dict[Any, Any]) -> Value:
    value = value_at(expression, point, _BITS[0])
    if value.imag:
        raise Undecided("complex")
    return value.real
