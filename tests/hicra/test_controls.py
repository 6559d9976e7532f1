"""The placebo: as dense and as frequent as the real grams, and never one of their tokens."""

from collections import Counter
from random import Random

import pytest
from tokenizers import Tokenizer

from mmhicra.core.errors import UserError
from mmhicra.core.resources import asset_path
from mmhicra.data.generated.visual_math import PHRASES, generate, solve
from mmhicra.hicra.controls import Sample, _survey, placebo_library
from mmhicra.hicra.grams import Gram, GramLibrary
from mmhicra.hicra.planning import PlanningMatcher

LIBRARY = GramLibrary.load("published_249")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(asset_path("tiny_vlm") / "tokenizer.json"))


def solutions(tokenizer, count, seed):
    rng = Random(seed)
    texts = [solve(problem, rng.choice(list(PHRASES)), rng).text for problem in generate("train", count, seed)]
    return [Sample(tokenizer.encode(text).ids, text) for text in texts]


def masks(matcher, samples):
    return [matcher.mask(sample.ids) for sample in samples]


def density(marks):
    return sum(int(mask.sum()) for mask in marks) / sum(len(mask) for mask in marks)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_placebo_has_the_density_of_planning_and_none_of_its_tokens(tokenizer, seed):
    samples, matcher = solutions(tokenizer, 144, seed), PlanningMatcher(LIBRARY, tokenizer)
    library = placebo_library(samples, matcher, tokenizer, seed)
    planning, placebo = masks(matcher, samples), masks(PlanningMatcher(library, tokenizer), samples)
    assert density(placebo[72:]) == pytest.approx(density(planning[72:]), rel=0.05)
    assert library.provenance["placebo_density"] == pytest.approx(density(placebo[72:]))
    assert library.provenance["planning_density"] == pytest.approx(density(planning[72:]))
    assert not any(bool((p & q).any()) for p, q in zip(planning[:72], placebo[:72], strict=True))


def test_placebo_is_matched_in_frequency_and_fits_fresh_responses(tokenizer):
    samples, matcher = solutions(tokenizer, 300, 0), PlanningMatcher(LIBRARY, tokenizer)
    drawn = PlanningMatcher(placebo_library(samples, matcher, tokenizer, 0), tokenizer)

    def per_gram(m):
        counts = Counter(match.gram for sample in samples for match in m.matches(sample.ids))
        return sum(counts.values()) / len(counts)

    assert per_gram(drawn) == pytest.approx(per_gram(matcher), rel=0.5)
    fresh = solutions(tokenizer, 300, 9)
    assert density(masks(drawn, fresh)) == pytest.approx(density(masks(matcher, fresh)), rel=0.1)


def test_a_seed_draws_the_same_n_grams_and_another_seed_others(tokenizer):
    samples, matcher = solutions(tokenizer, 60, 3), PlanningMatcher(LIBRARY, tokenizer)
    first, again, other = (placebo_library(samples, matcher, tokenizer, seed).content_hash for seed in (0, 0, 1))
    assert first == again != other


def test_what_cannot_be_matched_is_refused(tokenizer):
    silent = [Sample(tokenizer.encode(text).ids, text) for text in ("1 + 2 = 3", "4")]
    with pytest.raises(UserError, match="2 responses hold too few grams of published_249"):
        placebo_library(silent, PlanningMatcher(LIBRARY, tokenizer), tokenizer, 0)
    text = "let me verify let me verify 7"
    eager = PlanningMatcher(GramLibrary("one", (Gram("let me verify"),)), tokenizer)
    with pytest.raises(UserError, match="too little execution text"):
        placebo_library([Sample(tokenizer.encode(text).ids, text)] * 2, eager, tokenizer, 0)


def test_what_stands_inside_a_gram_once_is_never_drawn(tokenizer):
    """`verify` stands outside of the gram, too; drawn, it would mark planning tokens."""
    text = "so let me verify we say that it holds we say that it holds verify"
    samples = [Sample(tokenizer.encode(text).ids, text)] * 10
    matcher = PlanningMatcher(GramLibrary("two", (Gram("so"), Gram("let me verify"))), tokenizer)
    fired, pool = _survey(samples, matcher)
    assert {gram.text: count for gram, count in fired.items()} == {"so": 10, "let me verify": 10}
    assert dict(pool[1]) == dict.fromkeys(("we", "say", "that", "it", "holds"), 20)
    assert "we say" in pool[2]
    assert "verify we" not in pool[2]
