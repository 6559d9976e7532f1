"""Which tokens of a response are planning tokens: those that write part of a Strategic Gram (paper, 2.1).

The paper does not say how grams are matched. The rules here: letter case, the shape of quotes and the length
of white space do not matter; a gram that begins or ends with a word character must begin or end a word there;
overlapping matches unite; a token is planning exactly if a non-space character it wrote lies in a match.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmhicra.core.errors import UserError
from mmhicra.core.names import PlanningParts
from mmhicra.hicra.grams import Gram, GramLibrary, fold, normalise
from mmhicra.hicra.search import Indices, PhraseSearch, is_word
from mmhicra.hicra.spans import Ids, read_tokens, token_table

_SPACE = np.array([chr(code).isspace() for code in range(0x3002)])
"""By code point; the last entry, U+3001, stands for everything from there on: none of that is space."""
_WALL = 0xFFFF
"""Written over a structural token's characters: a noncharacter, which no gram may hold."""
_ANSWER_BEGINS = re.compile(r"</think>|<answer>")
_MATH = re.compile(
    r"""```.*?(?:```|\Z)
    | \$\$.+?\$\$
    | (?<!\\)\$(?=\S)(?:\\.|[^\\$\n]|\n(?![ \t]*\n))*?(?<=\S)\$(?!\d)
    | \\\(.*?(?:\\\)|\Z)
    | \\\[.*?(?:\\\]|\Z)""",
    re.DOTALL | re.VERBOSE,
)
_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


@dataclass(frozen=True)
class Match:
    """One occurrence of a gram in a response.

    Attributes:
        gram: what was found.
        start_token: the first token that wrote part of it.
        end_token: one past the last.
        start_char: where it begins in the text of `spans.token_spans`.
        end_char: one past its last character.
    """

    gram: Gram
    start_token: int
    end_token: int
    start_char: int
    end_char: int


@dataclass(frozen=True, eq=False)
class PlanningTags:
    """All that one search finds in a response of R tokens.

    Attributes:
        planning: (R,) bool, the planning tokens: what `mask` returns.
        multiword: (R,) bool, those of grams of at least two words: the mask without one-word grams.
        matches: every occurrence of every gram: what `matches` returns.
    """

    planning: torch.Tensor
    multiword: torch.Tensor
    matches: list[Match]


@dataclass(frozen=True, eq=False)
class _Found:
    """What one response holds: its tokens' character spans, its white space, its matches as three columns."""

    spans: Indices
    space: NDArray[np.bool_]
    grams: Indices
    starts: Indices
    ends: Indices


