r"""Equality of mathematical expressions by math-verify, which parses LaTeX with a grammar and runs no Python.

Sympy can hang or fill the memory on what a model writes (`10^{10^{10}}`), and math-verify's own time limits use
signals, which in any thread but the main one make every answer wrong without a word. So they are switched off here, and
this module is meant to run in the processes of `workers`, under a limit that holds.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

from mmhicra.rewards import unworked
from mmhicra.rewards.notation import compact, plain
from mmhicra.rewards.units import is_unit

_FUNCTIONS = (
    r"sin|cos|tan|cot|sec|csc|sinh|cosh|tanh|arcsin|arccos|arctan|log|lim|exp|max|min|mod|gcd|lcm|sqrt|det|and|inf"
)
_PROSE = re.compile(rf"(?<![\\A-Za-z])(?!(?:{_FUNCTIONS})(?![a-z]))[A-Za-z][a-z]{{2,}}")
_LABEL = re.compile(r"^[A-Za-z][A-Za-z. ]{2,40}=\s*(?=\S)")
_UNIT = re.compile(
    r"(?<=\S)\s*(?:\\(?:text|mathrm|mbox|rm)\s*\{([~\s]*[A-Za-z. ]{1,20})\}"
    r"|(?<=[\d\s})])([cdk]m|mm|(?:square |cubic )?units?|lit(?:er|re)s?)(?![a-zA-Z]))"
    r"\s*(?:\$?\s*\^\s*\{?\d\}?)?[\s$.]*$"
)
_BARE_COMMAND = re.compile(r"(?<![\\a-zA-Z])(sqrt|pi|sin|cos|tan|log|ln)(?![a-zA-Z])")
_DEEPEST = 60


def is_prose(text: str) -> bool:
    """Whether words are left beside commands, functions, a label and a unit: nothing to parse as mathematics."""
    return bool(_PROSE.search(_as_latex(text)))


@lru_cache(maxsize=512)
def parses(gold: str) -> bool:
    """Whether `gold` is read as mathematics. May hang: run it under a limit."""
    from sympy import Integer

    golds = _parse(_as_latex(gold))
    if golds:
        # The result is of no interest: a gold too large to be evaluated hangs here, not later with an answer to blame.
        _library().verify(golds, [Integer(7919)], timeout_seconds=None)
    return bool(golds)


def is_too_large(text: str) -> bool:
    """Whether `text` holds a number too large to be worked out, which nothing else here should see."""
    from mmhicra.rewards import comparison

    return unworked.is_too_large(text) or any(map(comparison.is_too_large, _parse(_as_latex(text))))


def equal(gold: str, answer: str) -> bool:
    """Whether `answer` is mathematically what `gold` is. Not symmetric. May hang: run it under a limit."""
    golds = _parse(_as_latex(gold))
    if not golds:
        return False
    if compact(gold) == compact(answer):
        return True
    return _library().verify(golds, _parse(_as_latex(answer)), timeout_seconds=None)


@lru_cache(maxsize=1)
def _library() -> Any:
    """math-verify with a faster parser and with short cuts in its comparison, neither of which changes a verdict."""
    import math_verify

    from mmhicra.rewards import comparison, grammar

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its limits are off
    grammar.speed_up()
    comparison.take_short_cuts()
    return math_verify


@lru_cache(maxsize=512)
def _parse(latex: str) -> list[Any]:
    if not latex or _depth(latex) > _DEEPEST:
        return []
    # Its own removal of units would read `2\pi r^2 h` as `2\pi r^2` and `n + 3m` as `n + 3`.
    library = _library()
    target = library.LatexExtractionConfig()
    target = replace(target, normalization_config=replace(target.normalization_config, units=False))
    no_limit: Any = None  # annotated as an int, documented as None
    return library.parse(f"${latex}$", (target,), fallback_mode="no_fallback", parsing_timeout=no_limit)


@lru_cache(maxsize=512)
def _as_latex(text: str) -> str:
    """`plain` turned back into what the grammar reads, without label and unit."""
    unit = _UNIT.search(text.strip())
    if unit and is_unit((unit[1] or unit[2]).strip("~ ")):
        text = text.strip()[: unit.start()]
    latex = plain(text)
    latex = _LABEL.sub("", re.sub(r"^\s*=", "", latex))
    latex = latex.replace("°", r"^{\circ}").replace("*", r"\cdot ").replace("≈", r"\approx ").replace("%", r"\%")
    return _BARE_COMMAND.sub(r"\\\1", latex).strip()


def _depth(text: str) -> int:
    deepest = depth = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest
