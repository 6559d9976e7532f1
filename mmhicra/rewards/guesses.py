"""What a response most probably says that declares no answer. For evaluation only: guesses can be farmed by rewards.

The last sentence that states a number, or names exactly one option, is taken; refusals, closing courtesies, code,
tables and what a model goes on to ask itself ("Question: ...") do not count. Numbers that only repeat the question do
not count where another one stands beside them: in "the number of flocks with at least 17 birds is 15" the answer is 15.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from mmhicra.rewards.notation import words
from mmhicra.rewards.options import options_named

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_DIGITS = r"(?<![\w.\\])(?<![A-Za-z]-)-?\$?(?:\d[\d,]{0,30}(?:\.\d+)?(?:\s?/\s?\d{1,12}(?![\d.]))?|\.\d+)"
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
_REASONS = re.compile(r"\b(?:because|since|whereas|while)\b")
_SENTENCE_GAP = re.compile(r"(?<=[.!?。])[\s*]{1,20}(?=\S)|\n")
_COURTESY = re.compile(
    r"\W{0,5}(?:I hope|Is there anything|Let me know|Do you|Please let|Would you|If you|Feel free|Sure\b|Note\b)",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\b(?:cannot|can't|can not|unable to|impossible|not possible|undefined"
    r"|not (?:enough|provided|specified|given|clear)|need (?:to know|more)|needs? additional|please provide|sorry)\b",
    re.IGNORECASE,
)
_DETAILS = re.compile(r"\W{0,5}(?:They|These|Those|The (?:other|values|remaining)|This means|In other words|Here)\b")
"""How a sentence begins that explains the one before it."""
_ASKS_FOR_A_YEAR = re.compile(r"\b(?:which|what) year\b", re.IGNORECASE)
_YEAR = re.compile(r"[12]\d{3}")
_FROM_ZERO = re.compile(r"\b0\s?(?:to|-|–)\s?(?=\d)")
_FENCE = re.compile(r"```")
_TABLE_ROW = re.compile(r"\s*\||.*\s\|\s|\s*-{3,}")
_NEXT_QUESTION = re.compile(r"\n\s{0,20}(?:Hint|Question|Human|User|Q)\s?:")
_BOLD_NUMBER = re.compile(r"\*\*([^*\n]{0,200})\*\*")
_LETTER = re.compile(r"[(（]([A-Z])[)）]|\b(?:[Oo]ption|[Cc]hoice)(?:\sletter)?(?:\sis|:)?\s([A-Z])\b")
_FINISHED = re.compile(r"[.!?。）)\]$*%\d\"'`]\s{0,9}\Z")
_AFTER_IS = re.compile(r"\b(?:is|are|equals)\s|=\s?")
_LONGEST_TAIL = 200
_LONGEST_SENTENCE = 2000
_LONG = 400
"""Characters from which on a response without a full stop at its end counts as cut short."""


def first_turn(text: str) -> str:
    """`text` up to where the model goes on to put itself another question."""
    following = _NEXT_QUESTION.search(text, 1)
    return text[: following.start()] if following and text[: following.start()].strip() else text


def states_number(text: str) -> bool:
    """Whether a number stands in `text`, in digits or as a word up to twenty."""
    return bool(_NUMBER.search(text[:_LONGEST_SENTENCE]))


def guess_number(text: str, question: str = "") -> str | None:
    """The number of the last sentence that has one, in digits; a year if one is asked for and there is one."""
    asked = _numbers_of(question)
    sentences = list(_sentences_backwards(text))
    main = [sentence for sentence in sentences if not _DETAILS.match(sentence)]
    stated = list(filter(None, (number_stated(sentence, asked) for sentence in main or sentences)))
    if _ASKS_FOR_A_YEAR.search(question):
        stated = list(filter(_YEAR.fullmatch, stated)) or stated
    return next(iter(stated), None)


def number_stated(sentence: str, asked: frozenset[str] = frozenset()) -> str | None:
    """The number of a sentence: in bold, else right after "is", "=", ..., else the first; rather not one `asked`."""
    bold = [span for span in _BOLD_NUMBER.findall(sentence[:_LONGEST_SENTENCE]) if _NUMBER.search(span)]
    said = bold[-1] if bold else sentence[:_LONGEST_SENTENCE]
    reason = _REASONS.search(said)
    if reason and _NUMBER.search(said[: reason.start()]):
        said = said[: reason.start()]
    said = _FROM_ZERO.sub("", said)
    found = list(_NUMBER.finditer(said))
    if not found:
        return None
    stated = [
        _digits(number[0]) for number in found if _STATING.search(said, max(0, number.start() - 60), number.start())
    ]
    fresh = [number for number in stated if number not in asked]
    if fresh:
        return fresh[-1] if "=" in said or "≈" in said else fresh[0]
    if stated:
        return stated[-1]
    every = [_digits(number[0]) for number in found]
    return next((number for number in every if number not in asked), every[0])


def guess_option(text: str, choices: Sequence[str]) -> str | None:
    """The last option marked by its letter, `(B)`, else the one that the last sentence naming exactly one quotes."""
    sentences = list(_sentences_backwards(text))
    for sentence in sentences:
        letters = {
            letter for pair in _LETTER.findall(sentence) for letter in pair if letter and _known(letter, choices)
        }
        if len(letters) == 1:
            return letters.pop()
    for sentence in sentences:
        if (named := option_stated(sentence, tuple(choices))) is not None:
            return choices[named]
        tail = _AFTER_IS.split(sentence[-_LONGEST_TAIL:])[-1]
        values = options_named(tail, choices) if tail != sentence else frozenset()
        if len(values) == 1:
            return choices[min(values)]
    if any(map(str.isdigit, "".join(choices))):
        return guess_number(text)  # a value was worked out that no option has
    return None


def option_stated(sentence: str, choices: tuple[str, ...]) -> int | None:
    """The option a sentence quotes; of options that are numbers the one it states, not one it calculates with."""
    named = options_quoted(sentence, choices)
    if len(named) != 1:
        return None
    number = words(choices[named[0]])
    if re.fullmatch(r"-?[\d.]+[°%]?", number) and number.strip("°%") != number_stated(sentence):
        return None
    return named[0]


@lru_cache(maxsize=4096)
def options_quoted(text: str, choices: tuple[str, ...]) -> list[int]:
    """Indices of the options whose words stand in `text`; one inside a longer one that stands there does not count."""
    said = words(text[:_LONGEST_SENTENCE])
    spelt = [words(choice) for choice in choices]
    there = [i for i, choice in enumerate(spelt) if _is_quotable(choice) and _stands_in(choice, said)]
    return [i for i in there if not any(i != j and spelt[i] != spelt[j] and spelt[i] in spelt[j] for j in there)]


def _is_quotable(choice: str) -> bool:
    """A single letter is no quotation: `a` is an article, `E` a point."""
    return len(choice) > 1 or choice.isdigit()


def _stands_in(choice: str, said: str) -> bool:
    return bool(re.search(rf"(?<![\w.]){re.escape(choice)}(?![\w^]|\.\d)", said))


def _known(letter: str, choices: Sequence[str]) -> bool:
    return ord(letter) - ord("A") < (len(choices) or 26)


def _numbers_of(text: str) -> frozenset[str]:
    return frozenset(_digits(number) for number in _NUMBER.findall(text))


def _digits(written: str) -> str:
    small = written.lower()
    if small == "no":
        return "0"
    return str(_SMALL.index(small)) if small in _SMALL else written.replace(",", "").replace("$", "")


def _sentences_backwards(text: str) -> Iterator[str]:
    lines: list[str] = []
    fenced = False
    for line in first_turn(text).split("\n"):
        if _FENCE.search(line):
            fenced = not fenced
        elif not fenced and not _TABLE_ROW.match(line[:_LONGEST_SENTENCE]):
            lines.append(line)
    sentences = _SENTENCE_GAP.split("\n".join(lines))
    if len(text) > _LONG and sentences and not _FINISHED.search(sentences[-1][-40:]):
        sentences.pop()  # cut short
    for sentence in reversed(sentences):
        if sentence.strip() and not _COURTESY.match(sentence) and not _REFUSAL.search(sentence[:_LONGEST_SENTENCE]):
            yield sentence
