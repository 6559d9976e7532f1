"""Yes/no questions that a response answers by making their statement, with or without "not".

Is Periwinkle the maximum?    "Periwinkle is not the maximum."       -> no
Is A less than B?             "B is less than A."                    -> nothing: another statement
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mmhicra.rewards.notation import words

_QUESTION = re.compile(
    r"\s*(is|are|was|were|does|do|did|can|could|has|have|had|will|would|should)((?:n't| not)?\s.{3,300}?)\?",
    re.IGNORECASE | re.DOTALL,
)
_COPULA = re.compile(r"\b(?:is|are|was|were)(?:n't\b|\b)", re.IGNORECASE)
_ASKS_NEGATED = re.compile(r"\b(?:not|no|never)\b|n't", re.IGNORECASE)
_NEGATION = re.compile(r"\b(?:not|never|no longer|neither|cannot)\b|n't", re.IGNORECASE)
_OPEN = re.compile(
    r"\b(?:whether|if|to (?:see|find|determine|answer|check|tell)|assum\w+|suppos\w+|question"
    r"|would|might|may|could)\b|\?",
    re.IGNORECASE,
)
"""What leaves a statement open: it is asked, supposed or to be found out."""
_EMPTY = frozenset(
    ("a", "an", "the", "is", "are", "was", "were", "be", "does", "do", "did", "has", "have", "had", "can", "of", "it")
)
_ORDERED = re.compile(r"\b(?:than|before|after|above|below|inside|under|over|left|right|between)\b", re.IGNORECASE)
_CLAUSE = re.compile(r"[,;:](?=\s)|\b(?:but|because|since|so|and|while|as)\b")
_BEGINNING = re.compile(r"\W{0,4}(yes|no)\b\s{0,2}[,.;:!]", re.IGNORECASE)


@dataclass(frozen=True)
class _Question:
    """What follows the verb of a yes/no question, and whether that verb is "is"."""

    text: str
    is_copular: bool


def is_yes_or_no(choices: Sequence[str]) -> bool:
    """Whether the options are yes and no."""
    return sorted(map(words, choices)) == ["no", "yes"]


def asks_yes_or_no(question: str) -> bool:
    """Whether the last sentence of `question` is answered by yes or no."""
    return _last_question(question) is not None


def statement_answered(question: str, sentence: str) -> Literal["yes", "no"] | None:
    """What `sentence` says to a yes/no question: it begins with yes or no, or makes the question's statement."""
    if beginning := _BEGINNING.match(sentence):
        return "yes" if beginning[1].lower() == "yes" else "no"
    asked = _last_question(question)
    if asked is None or _ASKS_NEGATED.search(asked.text) or _OPEN.search(sentence):
        return None
    wanted = _content(asked.text)
    for clause in _CLAUSE.split(sentence[:2000]):
        if len(wanted) >= 2 and _makes(asked, wanted, clause):
            return "no" if _NEGATION.search(clause) else "yes"
    return None


def _last_question(question: str) -> _Question | None:
    """The last sentence that begins with "is", "does", ... and ends with a question mark."""
    for sentence in reversed(re.split(r"(?<=[.?!])\s|\n|:\s", question)):
        if found := _QUESTION.match(sentence):
            return _Question(found[2], _COPULA.fullmatch(found[1]) is not None)
    return None


def _makes(question: _Question, wanted: list[str], clause: str) -> bool:
    """Whether a clause makes the statement of the question.

    All its words stand there; in the same order where the order is what is asked; and of "is A B?" some on each side of
    the verb: "the median of Crimson is 20" does not say whether Crimson is the median.
    """
    said = _content(clause)
    if not set(wanted) <= set(said):
        return False
    if question.is_copular:
        sides = _COPULA.split(clause, maxsplit=1)
        if len(sides) < 2 or not all(set(wanted) & set(_content(side)) for side in sides):
            return False
    if not _ORDERED.search(question.text):
        return True
    at = 0
    for word in wanted:
        if word not in said[at:]:
            return False
        at = said.index(word, at) + 1
    return True


def _content(text: str) -> list[str]:
    """The words that carry meaning, without endings: `lowest values` and `lowest value` are alike."""
    found = re.findall(r"[\w-]+", _NEGATION.sub(" ", text.casefold()))
    return [word.removesuffix("s") for word in found if word not in _EMPTY]
