r"""Decides whether an answer is right, wrong, missing, or cannot be judged because the gold is unusable.

Numbers, options and texts are decided here and now. Only algebra needs sympy; `decide` leaves it to the processes of
`workers.Verifier`, which everybody should use who has responses of a model to judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from mmhicra.core.records import AnswerKind, Verdict
from mmhicra.rewards import algebra
from mmhicra.rewards.asked import order_asked
from mmhicra.rewards.figures import read_letters
from mmhicra.rewards.notation import LONGEST_ANSWER, compact, control_character, plain, words
from mmhicra.rewards.options import gold_options, options_in, options_named, spell
from mmhicra.rewards.parts import read_parts, same_parts
from mmhicra.rewards.readers import compare, understand
from mmhicra.rewards.times import read_clock, same_clock
from mmhicra.rewards.unworked import TOO_LARGE, is_too_large, unworked
from mmhicra.rewards.values import agree, read_number, read_value, right_hand_side

_OR = re.compile(r"\bor\b|或", re.IGNORECASE)
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[a-zA-Z*]{1,20}\}")


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
        number: by the `readers`: integers exactly, decimals to the digits that the gold prints or 1e-4 relative.
        choice: the gold and the answer name the same option, by letter or by value; several where the gold does.
        text: equal but for case, white space, punctuation and LaTeX font commands.
        math: by the `readers`, then by math-verify. A gold that is no mathematics is equal to its own writing only.

    Args:
        extracted: what `answers.extract` found.
        gold: the gold answer.
        kind: how to compare.
        choices: the options, for kind `choice`.
        at_answer: called once the gold has been worked out, so that a stop-watch knows which side hangs.
        question: what was asked; its nouns count as units, and it may say in which order parts stand.
    """
    query = Query(extracted, gold, kind, choices, question)
    decided = decide(query)
    if decided is not None or extracted is None:
        return decided or Outcome("no-answer", "no answer found")
    if kind == "choice":
        if at_answer:
            at_answer()
        if algebra.is_too_large(extracted):
            return Outcome("wrong", TOO_LARGE)
        options = choices or options_in(question)
        equal = frozenset(i for i, choice in enumerate(options) if algebra.equal(choice, extracted))
        return _judge_options(equal, query)
    if read_number(gold) is None and read_parts(gold) is None:
        if algebra.is_too_large(gold):
            return Outcome("wrong", f"not the gold, which is {TOO_LARGE}")
        if not algebra.parses(gold):
            return Outcome("wrong", "only its own writing equals this gold, which is no mathematics")
    if at_answer:
        at_answer()
    if algebra.is_too_large(extracted):
        return Outcome("wrong", TOO_LARGE)
    same = compare(gold, extracted, understand(question), _equal_by_algebra)
    return Outcome("right", "equal as mathematics") if same else Outcome("wrong", "not equal as mathematics")


def decide(query: Query) -> Outcome | None:
    """The outcome where it takes no algebra, else None. Never hangs."""
    trouble = gold_trouble(query.gold, query.kind, query.choices, query.question)
    if trouble:
        return Outcome("gold-unusable", trouble)
    if query.extracted is None or not compact(query.extracted[: LONGEST_ANSWER + 1]):
        return Outcome("no-answer", "no answer found")
    if len(query.extracted) > LONGEST_ANSWER:
        return Outcome("wrong", f"the answer is longer than {LONGEST_ANSWER} characters")
    match query.kind:
        case "choice":
            return _compare_options(query)
        case "text":
            return _compare_words(query.gold, query.extracted, query.question)
        case "number" | "math":
            return _compare_values(query, query.extracted)


@lru_cache(maxsize=4096)
def gold_trouble(gold: str, kind: AnswerKind, choices: tuple[str, ...], question: str = "") -> str | None:
    """Why a gold cannot be used, as far as that shows without algebra; None if nothing is wrong so far.

    A gold that no reader reads is usable all the same: an answer in its own writing is right, no other one.
    """
    if character := control_character(gold):
        return f"the gold holds the control character {character} (a lost backslash?)"
    if len(gold) > LONGEST_ANSWER:
        return f"the gold is longer than {LONGEST_ANSWER} characters"
    if not compact(gold):
        return "the gold is empty"
    if kind == "choice" and not gold_options(gold, choices or options_in(question)):
        return f"the gold names {spell(options_named(gold, choices))} of {len(choices) or 'A to Z'}"
    if kind == "text" and not words(gold):
        return "the gold has no letters or digits"
    return None


