"""Which options of a multiple-choice problem a text names, by letter and by value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mmhicra.rewards.notation import compact, plain, words
from mmhicra.rewards.values import agree, read_value

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_LONE = re.compile(
    r"(?:(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?|选项?)?[ :([{]*([A-Za-z])[ )\]}]*", re.IGNORECASE
)
_LIST = re.compile(r"\(?[A-Za-z]\)?(?:(?: ?[,/&;] ?| )(?:(?:or|and) )?\(?[A-Za-z]\)?)+")
_LIST_LETTER = re.compile(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])")
_LEADING = re.compile(
    r"(?:(?:option|choice) )?(?:[(\[{] ?([A-Z]) ?[)\]}]|([A-Z])(?= ?[.:)、,]| ))[ .:)、,]*(.*)", re.IGNORECASE
)
_ALSO_NAMED = re.compile(r"(?:^(?:or |and |/|&|,)? *\(?|\bor +\(?|\band +\(?|\(|\boption |\bchoice )([A-Z])(?![\w'°^])")
_STANDING = re.compile(r"(?<![\w\\∠△^'.])([A-Z])(?![\w'°^]| ?=)(?: ([a-z]+))?")
_NEGATION = re.compile(r"\b(?:not|except|neither|nor|cannot|wrong|incorrect)\b", re.IGNORECASE)
_MATHEMATICAL = re.compile(r"[\d\\()\[\]^=<>+*/|]")
_ARTICLES = frozenset("AI")
_AFTER_A_LETTER = frozenset({"or", "and", "is", "are"})


def options_named(text: str, choices: Sequence[str]) -> frozenset[int]:
    """Indices of the options that `text` names; more than one means that it does not commit itself.

    A lone letter counts as a letter and, should an option read just so, as that option's text. `B. 5` counts as the
    letter and as the value: it names two options if 5 is what another one says. Without `choices` only letters count.
    """
    spelt = plain(text)
    count = len(choices) or len(LETTERS)
    if lone := _LONE.fullmatch(spelt):
        same = _by_writing(lone[1], choices)
        return same if same and lone[1].islower() else same | _by_letter(lone[1], count)
    if same := _by_writing(spelt, choices):
        return same
    if same := _by_beginning(spelt, choices):
        return same
    if _LIST.fullmatch(spelt):
        return _by_letter(_LIST_LETTER.findall(spelt), count)
    if leading := _LEADING.fullmatch(spelt):
        letter = _by_letter(leading[1] or leading[2], count)
        rest = _by_value(leading[3], choices)
        marked = leading[1] or spelt[leading.end(2) : leading.end(2) + 1] != " "
        if letter and rest:
            return letter | rest
        if letter and marked:
            return letter | _by_letter(_ALSO_NAMED.findall(leading[3]), count)
    if same := _by_value(spelt, choices):
        return same
    if _NEGATION.search(spelt):
        return frozenset()
    return _by_letter((m[1] for m in _STANDING.finditer(spelt) if not _is_word(m[1], m[2])), count)


def spell(named: Iterable[int]) -> str:
    """`option B`, `options A and C`, `no option`."""
    letters = [LETTERS[i] if i < len(LETTERS) else str(i + 1) for i in sorted(named)]
    if len(letters) < 2:
        return f"option {letters[0]}" if letters else "no option"
    return f"options {', '.join(letters[:-1])} and {letters[-1]}"


def _by_letter(letters: Iterable[str], count: int) -> frozenset[int]:
    return frozenset(i for letter in letters if (i := LETTERS.find(letter.upper())) in range(count))


def _by_writing(text: str, choices: Sequence[str]) -> frozenset[int]:
    written = compact(text)
    same = frozenset(i for i, choice in enumerate(choices) if written and compact(choice) == written)
    if same or _MATHEMATICAL.search(written):
        return same
    said = words(text)
    prose = ((i, words(choice)) for i, choice in enumerate(choices) if not _MATHEMATICAL.search(choice))
    return frozenset(i for i, choice in prose if said and choice == said)


def _by_beginning(text: str, choices: Sequence[str]) -> frozenset[int]:
    """`no, there are not more` names the option `No`: it is followed by a comma or full stop and more words."""
    beginning = re.match(r"([^,.;]+)[,.;] +(?!or\b|and\b)[A-Za-z]{2}", text)
    if not beginning or _MATHEMATICAL.search(beginning[1]):
        return frozenset()
    return _by_writing(beginning[1], choices)


def _by_value(text: str, choices: Sequence[str]) -> frozenset[int]:
    """The options that say what `text` says: in the same writing, else as the same number, exactly or rounded."""
    if same := _by_writing(text, choices):
        return same
    value = read_value(text)
    if value is None:
        return frozenset()
    options = [(i, option) for i, choice in enumerate(choices) if (option := read_value(choice)) is not None]
    exact = frozenset(i for i, option in options if option.amount == value.amount and agree(option, value))
    return exact or frozenset(i for i, option in options if agree(option, value))


def _is_word(letter: str, follower: str | None) -> bool:
    """`A triangle` and `I think` name no option."""
    return letter in _ARTICLES and follower is not None and follower not in _AFTER_A_LETTER
