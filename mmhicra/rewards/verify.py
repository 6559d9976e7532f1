r"""Decides whether an answer is right, wrong, missing, or cannot be judged because the gold is unusable.

Numbers, options and texts are decided here and now. Only algebra needs sympy; `decide` leaves it to the processes of
`workers.Verifier`, which everybody should use who has responses of a model to judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from mmhicra.records import AnswerKind, Verdict
from mmhicra.rewards import algebra
from mmhicra.rewards.notation import LONGEST_ANSWER, compact, control_character, words
from mmhicra.rewards.options import options_named, spell
from mmhicra.rewards.unworked import TOO_LARGE, is_too_large, unworked
from mmhicra.rewards.values import agree, read_value, right_hand_side


@dataclass(frozen=True)
class Query:
    """One answer to be compared with one gold; `question` says which nouns count as units and how parts are ordered."""

    extracted: str | None
    gold: str
    kind: AnswerKind = "math"
    choices: tuple[str, ...] = ()
    question: str = ""


@dataclass(frozen=True)
class Outcome:
    """A verdict and its reason in one phrase."""

    verdict: Verdict
    why: str


def verify(
    extracted: str | None,
    gold: str,
    kind: AnswerKind = "math",
    choices: tuple[str, ...] = (),
    at_answer: Callable[[], None] | None = None,
    question: str = "",
) -> Outcome:
    """Compare an answer with the gold, in this process and without a time limit.

    Kinds:
        number: integers exactly, decimals to the digits that the gold prints or 1e-4 relative; see `values.agree`.
        choice: the gold and the answer each name exactly one option, by letter or by value, and the same one.
        text: equal but for case, white space, punctuation and LaTeX font commands.
        math: as numbers where both sides are numbers, else by math-verify.

    Args:
        extracted: what `answers.extract` found.
        gold: the gold answer.
        kind: how to compare.
        choices: the options, for kind `choice`.
        at_answer: called once the gold is known to be usable, so that a stop-watch knows which side hangs.
        question: what was asked; its nouns count as units, and it may say in which order parts stand.
    """
    query = Query(extracted, gold, kind, choices, question)
    decided = decide(query)
    if decided is not None or extracted is None:
        return decided or Outcome("no-answer", "no answer found")
    if kind == "math" and read_value(gold) is None:
        if algebra.is_too_large(gold):
            return Outcome("gold-unusable", f"the gold is {TOO_LARGE}")
        if not algebra.parses(gold):
            return Outcome("gold-unusable", "the gold cannot be parsed as mathematics")
    if at_answer:
        at_answer()
    if algebra.is_too_large(extracted):
        return Outcome("wrong", TOO_LARGE)
    if kind == "choice":
        equal = frozenset(i for i, choice in enumerate(choices) if algebra.equal(choice, extracted))
        return _judge_options(equal, query)
    stated = right_hand_side(extracted) if read_value(gold) else extracted
    if stated is not None and algebra.equal(gold, stated):
        return Outcome("right", "equal as mathematics")
    return Outcome("wrong", "not equal as mathematics")


def decide(query: Query) -> Outcome | None:
    """The outcome where it takes no algebra, else None. Never hangs."""
    trouble = gold_trouble(query.gold, query.kind, query.choices)
    if trouble:
        return Outcome("gold-unusable", trouble)
    if query.extracted is None or not compact(query.extracted[: LONGEST_ANSWER + 1]):
        return Outcome("no-answer", "no answer found")
    if len(query.extracted) > LONGEST_ANSWER:
        return Outcome("wrong", f"the answer is longer than {LONGEST_ANSWER} characters")
    match query.kind:
        case "number":
            return _compare_numbers(query.gold, query.extracted)
        case "choice":
            return _compare_options(query)
        case "text":
            same = words(query.gold) == words(query.extracted)
            return Outcome("right", "equal as text") if same else Outcome("wrong", "another text")
        case "math":
            if read_value(query.gold) and read_value(query.extracted):
                return _compare_numbers(query.gold, query.extracted)
            why = unworked(query.extracted, query.gold)
            return Outcome("wrong", why) if why and compact(query.extracted) != compact(query.gold) else None


@lru_cache(maxsize=4096)
def gold_trouble(gold: str, kind: AnswerKind, choices: tuple[str, ...]) -> str | None:
    """Why a gold cannot be used, as far as that shows without algebra; None if nothing is wrong so far."""
    if character := control_character(gold):
        return f"the gold holds the control character {character} (a lost backslash?)"
    if len(gold) > LONGEST_ANSWER:
        return f"the gold is longer than {LONGEST_ANSWER} characters"
    if not compact(gold):
        return "the gold is empty"
    match kind:
        case "number":
            return None if read_value(gold) else "the gold cannot be read as a number"
        case "choice":
            named = options_named(gold, choices)
            return None if len(named) == 1 else f"the gold names {spell(named)} of {len(choices) or 'A to Z'}"
        case "text":
            return None if words(gold) else "the gold has no letters or digits"
        case "math":
            if read_value(gold) is not None:
                return None
            if algebra.is_prose(gold):
                return "the gold is prose, not mathematics (give the problem kind text)"
            return f"the gold is {TOO_LARGE}" if is_too_large(gold) else None


def _compare_numbers(gold: str, extracted: str) -> Outcome:
    expected, stated = read_value(gold), read_value(extracted)
    if expected is None or stated is None:
        return Outcome("wrong", "not a number")
    return Outcome("right", "equal as numbers") if agree(expected, stated) else Outcome("wrong", "another number")


def _compare_options(query: Query) -> Outcome | None:
    extracted = query.extracted or ""
    named = options_named(extracted, query.choices)
    algebraic = not named and _takes_algebra(extracted, query.choices)
    if algebraic and (why := unworked(extracted, " ".join(query.choices))):
        return Outcome("wrong", why)
    return None if algebraic else _judge_options(named, query)


def _judge_options(named: frozenset[int], query: Query) -> Outcome:
    expected = options_named(query.gold, query.choices)
    if named == expected:
        return Outcome("right", f"names {spell(named)}")
    return Outcome("wrong", f"names {spell(named)}" + (f", not {spell(expected)}" if len(named) == 1 else ""))


def _takes_algebra(extracted: str, choices: tuple[str, ...]) -> bool:
    """Whether an answer that names no option might equal one all the same: both are expressions."""
    return _is_expression(extracted) and any(_is_expression(choice) for choice in choices if not read_value(choice))


def _is_expression(text: str) -> bool:
    return bool(re.search(r"[\\\d^+*/=(]", text)) and not algebra.is_prose(text)
