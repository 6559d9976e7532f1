from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmhicra.hicra.grams import Gram, GramLibrary
from mmhicra.hicra.planning import PlanningMatcher
from mmhicra.mining.ngrams import count_ngrams, split_stretches


@pytest.mark.parametrize(
    ("text", "stretches"),
    [
        ("Let’s Use the FACTS, so", ["let's use the facts, so"]),
        ("However, we need to", ["however, we need to"]),
        ("wait,that is", ["wait", "that is"]),  # a comma joins only before white space
        ("it is so. We can", ["it is so", "we can"]),
        ("is it? yes! no: (we can) - go; on", ["is it", "yes", "no", "we can", "go", "on"]),
        ("first line\nsecond line\r\n\r\nthird", ["first line", "second line", "third"]),
        ("we add 12 to it, then x2 and y_1 too", ["we add", "to it, then", "and", "too"]),
        ("since $a + b$ is \\(so\\) even, \\boxed{we can} end", ["since", "is", "even", "end"]),
        ("run ```so we can``` and \\alpha beta", ["run", "and", "beta"]),
        ("let x be the side of ABC and I see a way", ["let", "be the side of", "and i see a way"]),
        ("let me double-check the well--known", ["let me double-check the well", "known"]),
        ("two  spaces\tand a\u00a0tab", ["two spaces and a tab"]),
        ("**we** can <b>see</b>", ["we", "can", "see"]),
        ("$open dollars \\[ we never see", ["open dollars"]),
        ("", []),
    ],
)
def test_stretches(text, stretches):
    # Single letters beside markup (`<b>`) are symbols and no words.
    assert [" ".join(stretch) for stretch in split_stretches(text)] == stretches


WORD = st.sampled_from(["we", "can", "so,", "let's", "see", "that,", "a"])
BREAK = st.sampled_from([". ", "\n", " 12 ", "! ", " $n$ ", ": ", " \\boxed{we can see that} ", " ABC "])
SOLUTION = st.lists(st.tuples(st.lists(WORD, min_size=1, max_size=9), BREAK), max_size=4)


def reference_counts(solutions: list[list[list[str]]], low: int, high: int) -> tuple[Counter, Counter, set]:
    df, occurrences, pairs = Counter(), Counter(), set()
    for number, stretches in enumerate(solutions):
        found = [
            " ".join(words[start : start + length]).rstrip(",")
            for words in stretches
            for length in range(low, high + 1)
            for start in range(len(words) - length + 1)
        ]
        occurrences.update(found)
        df.update(set(found))
        pairs |= {(text, number) for text in found}
    return df, occurrences, pairs


@settings(max_examples=150, deadline=None)
@given(st.lists(SOLUTION, max_size=5), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3))
def test_counts_equal_the_reference(solutions, low, more, min_df):
    texts = ["".join(" ".join(words) + end for words, end in solution) for solution in solutions]
    df, occurrences, pairs = reference_counts([[words for words, _ in each] for each in solutions], low, low + more)
    found = count_ngrams(texts, min_words=low, max_words=low + more, min_df=min_df)
    frequent = {text: count for text, count in df.items() if count >= min_df}
    assert len(set(found.texts)) == len(found)
    assert dict(zip(found.texts, found.df.tolist(), strict=True)) == frequent
    assert dict(zip(found.texts, found.occurrences.tolist(), strict=True)) == {
        text: occurrences[text] for text in frequent
    }
    got = [(found.texts[gram], number) for gram, number in zip(found.grams, found.solutions, strict=True)]
    assert sorted(got) == sorted(pair for pair in pairs if pair[0] in frequent)


def test_every_ngram_is_found_again_where_it_was_counted(byte_tokenizer, compose):
    rng = random.Random(0)
    texts = [compose(rng, 25) for _ in range(60)]
    ngrams = count_ngrams(texts, min_words=2, max_words=5)
    matcher = PlanningMatcher(GramLibrary("all", tuple(map(Gram, ngrams.texts))), byte_tokenizer, skip_math=True)
    found = [{m.gram.text for m in matcher.matches(byte_tokenizer.encode(text))} for text in texts]
    missed = [
        (ngrams.texts[gram], texts[number])
        for gram, number in zip(ngrams.grams, ngrams.solutions, strict=True)
        if ngrams.texts[gram] not in found[number]
    ]
    assert len(ngrams) > 1000
    assert not missed
    shape = re.compile(r"WORD(?:,? WORD)*".replace("WORD", r"[^\W\d_]+(?:['-][^\W\d_]+)*"))
    assert not [text for text in ngrams.texts if not shape.fullmatch(text)]


def test_keep():
    ngrams = count_ngrams(["we can see. so we can", "we can", "so we"], min_words=2, max_words=2)
    kept = ngrams.keep(ngrams.df > 1)
    assert sorted(kept.texts) == ["so we", "we can"]
    assert {(kept.texts[g], s) for g, s in zip(kept.grams, kept.solutions, strict=True)} == {
        ("so we", 0), ("so we", 2), ("we can", 0), ("we can", 1),
    }  # fmt: skip
    assert dict(zip(kept.texts, kept.occurrences.tolist(), strict=True)) == {"so we": 2, "we can": 3}
