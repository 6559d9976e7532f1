"""Phrases are found where a plain search finds them, with and without the filter of large lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmhicra.hicra import search
from mmhicra.hicra.search import PREFIX, PhraseSearch

PHRASES = (
    "so", "let's try", "let's try another", "let's try another way", "let's try anothe", "but the problem",
    "\u00e9tape suivante", "wait, this is", "(a longer aside)", "--", "x" * PREFIX, "x" * (PREFIX + 1),
    "\u56e0\u6b64" * 7, "try another way",
)  # fmt: skip
PIECES = (
    *PHRASES,
    *(phrase[:PREFIX] for phrase in PHRASES),
    " ",
    " ",
    ", ",
    "a",
    "_",
    "\u00e9",
    "\U0001f642",
    "\uffff",
    "x",
)


def plain(text, filtered):
    """Every occurrence; a filtered phrase only where no ASCII word character stands before it."""
    rows = []
    for number, phrase in enumerate(PHRASES):
        long = filtered and len(phrase) >= PREFIX and search.is_word(phrase[0])
        for start in range(len(text)):
            inside = start > 0 and text[start - 1].isascii() and search.is_word(text[start - 1])
            if text.startswith(phrase, start) and not (long and inside):
                rows.append((number, start, start + len(phrase) - 1))
    return sorted(rows)


@pytest.mark.parametrize("filtered", [False, True])
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=14))
def test_every_occurrence_is_found(filtered, pieces):
    text = "".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "MANY", 0 if filtered else len(PHRASES))
        finder = PhraseSearch(PHRASES)
    assert (finder._filter is not None) == filtered
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    assert sorted(zip(*(column.tolist() for column in finder.find(codes)), strict=True)) == plain(text, filtered)


def test_a_list_of_long_phrases_alone(monkeypatch):
    monkeypatch.setattr(search, "MANY", 0)
    finder = PhraseSearch(["but the problem mentions"])
    found = finder.find(np.frombuffer("so, but the problem mentions it".encode("utf-32-le"), dtype="<u4"))
    assert [column.tolist() for column in found] == [[0], [4], [27]]
