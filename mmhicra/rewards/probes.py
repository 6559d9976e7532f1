r"""Whether two expressions take the same values wherever they are tried, exactly and without computer algebra.

`3a^2b` and `3ba^2`, `\sqrt{1/n}` and `\frac{1}{\sqrt n}`, `14-i` and `14.0 + -1.0i`: every letter is given a number and
`arithmetic` works both sides out. Polynomials that agree at all points of `_POINTS` are equal up to the seventh degree;
a difference, or an undefined value on one side only, decides nothing and is left to algebra.
"""

from __future__ import annotations

import re
from fractions import Fraction

from mmhicra.rewards.arithmetic import Amount, Reader, UnreadableError
from mmhicra.rewards.notation import plain

_LETTER = re.compile(
    r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])"
    r"|\\(?:alpha|beta|gamma|theta|lambda|mu|phi|omega)(?![a-zA-Z])"
)
_RUN = re.compile(r"(?<![\\A-Za-z])(?!sqrt|pi|sin|cos|tan|log|exp|ln)[A-Za-z]{2,6}(?![A-Za-z])")
_UNSUITABLE = re.compile(
    r"[=<>,;:_'\"%°&|!]|\\(?!frac|sqrt|pi|alpha|beta|gamma|theta|lambda|mu|phi|omega)[a-zA-Z]|[A-Za-z]\s*\(\w\)"
)
_POINTS = tuple(
    tuple(Fraction(sign * (7 * at + 3 * letter + 2), 2 + (at + letter) % 5) for letter in range(4))
    for at in range(4)
    for sign in (1, -1)
)
_MOST_LETTERS = 4
_LONGEST = 120
_LEAST_POINTS = 4


def agree_everywhere(gold: str, answer: str) -> bool:
    """Whether both expressions have the same letters and, wherever both can be worked out, the same values."""
    if max(len(gold), len(answer)) > _LONGEST:
        return False
    left, right = _spaced(gold), _spaced(answer)
    letters = sorted(set(_LETTER.findall(left)) - {"e"})
    if not letters or len(letters) > _MOST_LETTERS or letters != sorted(set(_LETTER.findall(right)) - {"e"}):
        return False
    if _UNSUITABLE.search(left) or _UNSUITABLE.search(right):
        return False
    same = 0
    for point in _POINTS:
        numbers = dict(zip(letters, point, strict=False))
        one, other = value_with(left, numbers), value_with(right, numbers)
        if (one is None) != (other is None):
            return False
        if one is None or other is None:
            continue
        exact = isinstance(one, Fraction) and isinstance(other, Fraction)
        if one != other and (exact or abs(float(one) - float(other)) > 1e-11 * abs(float(one))):
            return False
        same += 1
    return same >= _LEAST_POINTS


def _spaced(text: str) -> str:
    """`xy` as `x y`, and `+ -` as `-`."""
    spelt = re.sub(r"\+\s*-", "-", plain(text))
    return _RUN.sub(lambda run: " ".join(run[0]), spelt)


def value_with(text: str, numbers: dict[str, Fraction]) -> Amount | None:
    """What an expression is where its letters are these numbers; None if it cannot be worked out."""
    filled = _LETTER.sub(lambda letter: f"({numbers[letter[0]]})" if letter[0] in numbers else letter[0], text)
    reader = Reader(re.sub(r"\)\s+(?=[(\\])", ")", filled))
    try:
        amount = reader.ratio()
    except (UnreadableError, OverflowError, ZeroDivisionError, ValueError):
        return None
    return amount if reader.at == len(reader.text.rstrip()) else None
