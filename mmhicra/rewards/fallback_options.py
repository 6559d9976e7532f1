"""The option that a response most probably means where it declares none.

For evaluation only, as `fallback_extraction` is: a reward that took guesses could be farmed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from mmhicra.rewards.fallback_extraction import guess_number, is_altered, number_stated
from mmhicra.rewards.notation import plain, words
from mmhicra.rewards.options import LETTERS, options_named
from mmhicra.rewards.sentences import (
    LONGEST_SENTENCE,
    concludes_with_refusal,
    refuses,
    sentences_backwards,
    without_echo,
)
from mmhicra.rewards.statements import is_yes_or_no, statement_answered

_LETTER = re.compile(
    r"[(（]([A-Z])[)）]|\b(?:[Oo]ption|[Cc]hoice)(?:\sletter)?(?:\sis|:)?\s([A-Z])\b"
    r"|\b(?:[Oo]ption|[Cc]hoice)\b[^.;,]{1,80}\sis\s([A-Z])(?=[.,]|\s\()"
)
_SEVERAL_LETTERS = re.compile(
    r"\b(?:[Oo]ptions|[Cc]hoices|[Aa]nswers)\b[^.]{0,40}\b[A-Z],?\s(?:(?:and|or|&)\s)?[A-Z]\b"
)
_DENIED = re.compile(
    r"\b(?:not|never|isn't|aren't|doesn't|don't|cannot|can't|wrong|incorrect|false|eliminated?|ruled? out|excluded?)\b",
    re.IGNORECASE,
)
_OTHER_SIDE = re.compile(
    r"\b(?:than|rather than|instead of|unlike|compared (?:to|with)|as opposed to)\b", re.IGNORECASE
)
_NEGATED = re.compile(
    r"(?:\b(?:not|never|neither|nor|no|isn't|aren't|wasn't|rather than|instead of|other than)|n't)\s+"
    r"(?:(?:be|an?|the|in|on|at|really|simply|actually|called)\s+){0,2}$",
    re.IGNORECASE,
)
_REFUSAL_SAID = re.compile(
    r"\b(?:cannot|can't|can not|impossible|not possible|not enough|insufficient|unable)\b", re.IGNORECASE
)
_REASONS = re.compile(r"(?<=[a-z,] )\bbecause\b")
_AFTER_IS = re.compile(r"\b(?:is|are|equals)\s|=\s?")
_TERM = re.compile(r"\S{0,9}\d\S{0,9}|[a-z]")
_LONGEST_TAIL = 200


def guess_option(text: str, choices: Sequence[str], question: str = "") -> str | None:
    """The last option marked by its letter, `(B)`, else the one that the last sentence naming exactly one quotes.

    A yes/no question is answered by its own statement. A list of options that only repeats them, and a letter or text
    that is denied, name nothing.
    """
    if choices:
        text = without_echo(text, choices)
    if is_yes_or_no(choices):
        if concludes_with_refusal(text, question):
            return None
        return _guess_yes_or_no(text, choices, question)
    if (cannot := _option_that_refuses(text, choices, question)) is not None:
        return cannot
    if concludes_with_refusal(text, question):
        return None
    sentences = list(sentences_backwards(text, question))
    for sentence in sentences:
        if _SEVERAL_LETTERS.search(sentence[:LONGEST_SENTENCE]):
            return None
        letters = _letters(sentence, choices)
        if len(letters) == 1:
            return letters.pop()
    for sentence in sentences:
        if (named := option_stated(sentence, tuple(choices))) is not None and not _denies_letter(sentence):
            return choices[named]
        tail = _AFTER_IS.split(sentence[-_LONGEST_TAIL:])[-1]
        denied = _DENIED.search(tail) or _denies_letter(sentence)
        values = options_named(tail, choices) if tail != sentence and not denied else frozenset()
        if len(values) == 1:
            return choices[min(values)] if choices else LETTERS[min(values)]
    if any(map(str.isdigit, "".join(choices))):
        return guess_number(text, question)  # a value was worked out that no option has
    return None


def option_stated(sentence: str, choices: tuple[str, ...]) -> int | None:
    """The option a sentence quotes; of options that are numbers the one it states, not one it calculates with.

    Of a comparison the side before "than" counts: "the sun is larger than the moon" names the sun.
    """
    reason = _REASONS.search(sentence, 1)
    sentence = sentence[: reason.start()] if reason else sentence
    named = options_quoted(sentence, choices)
    if len(named) > 1 and (other := _OTHER_SIDE.search(sentence)):
        named = options_quoted(sentence[: other.start()], choices)
    if len(named) != 1:
        return None
    number = words(choices[named[0]])
    if re.fullmatch(r"-?[\d.]+[°%]?", number):
        digits = number.strip("°%")
        return (
            named[0]
            if digits == number_stated(sentence) and not is_altered(plain(sentence[:LONGEST_SENTENCE]), digits)
            else None
        )
    return named[0]


@lru_cache(maxsize=4096)
def options_quoted(text: str, choices: tuple[str, ...]) -> list[int]:
    """Indices of the options whose words stand in `text` undenied; one inside a longer one there does not count."""
    said = words(text[:LONGEST_SENTENCE])
    spelt = [words(choice) for choice in choices]
    there = [i for i, choice in enumerate(spelt) if _is_quotable(choice) and _stands_in(choice, said)]
    return [i for i in there if not any(i != j and spelt[i] != spelt[j] and spelt[i] in spelt[j] for j in there)]


def guess_yes_or_no(text: str, question: str) -> str | None:
    """`yes` or `no` by the last sentence that makes the statement of the question, or begins with the word."""
    answers = (statement_answered(question, sentence) for sentence in sentences_backwards(text, question))
    return next(filter(None, answers), None)


def _guess_yes_or_no(text: str, choices: Sequence[str], question: str) -> str | None:
    """Yes or no by a marked letter, the statement of the question, else by "yes" or "no" itself."""
    sentences = list(sentences_backwards(text, question))
    for sentence in sentences:
        letters = _letters(sentence, choices)
        if len(letters) == 1:
            return letters.pop()
    if (answer := guess_yes_or_no(text, question)) is not None:
        return next(choice for choice in choices if words(choice) == answer)
    for sentence in sentences:
        if (named := option_stated(sentence, tuple(choices))) is not None:
            return choices[named]
    return None


def _option_that_refuses(text: str, choices: Sequence[str], question: str) -> str | None:
    """The option "cannot be determined", if that is what the last sentence says."""
    cannot = [choice for choice in choices if _REFUSAL_SAID.search(choice)]
    last = next(sentences_backwards(text, question, refusals=True), "")
    return cannot[0] if len(cannot) == 1 and refuses(last) and _REFUSAL_SAID.search(last) else None


def _letters(sentence: str, choices: Sequence[str]) -> set[str]:
    """Letters of options that a sentence marks and does not deny."""
    said = sentence[:LONGEST_SENTENCE]
    found = {
        letter
        for mark in _LETTER.finditer(said)
        if not _DENIED.search(said[mark.end() : mark.end() + 80]) and not _NEGATED.search(said[: mark.start()][-40:])
        for letter in mark.groups()
        if letter and _known(letter, choices)
    }
    return found


def _denies_letter(sentence: str) -> bool:
    """`Option D is incorrect, because it is a force`."""
    said = sentence[:LONGEST_SENTENCE]
    return any(_DENIED.search(said[mark.end() : mark.end() + 40]) for mark in _LETTER.finditer(said))


def _is_quotable(choice: str) -> bool:
    """A single letter is no quotation: `a` is an article, `E` a point."""
    return len(choice) > 1 or choice.isdigit()


def _stands_in(choice: str, said: str) -> bool:
    """Whether `choice` stands in `said` as words of its own, at least once without a denial before it."""
    ahead = r"(?<![\w.])" if choice[:1].isalnum() else ""
    behind = r"(?![\w^]|\.\d)" if choice[-1:].isalnum() else ""
    if _TERM.fullmatch(choice):  # not `2x` of `x^2+2x+1`
        ahead, behind = r"(?<![+*/^])" + ahead, behind + r"(?! ?[+*/^])"
    return any(
        not _NEGATED.search(said[max(0, match.start() - 40) : match.start()])
        for match in re.finditer(ahead + re.escape(choice) + behind, said)
    )


def _known(letter: str, choices: Sequence[str]) -> bool:
    return ord(letter) - ord("A") < (len(choices) or 26)
