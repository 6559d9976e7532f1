r"""Answers that leave the work to the reader, told from their writing before anything is parsed.

Some no machine can work out (`10^{10^{10}}`), others cost more than all honest answers of a batch together (`\int`,
`\prod` up to a million). Rewards and evaluation refuse them alike. Large numbers that hide deeper, as in
`2^{10 \cdot 10^{10}}`, are found in the parsed expression by `comparison.is_too_large`.
"""

from __future__ import annotations

import re

from mmhicra.rewards.notation import plain
from mmhicra.rewards.values import read_value

TOO_LARGE = "a number too large to be worked out"
"""What a record says of it."""
LARGEST_EXPONENT = 99_999
"""The largest exponent of a power that is worked out; `2^{99999}` has 30 103 digits."""

_TOWER = re.compile(r"(?:\^[\s{(]*[-+]?\s*[\d,]+)+")
_FACTORIALS = (
    (re.compile(r"\d!\s*!"), "5!!"),
    (re.compile(r"\d{6}\s*!"), "100000!"),
)
_BRACED = r"\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)?)\}"
_BINOMIAL = re.compile(rf"\\binom{_BRACED}{_BRACED}")
_MOST_BITS = 200_000
"""Binary digits of a binomial coefficient that is worked out."""
_OPERATION = re.compile(
    r"\\(?:i{0,3}nt|oint|sum|prod|lim(?:sup|inf)?|gcd|lcm)(?![a-zA-Z])|\\Gamma\s*(?:\\left)?\s*\(|[∫∑∏]"
)
_SIDES = re.compile(r"[{}]|(?<![<>!\\])=")


def unworked(answer: str, gold: str) -> str | None:
    """Why an answer is no finished one: it is too large, or has a sum, limit or the like where the gold has none."""
    if is_too_large(answer):
        return TOO_LARGE
    operation = _OPERATION.search(_right_hand_side(answer))
    if operation and not _OPERATION.search(gold):
        return f"{operation[0]} is left to be worked out"
    return None


def is_too_large(text: str) -> bool:
    """Whether a text holds a tower of powers, a factorial or a binomial that is too large to be worked out."""
    spelled = plain(text)
    if any(pattern.search(spelled) for pattern, _ in _FACTORIALS):
        return True
    if any(_bits_of_binomial(*each.groups()) > _MOST_BITS for each in _BINOMIAL.finditer(spelled)):
        return True
    towers = (re.findall(r"\d+", tower[0].replace(",", "")) for tower in _TOWER.finditer(spelled))
    return any(_exceeds([int(exponent[:9]) for exponent in tower]) for tower in towers)


def _bits_of_binomial(above: str, below: str) -> int:
    """About how many binary digits a binomial coefficient of two whole numbers has, 0 for any other."""
    sizes = [value.amount for value in map(read_value, (above, below)) if value is not None]
    if len(sizes) < 2 or not 0 <= sizes[1] <= sizes[0]:
        return 0
    return int(min(sizes[1], sizes[0] - sizes[1])) * int(sizes[0]).bit_length()


def _exceeds(exponents: list[int]) -> bool:
    """Whether these exponents, 3 and 2 of `x^{3^2}`, are a larger one together than is worked out."""
    height = 1
    for exponent in reversed(exponents):
        if exponent > 1 and height * (exponent.bit_length() - 1) > LARGEST_EXPONENT.bit_length():
            return True
        height = exponent**height
    return height > LARGEST_EXPONENT


def _right_hand_side(text: str) -> str:
    r"""What stands after the last `=` outside braces: `\sum_{k=1}^{4} k = 10` is worked out."""
    depth, start = 0, 0
    for mark in _SIDES.finditer(text):
        if mark[0] != "=":
            depth += 1 if mark[0] == "{" else -1
        elif not depth:
            start = mark.end()
    return text[start:]
