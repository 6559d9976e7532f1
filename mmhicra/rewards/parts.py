r"""Answers of several parts: lists, sets, tuples, labelled values, `\pm`, and golds that hold one answer a line.

Parts are ordered in tuples, in golds with one part a line (or between semicolons, or in displays of their own) and
where the question asks for an order; they are not ordered in sets, in lists with commas, nor where it asks for all
solutions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeVar

from mmhicra.rewards.notation import LONGEST_ANSWER, compact, plain

Part = TypeVar("Part")
Same = Callable[[str, str], bool | None]
Shape = Literal["list", "lines", "set", "tuple", "bracket"]


@dataclass(frozen=True)
class Parts:
    """At least two parts of an answer (a set may have fewer), their labels (`x` of `x = 1`), and what joined them."""

    items: tuple[str, ...]
    labels: tuple[str, ...]
    shape: Shape


_LINES = re.compile(r"\s*(?:\n+|\$\$\s*\$\$|\$\s+\$|[;；])\s*")
_SEPARATOR = re.compile(r"\s*(?:,?\s*\b(?:and|or)\b|[,，、;；]|和|与|或|\\(?:land|lor|wedge|vee)(?![a-zA-Z]))\s*")
_EVERY_COMMA = re.compile(r"\s*,\s*")
_OPENING, _CLOSING = "([{", ")]}"
_LABEL = re.compile(
    r"^((?:[A-Za-z]|\\[a-zA-Z]+|∠|△)[\w\s{}()'.,°\\∠△]{0,40}?|[一-鿿\w]{1,12})\s*"
    r"(?:=|:(?!\s*\d)|\\colon|\\in(?![a-zA-Z])|[为是])\s*(?=\S)"
)
_POINT = re.compile(r"^(?:(?:[Pp]oint|[Vv]ertex|[Cc]ent(?:er|re)|[Ff]ocus)\s+)?(?:[A-Z]['\d]?\s*)?(?=[(\[])")
_NAMED_POINT = re.compile(r"^([A-Z]['\d]?)\s*(?=\([^()]*,[^()]*\)$)")
_ROOT_LABEL = re.compile(r"x_?\{?\d\}?")
"""`x_1` and `x_2` are two values of one unknown."""
_CONTINUED = re.compile(r"\s*[=+*/]")
_DOTS = re.compile(r"\\[lcdv]?dots(?![a-z])|\.\.\.|…")
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])|±")
_EMPTY = re.compile(r"\\emptyset|\\?\{\s*\\?\}|(?:the |an )?empty set|空集", re.IGNORECASE)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_MOST = 30


@lru_cache(maxsize=4096)
def read_parts(text: str, every_comma: bool = False) -> Parts | None:
    """The parts of `text`; None if it is one thing, a list that goes on (`1, 2, \\ldots`), or too long."""
    if len(text) > LONGEST_ANSWER or _DOTS.search(text):
        return None
    lines = [line for line in _LINES.split(text.strip().removeprefix("$$").removesuffix("$$")) if plain(line)]
    if len(lines) > 1 and r"\begin" not in text and _is_balanced(lines) and not any(map(_CONTINUED.match, lines[1:])):
        return _with_labels(lines, "lines")
    spelt = plain(text)
    if _EMPTY.fullmatch(spelt):
        return Parts((), (), "set")
    return _read(spelt, every_comma)


def same_parts(gold: Parts, answer: Parts, same: Same, order: bool | None) -> bool | None:
    """Whether two answers have the same parts; None if that takes algebra.

    Args:
        gold: the right parts.
        answer: the stated ones.
        same: compares two parts.
        order: what the question says about their order, None if it says nothing.
    """
    if len(gold.items) != len(answer.items):
        return False
    if not _shapes_go_together(gold, answer):
        return False
    labelled = _by_label(gold, answer)
    if labelled is not None:
        return all_same(same(one, other) for one, other in labelled)
    named = not any(answer.labels) and _are_names(gold.labels)
    ordered = named or gold.shape == "tuple" or (gold.shape in ("lines", "list", "bracket") and order is True)
    if gold.shape == "lines" and order is None:
        ordered = not all(re.fullmatch(r"[A-J]", compact(item)) for item in gold.items)
    if ordered:
        return all_same(same(one, other) for one, other in zip(gold.items, answer.items, strict=True))
    return matching(gold.items, answer.items, same)


def _read(spelt: str, every_comma: bool) -> Parts | None:
    if (sets := re.split(r"\\cup(?![a-zA-Z])", spelt)) and len(sets) > 1:
        found = [_read(part.strip(), every_comma) for part in sets]
        members = [part for part in found if part is not None and part.shape == "set"]
        if len(members) < len(sets):
            return None
        items = tuple(dict.fromkeys(item for part in members for item in part.items))
        return Parts(items, ("",) * len(items), "set")
    label = _LABEL.match(spelt)
    inner = spelt[label.end() :] if label and spelt[label.end() : label.end() + 1] in ("(", "[", "\\", "{") else spelt
    inner = _POINT.sub("", inner).strip()
    for opening, closing, shape in (
        (r"\{", r"\}", "set"),
        ("{", "}", "set"),
        ("(", ")", "tuple"),
        ("[", "]", "bracket"),
    ):
        body = inner[len(opening) : -len(closing)]
        if inner.startswith(opening) and inner.endswith(closing) and _is_balanced([body]) and "|" not in body:
            pieces = _split(body, every_comma)
            if len(pieces) > 1 or (shape in ("set", "bracket") and opening != "{" and pieces != [""]):
                return Parts(*_expanded(pieces), shape)  # type: ignore[arg-type]
            return None if shape != "set" else _read(body, every_comma) if opening == "{" else None
    pieces = _split(spelt, every_comma)
    if len(pieces) > 1:
        return _with_labels(pieces, "list")
    if _PLUS_MINUS.search(spelt):
        items, labels = _expanded([spelt])
        return Parts(items, labels, "list") if len(items) > 1 else None
    return None


def _split(text: str, every_comma: bool) -> list[str]:
    pieces, depth, start, at = [], 0, 0, 0
    while at < len(text):
        character = text[at]
        depth += (character in _OPENING) - (character in _CLOSING)
        found = _SEPARATOR.match(text, at) if depth == 0 and character in ", ，、;；ao和与或\\" else None
        if found and found[0].strip() == "," and not every_comma and _is_thousand(text, at, found):
            found = None
        if (
            found
            and found[0].strip()
            and not (found[0].strip().isalpha() and at and text[at - 1].isalnum() and character in "ao")
        ):
            pieces.append(text[start:at])
            start = at = found.end()
        else:
            at += 1
    pieces.append(text[start:])
    pieces = [piece.strip() for piece in pieces]
    return pieces if len(pieces) <= _MOST and all(pieces) else [text.strip()]


def _is_thousand(text: str, at: int, found: re.Match[str]) -> bool:
    return bool(at and text[at - 1].isdigit() and re.match(r"\d{3}(?!\d)", text[at + 1 :]) and len(found[0]) == 1)


def _with_labels(pieces: list[str], shape: Shape) -> Parts | None:
    items, labels = _expanded(pieces)
    if any(_is_sentence(item) for item in items):
        return None
    return Parts(items, labels, shape)


def _is_sentence(item: str) -> bool:
    return len(_WORD.findall(plain(item))) > 4


def _expanded(pieces: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    r"""Labels taken off, `1 \pm \sqrt{3}` made two parts."""
    items, labels = [], []
    for piece in pieces:
        label = _LABEL.match(piece) or _NAMED_POINT.match(piece)
        name, body = (compact(label[1]), piece[label.end() :].strip()) if label else ("", _unquoted(piece))
        signs = ("+", "-") if len(_PLUS_MINUS.findall(body)) == 1 else ()
        both = [_PLUS_MINUS.sub(sign, body) for sign in signs] or [body]
        items += both
        labels += [name] * len(both)
    return tuple(items), tuple(labels)


def _unquoted(piece: str) -> str:
    return piece[1:-1] if len(piece) > 2 and piece[0] == piece[-1] and piece[0] in "'\"" else piece


def _by_label(gold: Parts, answer: Parts) -> list[tuple[str, str]] | None:
    """Parts paired by their labels, where every one has another and both sides have the same."""
    if (
        "" in gold.labels
        and "" not in answer.labels
        and len(set(answer.labels)) == len(answer.labels)
        and gold.shape == "tuple"
    ):
        order = sorted(range(len(answer.items)), key=lambda at: answer.labels[at])
        return list(zip(gold.items, (answer.items[at] for at in order), strict=True))
    if not _are_distinct(gold.labels) or "" in answer.labels:
        return None
    if set(answer.labels) == {"x"} and all(map(_ROOT_LABEL.fullmatch, gold.labels)):
        return None
    if sorted(map(_initial, gold.labels)) == sorted(set(map(_initial, answer.labels))) and _shortened(gold, answer):
        places = {_initial(label): at for at, label in enumerate(answer.labels)}
        return [
            (item, answer.items[places[_initial(label)]]) for label, item in zip(gold.labels, gold.items, strict=True)
        ]
    if sorted(map(str.lower, gold.labels)) != sorted(map(str.lower, answer.labels)):
        return [("0", "1")] if set(gold.labels) != set(answer.labels) else None
    places = {label.lower(): at for at, label in enumerate(answer.labels)}
    return [(item, answer.items[places[label.lower()]]) for label, item in zip(gold.labels, gold.items, strict=True)]


def _initial(label: str) -> str:
    return label[:1].lower()


def _shortened(gold: Parts, answer: Parts) -> bool:
    """Whether one side writes the first letters of the other's words: `D` and `R` for domain and range."""
    sides = (gold.labels, answer.labels)
    return any(
        all(map(str.isalpha, one)) and all(len(each) > 3 for each in one) and all(len(each) == 1 for each in other)
        for one, other in (sides, sides[::-1])
    )


