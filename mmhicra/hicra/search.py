"""Finds every occurrence of many phrases in a text: Aho-Corasick, and for large lists a filter before it.

An automaton of 100 000 phrases lies all over the memory, and reading it costs more than all the rest of a planning
mask. So long phrases of a large list are looked up by their first `PREFIX` characters instead: a table of bits, small
enough for the cache, says no at nearly every word of a text; the few that remain are compared in full.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

import ahocorasick
import numpy as np
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.int64]

PREFIX = 12
"""Characters that a long phrase is looked up by."""
MANY = 2000
"""With fewer long phrases the automaton alone is as fast."""

_BITS = 22
_FACTORS = tuple(np.uint32(pow(0x9E3779B1, power, 2**32)) for power in (1, 2, 4))
"""Of the polynomial hash, by how far apart the two parts begin."""
_MIX = np.uint32(0x85EBCA6B)
_AFTER = np.array([not (chr(code).isalnum() or chr(code) == "_") for code in range(128)] + [True])
"""By code point, whether a word may begin behind it; the last entry stands for all that is not ASCII: perhaps."""


class PhraseSearch:
    """Occurrences of phrases; those that begin or end inside a word may be among them.

    Args:
        phrases: not empty, all different, in the form in which they stand in the text.
    """

    def __init__(self, phrases: Sequence[str]) -> None:
        long = [i for i, phrase in enumerate(phrases) if len(phrase) >= PREFIX and is_word(phrase[0])]
        self._filter = _Filter({phrases[i]: i for i in long}) if len(long) > MANY else None
        others = set(range(len(phrases))).difference(long) if self._filter else range(len(phrases))
        self._automaton = ahocorasick.Automaton()
        for index in others:
            self._automaton.add_word(phrases[index], (index, len(phrases[index])))
        self._automaton.make_automaton()
        self._empty = not others

    def find(self, codes: NDArray[np.uint32]) -> tuple[Indices, Indices, Indices]:
        """Number of the phrase, first and last character of every occurrence in a text of code points."""
        text = codes.tobytes().decode("utf-32-le")
        rows = [] if self._empty else [(i, last + 1 - n, last) for last, (i, n) in self._automaton.iter(text)]
        if self._filter:
            rows += self._filter.find(text, codes)
        numbers, first, last = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        return numbers, first, last


class _Filter:
    """Long phrases that begin with a word character, by their first characters."""

    def __init__(self, phrases: dict[str, int]) -> None:
        self._phrases = phrases
        lengths: dict[str, set[int]] = defaultdict(set)
        for phrase in phrases:
            lengths[phrase[:PREFIX]].add(len(phrase))
        self._lengths = {prefix: tuple(found) for prefix, found in lengths.items()}
        self._bits = np.zeros(2 ** (_BITS - 3), dtype=np.uint8)
        codes = np.frombuffer("".join(self._lengths).encode("utf-32-le"), dtype="<u4")
        slots = _slots(_hashes(codes)[::PREFIX])
        np.bitwise_or.at(self._bits, slots >> 3, np.uint8(1) << (slots & 7).astype(np.uint8))

    def find(self, text: str, codes: NDArray[np.uint32]) -> list[tuple[int, int, int]]:
        """As `PhraseSearch.find`, as rows."""
        if len(codes) < PREFIX:
            return []
        before = np.take(_AFTER, codes[: len(codes) - PREFIX], mode="clip")
        begins = np.flatnonzero(np.concatenate([[True], before]))
        slots = _slots(_hashes(codes).take(begins))
        hit = self._bits.take(slots >> 3) & np.left_shift(1, slots & 7)
        perhaps = begins[hit != 0]
        rows = []
        lengths_of, number_of, last = self._lengths.get, self._phrases.get, len(text)
        for start in perhaps.tolist():
            for length in lengths_of(text[start : start + PREFIX], ()):
                end = start + length
                number = number_of(text[start:end]) if end <= last else None
                if number is not None:
                    rows.append((number, start, end - 1))
        return rows


def _hashes(codes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """(N,) code points -> (N - PREFIX + 1,), of the `PREFIX` characters that begin at each of them."""
    one, two, four = _FACTORS
    pairs = codes[:-1] * one + codes[1:]
    fours = pairs[:-2] * two + pairs[2:]
    eights = fours[:-4] * four + fours[4:]
    return eights[:-4] * four + fours[8:]


def _slots(hashes: NDArray[np.uint32]) -> Indices:
    """Which bits stand for them."""
    return ((hashes * _MIX) >> np.uint32(32 - _BITS)).astype(np.int64)


def is_word(character: str) -> bool:
    """What `\\w` matches."""
    return character.isalnum() or character == "_"