def _compare_values(query: Query, extracted: str) -> Outcome | None:
    """Numbers and mathematics: by the readers, else None if algebra might find more."""
    same = compare(query.gold, extracted, understand(query.question))
    number = read_number(query.gold) is not None
    if same is not None:
        return _outcome(same, number and read_number(extracted) is not None)
    if is_prose(query.gold):
        return _compare_words(query.gold, extracted)
    if is_prose(extracted):
        return Outcome("wrong", "not a number" if number else "prose, not mathematics")
    if query.kind == "number" or (number and not _may_be_worked_out(extracted)):
        return Outcome("wrong", "not a number")
    if not number and is_too_large(query.gold):  # an answer in the gold's own writing was right above
        return Outcome("wrong", f"not the gold, which is {TOO_LARGE}")
    why = unworked(extracted, query.gold)
    return Outcome("wrong", why) if why else None


def _compare_words(gold: str, extracted: str, question: str = "") -> Outcome:
    """Words, a list of words, or a number in words and in digits."""
    if words(gold) == words(extracted):
        return Outcome("right", "equal as text")
    if _same_letters(gold, extracted):
        return Outcome("right", "the same letters")
    if (listed := read_parts(gold)) is not None and listed.shape == "list":
        stated = read_parts(extracted)
        offered = bool(_OR.search(extracted)) and not _OR.search(gold)
        same = stated is not None and not offered and same_parts(listed, stated, _same_words, order_asked(question))
        return Outcome("right", "the same words") if same else Outcome("wrong", "another text")
    clock, time = read_clock(gold), read_clock(extracted)
    if clock is not None and time is not None and same_clock(clock, time):
        return Outcome("right", "the same time of day")
    number = read_number(gold)
    stated = None if number is None else read_number(extracted)
    same = number is not None and stated is not None and agree(number, stated)
    return Outcome("right", "equal as numbers") if same else Outcome("wrong", "another text")


def _same_words(gold: str, extracted: str) -> bool:
    return words(gold) == words(extracted)


def _same_letters(gold: str, extracted: str) -> bool:
    """Several options that a data set writes as one word, `ABC` for `A, B, C`; no word such as `BAD`."""
    expected = read_letters(gold)
    stated = read_letters(extracted) if expected and gold == "".join(sorted(expected[0])) else None
    return expected is not None and stated is not None and expected[0] == stated[0]


def _outcome(same: bool, numbers: bool) -> Outcome:
    if numbers:
        return Outcome("right", "equal as numbers") if same else Outcome("wrong", "another number")
    return Outcome("right", "the same answer") if same else Outcome("wrong", "another answer")


def _equal_by_algebra(gold: str, answer: str) -> bool:
    if is_prose(gold) or is_prose(answer):
        return False
    stated = right_hand_side(answer) if read_number(gold) else answer
    return stated is not None and algebra.equal(gold, stated)


def _may_be_worked_out(text: str) -> bool:
    """Whether an answer that is no number as it stands may be one for algebra: it has digits or commands."""
    return bool(re.search(r"\\[a-zA-Z]|\d|\^|e", text))


@lru_cache(maxsize=4096)
def is_prose(text: str) -> bool:
    """Whether words are left beside mathematics; the names of environments are none."""
    return algebra.is_prose(_ENVIRONMENT.sub(" ", text))


def _compare_options(query: Query) -> Outcome | None:
    extracted = query.extracted or ""
    options = query.choices or options_in(query.question)
    named = options_named(extracted, options)
    algebraic = not named and _takes_algebra(extracted, options)
    if algebraic and (why := unworked(extracted, " ".join(options))):
        return Outcome("wrong", why)
    return None if algebraic else _judge_options(named, query)


def _judge_options(named: frozenset[int], query: Query) -> Outcome:
    expected = gold_options(query.gold, query.choices or options_in(query.question))
    if len(named) > 1 and plain(query.extracted or "") == query.gold:
        named = expected  # a letter that is another option's text too
    if named and named == expected:
        return Outcome("right", f"names {spell(named)}")
    return Outcome("wrong", f"names {spell(named)}" + (f", not {spell(expected)}" if len(named) == 1 else ""))


def _takes_algebra(extracted: str, choices: tuple[str, ...]) -> bool:
    """Whether an answer that names no option might equal one all the same: both are expressions."""
    return _is_expression(extracted) and any(_is_expression(choice) for choice in choices if not read_value(choice))


def _is_expression(text: str) -> bool:
    return bool(re.search(r"[\\\d^+*/=(]", text)) and not is_prose(text)
