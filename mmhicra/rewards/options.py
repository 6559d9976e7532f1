"""Which options of a multiple-choice problem a text names, by letter and by value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from mmhicra.rewards.figures import read_letters
from mmhicra.rewards.notation import compact, plain, words
from mmhicra.rewards.readers import compare
from mmhicra.rewards.times import is_clock_shaped, read_clock, same_clock
from mmhicra.rewards.values import agree, read_value

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_LONGEST_READ = 200
"""Characters of an answer that the exact readers compare with every option."""

_LONE = re.compile(
    r"(?:(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?|选项?)?[ :([{]*([A-Za-z])[ )\]}]*", re.IGNORECASE
)
_LIST = re.compile(r"\(?[A-Za-z]\)?(?:(?: ?[,/&;] ?| )(?:(?:or|and) )?\(?[A-Za-z]\)?)+")
_LIST_LETTER = re.compile(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])")
_BRACKETED_LIST = re.compile(r"(?: ?[(\[][A-Z][)\]] ?){2,}")
_RUN = re.compile(r"[A-Z]{2,8}")
_OR = re.compile(r"\s+or\s+|\s*或者?\s*|\s*/\s*")
_CHINESE_SAYING = re.compile(r"([^\n]*[一-鿿][^\n]*?[是为选])\s*((?:[(]\s*[A-Z]\s*[)]|[A-Z])(?![A-Za-z]).*)")
_CHINESE_DENIAL = re.compile("[不非没错]")
_PRONOUN = re.compile(r"(?:it|they|this|that|these|he|she)(?:'s|'re)? (?:(?:is|are|will be|will) )?", re.IGNORECASE)
_DENIED = re.compile(
    r"^(?:is |are )?(?:not|wrong|incorrect|false|isn't|maybe|perhaps|possibly|unless)\b"
    r"|\b(?:is|are|was) (?:not|wrong|incorrect|false)\b",
    re.IGNORECASE,
)
_LISTED = (
    re.compile(r"(?<![A-Za-z\\])\(([A-Z])\)\s*"),
    re.compile(r"(?:^|\n)\s{0,9}([A-Z])\s{0,3}[:.)、：．]\s{0,9}"),
    re.compile(r"(?<!\S)([A-Z])[.:、．]\s*"),
)
_LEADING = re.compile(
    r"(?:(?:option|choice) )?(?:[(\[{] ?([A-Z]) ?[)\]}]|([A-Z])(?= ?[.:)、,]| ))[ .:)、,]*(.*)", re.IGNORECASE
)
_ALSO_NAMED = re.compile(r"(?:^(?:or |and |/|&|,)? *\(?|\bor +\(?|\band +\(?|\(|\boption |\bchoice )([A-Z])(?![\w'°^])")
_STANDING = re.compile(r"(?<![\w\\∠△^'.])([A-Z])(?![\w'°^]| ?=)(?: ([a-z]+))?")
_NEGATION = re.compile(
    r"\b(?:not|except|excluding|without|neither|nor|cannot|never|wrong|incorrect|false|rather than|instead of"
    r"|(?:all|anything) but|opposite of|maybe|perhaps|possibly|unless|might be|could be)\b|n't\b",
    re.IGNORECASE,
)
_MATHEMATICAL = re.compile(r"[\d\\()\[\]^=<>+*/|]")
_ARTICLES = frozenset("AI")
_AFTER_A_LETTER = frozenset({"or", "and", "is", "are"})


def options_named(text: str, choices: Sequence[str]) -> frozenset[int]:
    """Indices of the options that `text` names; more than one means that it does not commit itself.

    A letter followed by its own option's text names that option whatever else the text might say. A lone letter counts
    as a letter and, should an option read just so, as that option's text. `B. 5` counts as the letter and as the value:
    it names two options if 5 is what another one says. Options of equal text are one option, the first of them; so that
    `(C) 18` is right where C and D both read 18. Without `choices` only letters count.
    """
    return _first_of_equal(_named(text, tuple(choices)), tuple(choices))


def gold_options(gold: str, choices: Sequence[str]) -> frozenset[int]:
    """The right options: one, or several where the gold is a list of letters (`AC`, `B, D`); none if it names none."""
    lone = _by_letter(gold, len(choices) or len(LETTERS)) if len(gold) == 1 and gold.isupper() else frozenset()
    named = _first_of_equal(lone, tuple(choices)) or options_named(gold, choices)
    if len(named) == 1:
        return named
    letters = read_letters(gold)
    found = _by_letter(sorted(letters[0]), len(choices) or len(LETTERS)) if letters else frozenset()
    several = letters is not None and len(found) == len(letters[0]) and (letters[1] or named in (found, frozenset()))
    return _first_of_equal(found, tuple(choices)) if several else frozenset()


def options_in(question: str) -> tuple[str, ...]:
    r"""The options that a question lists: `(A) 60 (B) 30`, `A. 40° B. 60°`, `Choices:\nA:10°\nB:20°`; else empty."""
    for pattern in _LISTED:
        found = list(pattern.finditer(question))
        first = max((at for at, option in enumerate(found) if option[1] == "A"), default=None)
        listed = found[first:] if first is not None else []
        if len(listed) > 1 and "".join(option[1] for option in listed) == LETTERS[: len(listed)]:
            ends = [option.start() for option in listed[1:]] + [len(question)]
            texts = [question[option.end() : end].strip(" \n;,") for option, end in zip(listed, ends, strict=True)]
            if all(texts):
                return tuple(text.split("\n")[0] for text in texts)
    return ()


@lru_cache(maxsize=4096)
def _named(text: str, choices: tuple[str, ...]) -> frozenset[int]:
    spelt = plain(text)
    count = len(choices) or len(LETTERS)
    if own := _by_letter_and_text(spelt, choices):
        return own
    if (saying := _CHINESE_SAYING.fullmatch(spelt)) and not _CHINESE_DENIAL.search(saying[1]):
        return _named(saying[2], choices)
    if lone := _LONE.fullmatch(spelt):
        whole = frozenset(i for i, choice in enumerate(choices) if compact(choice) == compact(spelt))
        same = whole or _by_writing(lone[1], choices)
        return same if same and lone[1].islower() else same | _by_letter(lone[1], count)
    if same := _by_writing(spelt, choices):
        return same
    if same := _by_beginning(spelt, choices):
        return same
    if _LIST.fullmatch(spelt) or _BRACKETED_LIST.fullmatch(spelt):
        letters = _LIST_LETTER.findall(re.sub(r"\b(?:or|and)\b", "", spelt))
        found = _by_letter(letters, count)
        return found if len(found) == len(set(map(str.upper, letters))) else frozenset()
    if run := _RUN.fullmatch(spelt):
        found = _by_letter(run[0], count)
        return found if len(found) == len(run[0]) else frozenset()
    if leading := _LEADING.fullmatch(spelt):
        letter = _by_letter(leading[1] or leading[2], count)
        rest = _by_value(leading[3], choices)
        marked = leading[1] or spelt[leading.end(2) : leading.end(2) + 1] != " "
        if letter and _DENIED.search(leading[3]):
            return frozenset()
        if letter and rest:
            return letter | rest
        if letter and marked:
            return letter | _by_letter(_ALSO_NAMED.findall(leading[3]), count)
    if same := _by_value(spelt, choices):
        return same
    if len(alternatives := _OR.split(spelt)) > 1:
        each = [_named(part, choices) for part in alternatives]
        return frozenset().union(*each) if all(each) else frozenset()
    if _NEGATION.search(spelt):
        return frozenset()
    if (saying := _PRONOUN.match(spelt)) and (same := _by_writing(spelt[saying.end() :], choices)):
        return same
    return _by_letter((m[1] for m in _STANDING.finditer(spelt) if not _is_word(m[1], m[2])), count)


def _by_letter_and_text(spelt: str, choices: tuple[str, ...]) -> frozenset[int]:
    """`(B) R, D, N`, `E. Impossible to determine`: a letter and exactly what stands beside it."""
    leading = _LEADING.fullmatch(spelt) if choices else None
    if leading is None or not leading[3]:
        return frozenset()
    letter = _by_letter(leading[1] or leading[2], len(choices))
    texts = [leading[3], *re.findall(r"^\((.*)\)$", leading[3])]
    return letter if letter and any(letter <= _by_writing(text, choices) for text in texts) else frozenset()


def _first_of_equal(named: frozenset[int], choices: tuple[str, ...]) -> frozenset[int]:
    if not named or not choices:
        return named
    first = _first_equal(choices)
    return frozenset(first[i] for i in named)


@lru_cache(maxsize=2048)
def _first_equal(choices: tuple[str, ...]) -> tuple[int, ...]:
    written = [compact(choice) or str(i) for i, choice in enumerate(choices)]
    return tuple(written.index(each) for each in written)


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
    abbreviated = r"(?:(?:Mr|Ms|Mrs|Dr|St|Mt)\. )?"
    beginning = re.match(rf"({abbreviated}[^,.;]+)[,.;] +(?!or\b|and\b)(?:[A-Za-z]{{2}}|I )", text)
    if not beginning or _MATHEMATICAL.search(beginning[1]):
        return frozenset()
    return _by_writing(beginning[1], choices)


def _by_value(text: str, choices: Sequence[str]) -> frozenset[int]:
    """The options that say what `text` says: in the same writing, else as the same number, exactly or rounded."""
    if same := _by_writing(text, choices):
        return same
    if (clock := read_clock(text)) is not None and any(map(is_clock_shaped, choices)):
        times = ((i, read_clock(choice)) for i, choice in enumerate(choices))
        return frozenset(i for i, time in times if time is not None and same_clock(time, clock))
    value = read_value(text)
    if value is None:
        return _by_reading(text, choices)
    options = [(i, option) for i, choice in enumerate(choices) if (option := read_value(choice)) is not None]
    agreeing = [(abs(option.amount - value.amount), i) for i, option in options if agree(option, value)]
    exact = frozenset(i for gap, i in agreeing if gap == 0)
    if exact or not agreeing:
        return exact or _by_reading(text, choices)
    nearest = min(agreeing)[0]
    return frozenset(i for gap, i in agreeing if gap == nearest)


def _by_reading(text: str, choices: Sequence[str]) -> frozenset[int]:
    r"""The options that are equal for one of the exact readers: `1 to 2` is `1:2`, `(3, 4]` is `3 < x \le 4`."""
    if len(text) > _LONGEST_READ or not _MATHEMATICAL.search(text):
        return frozenset()
    return frozenset(i for i, choice in enumerate(choices) if compare(choice, text) is True)


def _is_word(letter: str, follower: str | None) -> bool:
    """`A triangle` and `I think` name no option."""
    return letter in _ARTICLES and follower is not None and follower not in _AFTER_A_LETTER
