"""The number that a response most probably means where it declares none. For evaluation only: guesses can be farmed.

The last sentence that states a number is taken. What does not count: a number that is denied ("is not 42"), that only
bounds another ("at least 17"), that is one of several on offer ("42 or 43", "13 to 20"), and one that only repeats the
question: in "the number of flocks with at least 17 birds is 15" the answer is 15.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from mmhicra.rewards.asked import ALTERING
from mmhicra.rewards.notation import plain
from mmhicra.rewards.sentences import LONGEST_SENTENCE, concludes_with_refusal, sentences_backwards

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_DIGITS = (
    r"(?<![\w.\\])(?<![A-Za-z]-)-?\$?"
    r"(?:\d(?:[\d,]{0,30}\d)?(?:\.\d+)?(?:\s?/\s?\d{1,12}(?![\d.])|:\d{1,12}(?![\d:]))?|\.\d+)"
)
_NONE_OF = (
    r"\bno(?=\s[a-z]{3,})(?!\s(?:other|more|longer|need|way|information|such|matter|one|clear|specific|answer)\b)"
)
_NUMBER = re.compile(rf"{_DIGITS}|\b(?:{'|'.join(_SMALL)})\b|{_NONE_OF}", re.IGNORECASE)
_STATING = re.compile(
    r"(?:\b(?:is|are|was|were|be|equals?|equal\sto|gives?|makes?|gets?|left\swith|value\sof)|[=≈:])[\s*$\"]{0,6}"
    r"(?:(?:about|approximately|approx\.?|around|only|exactly|still|thus|therefore|also|just|a\stotal\sof|in\sthe\syear"
    r"|estimated\sto\sbe|equal\sto|at|in)[\s*$\"]{1,6}){0,2}(?:[a-z]\s?=\s?)?$",
    re.IGNORECASE,
)
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|rather\sthan|instead\sof|other\sthan|except|without"
    r"|maybe|perhaps|possibly|near|(?:anything|all)\sbut)|n't)[\s*$\"]{1,6}"
    r"(?:(?:be|equal|equal\sto|exactly|simply|just|a|the)[\s*$\"]{1,6}){0,2}$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"[\s*$\"]{0,6}(?:is|was|are|would\sbe|seems)\s(?:not|wrong|incorrect|false|impossible)\b|\s?n't"
)
_BOUND = re.compile(
    r"\b(?:(?:more|less|greater|higher|lower|fewer|larger|smaller|bigger|longer|shorter|older|younger)\sthan"
    r"|at\s(?:least|most)|above|below|over|under|up\sto|between)[\s*$\"]{1,6}$|[<>≤≥][\s$]{0,4}$",
    re.IGNORECASE,
)
_ALTERNATIVE = re.compile(
    r"[\s*$\"]{0,4}(?:to|or)[\s*$\"]{0,4}|\W{1,6}(?:or|perhaps|maybe|possibly|but)\b[\s*$\"]{0,4}"
    r"(?:(?:maybe|possibly|perhaps|even|also|else)[\s*$\"]{1,4}){0,2}",
    re.IGNORECASE,
)
_DASH = re.compile(r"\s?[-–]\s?|")
"""What stands between the ends of a range; where an equals sign stands, it subtracts."""
_BETWEEN = re.compile(r"\bbetween[\s*$]{1,4}\S{1,20}[\s*$]{1,4}and\b", re.IGNORECASE)
_DETERMINED = re.compile(r"\b(?:the|these|those|any|each|every|both|all|same|first|last|other|of)\s$", re.IGNORECASE)
_COUNTING = re.compile(r"\b(?:has|have|had|see|count|contains?|shows?|only|just|exactly)\s$", re.IGNORECASE)
_REASONS = re.compile(r"\b(?:because|since|whereas|while)\b")
_DETAILS = re.compile(r"\W{0,5}(?:They|These|Those|The (?:other|values|remaining)|This means|In other words|Here)\b")
"""How a sentence begins that explains the one before it."""
_ASKS_FOR_A_YEAR = re.compile(r"\b(?:which|what) year\b", re.IGNORECASE)
_YEAR = re.compile(r"[12]\d{3}")
_HOW_MANY = re.compile(r"(?:\bhow (?:many|much)\b|\(_+\)|_{2,})([^?.!]{1,120})", re.IGNORECASE)
"""What is to be counted: after "how many", or after the blank to fill in."""
_JOINING = re.compile(r"\b(?:and|or|but|maybe|possibly|perhaps|versus|vs|unless|else|otherwise|if)\b|,\s{0,3}\Z|[;/]")
_BOLD_NUMBER = re.compile(r"\*\*([^*\n]{0,200})\*\*")
_WORD = re.compile(r"[a-z]{2,}")
_NEXT_WORDS = re.compile(r"[\s*$(,.%°-]{0,6}(?:percent\s)?[a-z²]+(?:n't)?(?:\s\(?[a-z]+\b){0,3}")
_AROUND = " \n*$(,.%°-"
_CHANGES = frozenset(
    {"plus", "minus", "less", "fewer", "half", "halves", "off", "short", "squared", "cubed"}
) | frozenset(
    {
        "million",
        "thousand",
        "hundred",
        "dozen",
        "times",
        "else",
        "wrong",
        "incorrect",
        "false",
        "most",
        "least",
        "point",
    }
)
"""A little further on, these change a number: `5 cm less`, `3 hours and a half`, `40 % off 50`."""
_PERCENT = {"percent", "percents", "percentage", "only", "exactly"}
_EMPTY = frozenset({"are", "there", "is", "the", "of"})
"""Words that say nothing of what is counted."""
_NEAR = 60
"""Characters beside a number that say what it is."""


@dataclass(frozen=True)
class _Said:
    """A number of a sentence."""

    digits: str
    stated: bool
    start: int
    end: int


def states_number(text: str) -> bool:
    """Whether a number stands in `text`, in digits or as a word up to twenty."""
    return bool(_NUMBER.search(text[:LONGEST_SENTENCE]))


def guess_number(text: str, question: str = "") -> str | None:
    """The number of the last sentence that states one, in digits; a year if one is asked for and there is one.

    A sentence that states its number ("is 10", "= 3", "there are 3") goes before a later one that only mentions one.
    None if the last sentence refuses an answer, or offers several numbers.
    """
    if concludes_with_refusal(text, question):
        return None
    asked = _numbers_of(question)
    sentences = list(sentences_backwards(text, question))
    found: list[tuple[bool, str]] = []
    for sentence in [sentence for sentence in sentences if not _DETAILS.match(sentence)] or sentences:
        said = _telling_part(sentence)
        numbers = list(_numbers_in(said))
        if _offers_several(said, numbers):
            break
        if (number := _choose(said, numbers, asked, question)) is not None:
            found.append((any(one.stated for one in numbers), number))
    if _ASKS_FOR_A_YEAR.search(question):
        found = [one for one in found if _YEAR.fullmatch(one[1])] or found
    return next((number for stated, number in found if stated), found[0][1] if found else None)


def number_stated(sentence: str) -> str | None:
    """The number of a sentence: in bold, else right after "is", "=", ..., else the first.

    None if it has none, if all it has is denied or a bound, or if it offers several.
    """
    said = _telling_part(sentence)
    numbers = list(_numbers_in(said))
    return None if _offers_several(said, numbers) else _choose(said, numbers)


def declared_number(answer: str) -> str | None:
    """The number of a declared answer in words ("the sum is 5"); None if it joins several ("5 apples and 6 pears")."""
    said = _telling_part(plain(answer))
    numbers = list(_numbers_in(said))
    joined = any(
        one.digits != other.digits and _JOINING.search(said[one.end : other.start]) for one, other in pairwise(numbers)
    )
    chosen = None if joined or _offers_several(said, numbers) else _choose(said, numbers)
    return None if chosen is None or is_altered(said, chosen) else chosen


def is_altered(said: str, digits: str) -> bool:
    """Whether the words after a number make it another one, or none: `5 more than six`, `5 million`, `5 cm less`."""
    for number in _NUMBER.finditer(said):
        if _digits(number[0]) != digits:
            continue
        following = _NEXT_WORDS.match(said[number.end() :].lower())
        words = [word.strip(_AROUND) for word in following[0].split()] if following else []
        words = [word for word in words if word]
        first = words[1:2] if words[:1] == ["percent"] else words[:1]
        if ALTERING.difference(_PERCENT).intersection(first) or _CHANGES.intersection(words):
            return True
    return False


def _telling_part(sentence: str) -> str:
    """What of a sentence tells its number: a bold span that has one, and no reasons for it."""
    said = sentence[:LONGEST_SENTENCE]
    bold = [span for span in _BOLD_NUMBER.findall(said) if _NUMBER.search(span)]
    said = bold[-1] if bold else said
    reason = _REASONS.search(said)
    return said[: reason.start()] if reason and _NUMBER.search(said[: reason.start()]) else said


def _choose(said: str, numbers: list[_Said], asked: frozenset[str] = frozenset(), question: str = "") -> str | None:
    """What was counted, else stated, else mentioned first; a number of the question only where it is stated."""
    if counted := _counted(said, numbers, question):
        return counted
    stated = [number.digits for number in numbers if number.stated]
    fresh = [number for number in stated if number not in asked]
    if fresh:
        return fresh[-1] if "=" in said or "≈" in said else fresh[0]
    if stated:
        return stated[-1]
    return next((number.digits for number in numbers if number.digits not in asked), None)


def _numbers_in(said: str) -> Iterator[_Said]:
    """The numbers that may be an answer: not denied, no bound of another, no "these two"."""
    found = list(_NUMBER.finditer(said))
    for number in found:
        before = said[max(0, number.start() - _NEAR) : number.start()]
        if _DENIED_BEFORE.search(before) or _DENIED_AFTER.match(said[number.end() : number.end() + _NEAR]):
            continue
        stated = bool(_STATING.search(before))
        if _BOUND.search(before) or (number[0].isalpha() and not stated and _is_determiner(number[0], before)):
            continue
        yield _Said(_digits(number[0]), stated, number.start(), number.end())


def _is_determiner(word: str, before: str) -> bool:
    """`the two people` and `one end` count nothing."""
    return bool(_DETERMINED.search(before)) or (word.lower() == "one" and not _COUNTING.search(before))


def _offers_several(said: str, numbers: list[_Said]) -> bool:
    """Whether two different numbers stand there as a range, or one for the other: 13 to 20, 13-18, 42 or 43."""
    for one, other in pairwise(numbers):
        between = said[one.end : other.start]
        if one.digits != other.digits and len(between) <= _NEAR:
            dash = "=" not in said and _DASH.fullmatch(between) is not None
            if dash or _ALTERNATIVE.fullmatch(between):
                return True
    return len(numbers) == 1 and _BETWEEN.search(said) is not None


def _counted(said: str, numbers: list[_Said], question: str) -> str | None:
    """The number followed by what the question asks to count, if one stands out: "2 dots in each group"."""
    asked = _HOW_MANY.search(question)
    wanted = _stems(asked[1]) if asked else frozenset()
    if len(wanted) < 2 or not numbers:
        return None
    ends = [*(number.start for number in numbers[1:]), len(said)]
    shared = [
        len(wanted & _stems(said[number.end : min(end, number.end + _NEAR)]))
        for number, end in zip(numbers, ends, strict=True)
    ]
    best = max(shared)
    return numbers[shared.index(best)].digits if best > 1 and shared.count(best) == 1 else None


def _stems(text: str) -> frozenset[str]:
    return frozenset(word.removesuffix("s") for word in _WORD.findall(text.lower())) - _EMPTY


def _numbers_of(text: str) -> frozenset[str]:
    return frozenset(_digits(number) for number in _NUMBER.findall(text))


def _digits(written: str) -> str:
    small = written.lower()
    if small == "no":
        return "0"
    return str(_SMALL.index(small)) if small in _SMALL else written.replace(",", "").replace("$", "")