def _are_names(labels: tuple[str, ...]) -> bool:
    """Whether every part has a name of its own, and they are not the roots `x_1` and `x_2` of one equation."""
    return _are_distinct(labels) and not all(map(_ROOT_LABEL.fullmatch, labels))


def _are_distinct(labels: tuple[str, ...]) -> bool:
    return len(set(labels)) == len(labels) and "" not in labels and bool(labels)


def _shapes_go_together(gold: Parts, answer: Parts) -> bool:
    """A point is no set, and a set no point; the brackets of a set or of a Python list may be left out."""
    if gold.shape == "tuple":
        return answer.shape in ("tuple", "list", "lines")
    if answer.shape == "tuple":
        return gold.shape == "lines" or (gold.shape == "list" and _are_coordinates(gold.labels))
    return not (answer.shape == "bracket" and gold.shape == "set")


def _are_coordinates(labels: tuple[str, ...]) -> bool:
    """Whether values are named as those of a point are, in the same order: `x = 3, y = -1`."""
    return all(len(label) == 1 and label.islower() for label in labels) and list(labels) == sorted(set(labels))


def matching(gold: Sequence[Part], answer: Sequence[Part], same: Callable[[Part, Part], bool | None]) -> bool | None:
    """Whether every part of the gold has a part of the answer to itself, in any order; None if `same` is not sure."""
    left, unsure = list(answer), False
    for item in gold:
        verdicts = [same(item, each) for each in left]
        if True in verdicts:
            del left[verdicts.index(True)]
        elif None in verdicts:
            unsure = True
        else:
            return False
    return None if unsure else True


def all_same(verdicts: Iterable[bool | None]) -> bool | None:
    """Whether all verdicts are True: False if one is False, None if one is not sure."""
    found = list(verdicts)
    return False if False in found else None if None in found else True


def _is_balanced(pieces: list[str]) -> bool:
    for piece in pieces:
        depth = 0
        for character in piece:
            depth += (character in _OPENING) - (character in _CLOSING)
            if depth < 0:
                return False
        if depth:
            return False
    return True


def without_label(parts: Parts) -> Parts:
    """The same parts, their labels forgotten."""
    return replace(parts, labels=("",) * len(parts.items))
