r"""Word n-grams of solutions and in how many solutions each occurs (paper section 2.1, first step of mining).

The paper states n in [3, 5] and nothing else. The rules here make every n-gram a phrase that `PlanningMatcher`
finds again where it was counted:

* letters are folded as in `grams.fold`; apostrophes and hyphens inside a word belong to it (`let's`, `double-check`);
* words are joined by white space on one line, or by a comma and white space, and the comma stays in the n-gram
  (`however, we need to`); at an end of an n-gram there is never punctuation;
* anything else ends the stretch: sentence ends and every other mark, line breaks, digits, LaTeX, code, boxed answers
  (`planning.math_regions`), LaTeX commands, and symbols: a single letter other than `a` and `I`, or two to four
  capitals (`ABC`).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmhicra.hicra.grams import fold
from mmhicra.hicra.planning import math_regions

Progress: TypeAlias = Callable[[str, int, int], None]
"""A function that is told a phase, how much of it is done, and how much there is."""

_SYMBOL = r"(?:[^\W\d_aAiI]|[A-Z]{2,4})(?![\w'‘’‛′ʼ＇-])"
_WORD = rf"(?<![\w\\])(?!{_SYMBOL})[^\W\d_]++(?:['‘’‛′ʼ＇-][^\W\d_]++)*+(?!\w)"
_STRETCH = re.compile(rf"{_WORD}(?:,?[^\S\r\n]++{_WORD})*+")


@dataclass(frozen=True, eq=False)
class NGrams:
    """N distinct n-grams of S solutions.

    Attributes:
        texts: the N n-grams, as a `Gram` has them.
        df: (N,) int64, in how many solutions each occurs: its document frequency.
        occurrences: (N,) int64, how often it occurs in all.
        grams: (P,) int64, and
        solutions: (P,) int64: the P distinct pairs of an n-gram and a solution it occurs in, sorted by n-gram.
        total: S.
    """

    texts: list[str]
    df: NDArray[np.int64]
    occurrences: NDArray[np.int64]
    grams: NDArray[np.int64]
    solutions: NDArray[np.int64]
    total: int

    def __len__(self) -> int:
        return len(self.texts)

    def keep(self, wanted: NDArray[np.bool_]) -> NGrams:
        """Those of the n-grams that (N,) `wanted` marks, in their order."""
        number = np.cumsum(wanted) - 1
        pairs = wanted[self.grams]
        texts = [self.texts[index] for index in np.flatnonzero(wanted)]
        grams, solutions = number[self.grams[pairs]], self.solutions[pairs]
        return NGrams(texts, self.df[wanted], self.occurrences[wanted], grams, solutions, self.total)


def split_stretches(solution: str) -> list[list[str]]:
    """The stretches of folded words that n-grams lie in; a word before a comma carries it."""
    start, parts = 0, []
    for begin, end in sorted(math_regions(solution)):
        parts.append(solution[start:begin])
        start = max(start, end)
    text = "\n".join([*parts, solution[start:]])
    return [fold(stretch).split() for stretch in _STRETCH.findall(text)]


def count_ngrams(
    solutions: Sequence[str],
    *,
    min_words: int = 3,
    max_words: int = 5,
    min_df: int = 1,
    progress: Progress = lambda phase, done, total: None,
) -> NGrams:
    """The n-grams of `min_words` to `max_words` words that occur in at least `min_df` of the S solutions.

    An n-gram is counted only where both (n-1)-grams inside it are frequent enough: it cannot be more frequent
    than its parts, so the result is exact, and rare ones, nearly all of a corpus, never become strings.
    """
    words, ids, owner = _read_words(solutions, progress)
    bare_words = list(dict.fromkeys(word.rstrip(",") for word in words))
    bare_number = {word: number for number, word in enumerate(bare_words)}
    bare = np.array([bare_number[word.rstrip(",")] for word in words] + [-1], dtype=np.int64)
    found = []
    heads, tails = ids, bare[ids]
    codes = tails
    for length in range(1, max_words + 1):
        if length > 1:
            codes = _pair(heads, tails)
        codes, firsts, counted = _number(codes, owner, len(solutions), min_df)
        if length >= min_words:
            texts = [_text(words, ids, first, length) for first in firsts.tolist()]
            found.append(NGrams(texts, *counted, len(solutions)))
        # Of two words the first keeps its comma, the second has lost its own; from then on parts overlap.
        heads, tails = (ids, codes) if length == 1 else (codes, codes)
        progress("counting n-grams", length, max_words)
    return _concatenate(found, len(solutions))


def _read_words(solutions: Sequence[str], progress: Progress) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """The distinct words, the corpus as their numbers with -1 after every stretch, and the solution of each."""
    numbers: dict[str, int] = {}
    ids, lengths = array("q"), array("q")
    for index, solution in enumerate(solutions):
        before = len(ids)
        for stretch in split_stretches(solution):
            ids.extend(numbers.setdefault(word, len(numbers)) for word in stretch)
            ids.append(-1)
        lengths.append(len(ids) - before)
        if index % 500 == 499 or index + 1 == len(solutions):
            progress("reading words", index + 1, len(solutions))
    owner = np.repeat(np.arange(len(solutions), dtype=np.int64), np.array(lengths, dtype=np.int64))
    return list(numbers), np.array(ids, dtype=np.int64), owner


def _pair(heads: NDArray[np.int64], tails: NDArray[np.int64]) -> NDArray[np.int64]:
    """One code for each head with the tail after it, -1 where either is missing."""
    codes = np.full(len(heads), -1, dtype=np.int64)
    if len(heads) > 1:
        both = (heads[:-1] >= 0) & (tails[1:] >= 0)
        codes[:-1][both] = heads[:-1][both] << 32 | tails[1:][both]
    return codes


_Counted: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _number(
    codes: NDArray[np.int64], owner: NDArray[np.int64], total: int, min_df: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], _Counted]:
    """Number the codes that occur in enough solutions; also where each is first, and what `NGrams` says of them."""
    places = np.flatnonzero(codes >= 0)
    distinct, first, inverse, occurrences = np.unique(
        codes[places], return_index=True, return_inverse=True, return_counts=True
    )
    pairs = np.unique(inverse * total + owner[places])
    grams, solutions = np.divmod(pairs, max(total, 1))
    df = np.bincount(grams, minlength=len(distinct))
    frequent = df >= min_df
    number = np.where(frequent, np.cumsum(frequent) - 1, -1)
    numbered = np.full(len(codes), -1, dtype=np.int64)
    numbered[places] = number[inverse]
    kept = frequent[grams]
    counted = (df[frequent], occurrences[frequent], number[grams[kept]], solutions[kept])
    return numbered, places[first[frequent]], counted


def _text(words: list[str], ids: NDArray[np.int64], first: int, length: int) -> str:
    return " ".join(words[index] for index in ids[first : first + length].tolist()).rstrip(",")


def _concatenate(parts: list[NGrams], total: int) -> NGrams:
    offsets = np.cumsum([0, *(len(part) for part in parts)])
    return NGrams(
        [text for part in parts for text in part.texts],
        np.concatenate([part.df for part in parts]),
        np.concatenate([part.occurrences for part in parts]),
        np.concatenate([part.grams + offset for part, offset in zip(parts, offsets, strict=False)]),
        np.concatenate([part.solutions for part in parts]),
        total,
    )
