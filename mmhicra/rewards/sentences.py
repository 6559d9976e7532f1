"""The sentences of a response that may state an answer, for guesses in evaluation.

Refusals, closing courtesies, code, tables, echoed lists of options and what a model goes on to ask itself
("Question: ...") state nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

LONGEST_SENTENCE = 2000
"""Characters of a sentence that are read."""

_GAP = re.compile(r"(?<=[.!?。])[\s*]{1,20}(?=\S)|\n")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|No|vs|approx|Fig|e\.g|i\.e)\.\Z")
_COURTESY = re.compile(
    r"\W{0,5}(?:I hope|Is there anything|Let me know|Do you|Please let|Would you|If you|Feel free|Sure\b|Note\b)",
    re.IGNORECASE,
)
_KNOWLEDGE = r"(?:enough|sufficient|access|information|details?|data|context|ability|means|any way)"
_REFUSAL = re.compile(
    rf"n't (?:\w+ ){{0,3}}{_KNOWLEDGE}\b"
    r"|\b(?:cannot|can't|can not|could not|couldn't|unable to|impossible|not possible|undefined|insufficient|sorry"
    rf"|not (?:\w+ ){{0,3}}{_KNOWLEDGE}\b"
    r"|not (?:enough|provided?|specified|given|clear|mentioned|visible|possible|determined)|need (?:to know|more)"
    r"|needs? additional|please provide|no (?:\w+ )?(?:way|information|means) (?:to|of|about|on)|as an ai\b|depends on"
    r"|could be (?:any|either)|without (?:\w+ )?(?:knowing|seeing|more|further|additional|any))",
    re.IGNORECASE,
)
_DETERMINE = re.compile(r"\b(?:determine|determined|information|tell|told|known|calculated)\b", re.IGNORECASE)
_FENCE = re.compile(r"```")
_TABLE_ROW = re.compile(r"\s{0,40}\||[^|]{0,400}\s\|\s|\s{0,40}-{3,}")
_NEXT_QUESTION = re.compile(r"\n\s{0,20}(?:Hint|Question|Human|User|Q)\s?:")
_FINISHED = re.compile(r"[.!?。）)\]$*%\d\"'`]\s{0,9}\Z")
_LONG = 400
"""Characters from which on a response without a full stop at its end counts as cut short."""
_MARKER = re.compile(r"(?<![\w(（])[(（]?([A-Z])[)）.:：、]\s{0,4}(?=\S)")
"""A letter before an option's text, as lists of options have it."""


def first_turn(text: str) -> str:
    """`text` up to where the model goes on to put itself another question."""
    following = _NEXT_QUESTION.search(text, 1)
    return text[: following.start()] if following and text[: following.start()].strip() else text


def refuses(sentence: str, question: str = "") -> bool:
    """Whether a sentence says that no answer can be given; not where the question itself asks what cannot be."""
    said = sentence[:LONGEST_SENTENCE]
    if _asks_what_cannot_be(question):
        return bool(_REFUSAL.search(said) and _DETERMINE.search(said))
    return bool(_REFUSAL.search(said))


def concludes_with_refusal(text: str, question: str = "") -> bool:
    """Whether the last sentence that is no courtesy says that no answer can be given."""
    last = next(sentences_backwards(text, question, refusals=True), "")
    return refuses(last.split(", but", 1)[-1], question)


def sentences_backwards(text: str, question: str = "", *, refusals: bool = False) -> Iterator[str]:
    """The sentences that may state something, last first.

    Args:
        text: a response without its thinking.
        question: what was asked: in "which cannot be ...?" the word is no refusal.
        refusals: keep the sentences that refuse an answer, for options that say so.
    """
    sentences = _split(text)
    if len(text) > _LONG and sentences and not _FINISHED.search(sentences[-1][-40:]):
        sentences.pop()  # cut short
    for sentence in reversed(sentences):
        if sentence.strip() and not _COURTESY.match(sentence) and (refusals or not refuses(sentence, question)):
            yield sentence


def without_echo(text: str, choices: Sequence[str]) -> str:
    """`text` without a list of options that only repeats `choices` in their order, all or the first: it names none.

    The list may have other letters than the options (`(C) Yes (D) No`), and the last one may be missing.
    """
    markers = list(_MARKER.finditer(text))
    gone: list[tuple[int, int]] = []
    at = 0
    while at < len(markers):
        run = _run(text, markers[at:], choices)
        if run > 1:
            last = markers[at + run - 1]
            gone.append((markers[at].start(), last.end() + len(choices[run - 1])))
        at += max(1, run)
    kept, start = [], 0
    for first, end in gone:
        kept.append(text[start:first])
        start = end
    return "\n".join([*kept, text[start:]])


def _run(text: str, markers: Sequence[re.Match[str]], choices: Sequence[str]) -> int:
    """How many options, from the first on, stand here one after the other with nothing between them."""
    for number, (marker, choice) in enumerate(zip(markers, choices, strict=False)):
        own = text.startswith(choice, marker.end()) and ord(marker[1]) == ord(markers[0][1]) + number
        between = text[markers[number - 1].end() + len(choices[number - 1]) : marker.start()] if number else ""
        if not own or between.strip(" \t\n,;.|*"):
            return number
    return min(len(markers), len(choices))


def _split(text: str) -> list[str]:
    lines: list[str] = []
    fenced = False
    for line in first_turn(text).split("\n"):
        if _FENCE.search(line):
            fenced = not fenced
        elif not fenced and not _TABLE_ROW.match(line[:LONGEST_SENTENCE]):
            lines.append(line)
    sentences: list[str] = []
    for piece in _GAP.split("\n".join(lines)):
        if sentences and _ABBREVIATION.search(sentences[-1][-8:]):
            sentences[-1] += f" {piece}"
        else:
            sentences.append(piece)
    return sentences


def _asks_what_cannot_be(question: str) -> bool:
    return bool(re.search(r"\b(?:cannot|can't|can not|not possible|impossible)\b", question, re.IGNORECASE)) and bool(
        re.search(r"\b(?:which|what)\b", question, re.IGNORECASE)
    )