class PlanningMatcher:
    """Finds the grams of a library in generated token ids.

    Args:
        library: the grams.
        tokenizer: the byte-level BPE tokenizer the ids belong to.
        skip_math: leave out matches that touch LaTeX, fenced code or a boxed answer (see `math_regions`).
        parts: `thinking` is what comes before the first `</think>` or `<answer>`, `answer` what comes after;
            a response with neither is all thinking.
        stop_ids: ids that are never planning, beside the tokenizer's added tokens (special or not).

    Raises:
        UserError: the tokenizer is not byte-level BPE.
    """

    def __init__(
        self,
        library: GramLibrary,
        tokenizer: Any,
        *,
        skip_math: bool = False,
        parts: PlanningParts = "all",
        stop_ids: Collection[int] = (),
    ) -> None:
        if parts not in ("all", "thinking", "answer"):
            raise UserError(f"parts {parts!r}: use all, thinking or answer")
        self.gram_library, self.skip_math, self.parts = library, skip_math, parts
        self._tokenizer = tokenizer
        self._stop_ids = np.array(sorted(stop_ids), dtype=np.int64)
        token_table(tokenizer)  # refuses here rather than at the first response
        keys = [normalise(gram.text) for gram in library.grams]
        self._search = PhraseSearch(keys)
        self._word_ends = np.array([(is_word(key[0]), is_word(key[-1])) for key in keys], dtype=np.bool_).reshape(-1, 2)
        self._multiword = np.array([gram.words > 1 for gram in library.grams])

    def mask(self, ids: Ids) -> torch.Tensor:
        """(R,) bool, True at the planning tokens of R generated ids."""
        found = self._find(ids)
        return _mark(found, found.starts, found.ends)

    def matches(self, ids: Ids) -> list[Match]:
        """Every occurrence of every gram, overlapping ones too, by start and then end."""
        return self._matches(self._find(ids))

    def read(self, ids: Ids) -> PlanningTags:
        """`mask`, the mask of the grams of two words and more, and `matches`, for the price of one search."""
        found = self._find(ids)
        several = self._multiword[found.grams]
        return PlanningTags(
            _mark(found, found.starts, found.ends),
            _mark(found, found.starts[several], found.ends[several]),
            self._matches(found),
        )

    def _matches(self, found: _Found) -> list[Match]:
        first = np.searchsorted(found.spans[:, 1], found.starts, side="right")
        last = np.searchsorted(found.spans[:, 0], found.ends, side="left")
        columns = np.stack([found.starts, found.ends, found.grams, first, last], axis=1)
        return [
            Match(self.gram_library.grams[gram], start_token, end_token, start, end)
            for start, end, gram, start_token, end_token in sorted(columns.tolist())
        ]

    def _find(self, ids: Ids) -> _Found:
        text, spans, structural = read_tokens(ids, token_table(self._tokenizer))
        if self._stop_ids.size:
            structural = structural | np.isin(np.asarray(ids), self._stop_ids)
        codes = _codes(fold(text))
        for start, end in spans[structural].tolist():
            codes[start:end] = _WALL
        space = _is_space(codes)
        kept = np.flatnonzero(~space | ~np.concatenate([[False], space[:-1]]))
        codes[space] = ord(" ")
        grams, first, last = self._search.find(codes[kept])
        starts, ends = kept[first], kept[last] + 1
        allowed = self._allowed(text, starts, ends) & self._whole_words(codes[kept], grams, first, last)
        return _Found(spans, space, grams[allowed], starts[allowed], ends[allowed])

    def _whole_words(
        self, codes: NDArray[np.uint32], grams: Indices, first: Indices, last: Indices
    ) -> NDArray[np.bool_]:
        """Which occurrences neither begin nor end inside a word."""
        walled = np.concatenate([[_WALL], codes, [_WALL]])
        begins, ends = self._word_ends[grams].T
        return ~(begins & _are_word(walled[first])) & ~(ends & _are_word(walled[last + 2]))

    def _allowed(self, text: str, starts: Indices, ends: Indices) -> NDArray[np.bool_]:
        allowed = np.ones(len(starts), dtype=np.bool_)
        if self.parts != "all":
            turn = _ANSWER_BEGINS.search(text)
            thought_end, answer_start = turn.span() if turn else (len(text), len(text))
            allowed &= ends <= thought_end if self.parts == "thinking" else starts >= answer_start
        if self.skip_math:
            for start, end in math_regions(text):
                allowed &= (ends <= start) | (starts >= end)
        return allowed


def planning_mask(ids: Ids, tokenizer: Any, library: GramLibrary, **options: Any) -> torch.Tensor:
    """`PlanningMatcher(library, tokenizer, **options).mask(ids)`: the mask of one response, for any trainer.

    Args:
        ids: R generated ids: no prompt, no padding.
        tokenizer: the one the ids belong to.
        library: the grams.
        options: those of `PlanningMatcher`. For many responses keep one matcher: it takes a while to build.

    Returns:
        (R,) bool.

    Raises:
        UserError: the tokenizer is not byte-level BPE.
        ValueError: ids are not one row, or one is negative.
    """
    return PlanningMatcher(library, tokenizer, **options).mask(ids)


def math_regions(text: str) -> list[tuple[int, int]]:
    r"""Character spans of `$...$`, `$$...$$`, `\(...\)`, `\[...\]`, fenced code and `\boxed{...}`.

    So that prices are not taken for formulae, a single dollar opens only before and closes only after a
    non-space, and closes neither before a digit nor beyond a blank line. The other brackets, if they are left
    open, reach to the end of the text.
    """
    regions = [match.span() for match in _MATH.finditer(text)]
    end = 0
    for box in _BOX.finditer(text):
        if box.start() >= end:
            end = _closing_brace(text, box.end())
            regions.append((box.start(), end))
    return regions


def _closing_brace(text: str, start: int) -> int:
    """One past the brace that closes the one opened just before `start`, or the end of the text."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.end()
    return len(text)


def _mark(found: _Found, starts: Indices, ends: Indices) -> torch.Tensor:
    """(R,) bool: which tokens wrote a non-space character of one of the matches from `starts` to `ends`."""
    change = np.zeros(len(found.space) + 1, dtype=np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, ends, -1)
    planning = (np.cumsum(change)[:-1] > 0) & ~found.space
    before = np.concatenate([[0], np.cumsum(planning)])
    return torch.from_numpy(before[found.spans[:, 1]] > before[found.spans[:, 0]])


def _are_word(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """What `\\w` matches, by code point."""
    found, where = np.unique(codes, return_inverse=True)
    return np.array([is_word(chr(code)) for code in found.tolist()], dtype=np.bool_)[where]


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4").copy()


def _is_space(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """What `\\s` matches, by code point."""
    return _SPACE[np.minimum(codes, len(_SPACE) - 1)]
