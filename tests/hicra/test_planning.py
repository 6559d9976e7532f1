from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mmhicra.core.errors import UserError
from mmhicra.hicra.grams import Gram, GramLibrary
from mmhicra.hicra.planning import PlanningMatcher, math_regions, planning_mask
from mmhicra.hicra.spans import token_spans

LIBRARY = GramLibrary.load("published_249")
GRAMS = [gram.text for gram in LIBRARY.grams]
ROOT = Path(__file__).parents[2]


def damage(rng, ids, tokenizer):
    """Sampled ids are not a tokenizer's choice: drop, repeat, put special and random tokens between."""
    for _ in range(rng.randrange(4)):
        place = rng.randrange(len(ids) + 1)
        ids[place:place] = rng.choice(
            [[tokenizer.eos_token_id], [rng.randrange(len(tokenizer))], ids[place : place + 3]]
        )
        del ids[(start := rng.randrange(len(ids) + 1)) : start + rng.randrange(3)]
    return ids


def found(text, tokenizer, library=LIBRARY, **options):
    ids = tokenizer.encode(text, add_special_tokens=False)
    matches = PlanningMatcher(library, tokenizer, **options).matches(ids)
    return [text[match.start_char : match.end_char] for match in matches]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.slow
def test_mask_equals_the_slow_reference_on_composed_responses(seed, tokenizer, compose, slow_mask):
    rng, matcher, planning = random.Random(seed), PlanningMatcher(LIBRARY, tokenizer), 0
    for _ in range(100):
        ids = damage(rng, tokenizer.encode(compose(rng, 10), add_special_tokens=False), tokenizer)
        mask = matcher.mask(ids)
        assert mask.tolist() == slow_mask(ids, tokenizer, GRAMS), tokenizer.decode(ids)
        planning += int(mask.sum())
    assert planning > 700


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    pieces=st.lists(
        st.sampled_from(GRAMS) | st.text(max_size=5) | st.sampled_from([" ", "\n", "_", "’", "so", "İ", "\u0301"]),
        max_size=12,
    ),
    drawn=st.lists(st.integers(0, 257), max_size=6),
)
@pytest.mark.slow
def test_mask_equals_the_slow_reference_on_anything(pieces, drawn, tokenizer, slow_mask):
    text = "".join(pieces)
    ids = tokenizer.encode(text, add_special_tokens=False)
    ids[len(ids) // 2 : len(ids) // 2] = drawn
    assert PlanningMatcher(LIBRARY, tokenizer).mask(ids).tolist() == slow_mask(ids, tokenizer, GRAMS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Let me", ["Let me"]),
        ("x = 1, let me", ["let me"]),
        ("\nlet me", ["let me"]),
        ("LET ME", ["LET ME"]),
        ("let\n\n  me", ["let\n\n  me"]),
        ("Let\u2019s backtrack.", ["Let\u2019s", "Let\u2019s backtrack"]),
        ("something is also sober", []),
        ("so_far so2 2so", []),
        ("So\u2014so!", ["So", "so"]),
        ("hmm,so", ["hmm,", "so"]),
        ("hmm ,", []),
        ("Does this make sense?Yes", ["Does this make sense?"]),
        ("does this make senses?", []),
        ("### Step 1", ["## Step"]),
        ("## steps", []),
        ("but wait", ["but", "but wait", "wait"]),
        ("now let me verify", ["now", "now let", "let me", "let me verify"]),
        ("step by step solution", ["step by step", "step by step solution"]),
        ("🙂so\u3000一so", ["so"]),
        ("need to\u00a0 find", ["need to", "need to\u00a0 find", "to\u00a0 find"]),
        ("", []),
    ],
)
def test_what_is_found(text, expected, tokenizer):
    assert found(text, tokenizer) == expected


def test_exactly_the_tokens_that_wrote_the_match_are_marked(byte_tokenizer):
    text = "also so, let\u2019s\n go"
    ids = byte_tokenizer.encode(text)
    marked = bytes(
        byte if planning else ord(".")
        for byte, planning in zip(text.encode(), PlanningMatcher(LIBRARY, byte_tokenizer).mask(ids), strict=True)
    )
    assert marked.decode() == ".....so..let\u2019s...."


def test_white_space_alone_is_never_planning(byte_tokenizer):
    ids = byte_tokenizer.encode(" let \n me ")
    assert PlanningMatcher(LIBRARY, byte_tokenizer).mask(ids).int().tolist() == [0, 1, 1, 1, 0, 0, 0, 1, 1, 0]


def test_matches_cover_the_mask(tokenizer, compose):
    matcher = PlanningMatcher(LIBRARY, tokenizer)
    for seed in range(100):
        ids = tokenizer.encode(compose(random.Random(seed), 10), add_special_tokens=False)
        covered = torch.zeros(len(ids), dtype=torch.bool)
        for match in matcher.matches(ids):
            covered[match.start_token : match.end_token] = True
            assert matcher.mask(ids)[[match.start_token, match.end_token - 1]].all()
        text, spans = token_spans(ids, tokenizer)
        written = torch.tensor([not text[start:end].isspace() for start, end in spans], dtype=torch.bool)
        assert matcher.mask(ids).equal(covered & written)


def test_read_is_mask_matches_and_the_mask_without_one_word_grams(tokenizer, compose):
    matcher, pairs = PlanningMatcher(LIBRARY, tokenizer), PlanningMatcher(LIBRARY.subset(min_words=2), tokenizer)
    shares = set()
    for seed in range(50):
        ids = tokenizer.encode(compose(random.Random(seed), seed % 12), add_special_tokens=False)
        marked = matcher.read(ids)
        assert marked.planning.equal(matcher.mask(ids))
        assert marked.multiword.equal(pairs.mask(ids))
        assert marked.matches == matcher.matches(ids)
        shares.add(bool(marked.multiword.sum() < marked.planning.sum()))
    assert shares == {True, False}


def test_special_added_and_unknown_tokens_are_walls_and_never_planning(tokenizer):
    library = GramLibrary("mine", (Gram("let me"), Gram("think"), Gram("im_end"), Gram("\ufffd so")))
    end, think = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<think>"])
    let, me = tokenizer.encode("let"), tokenizer.encode(" me")
    matcher = PlanningMatcher(library, tokenizer)
    assert [match.gram.text for match in matcher.matches(let + me)] == ["let me"]
    for wall in (end, think, len(tokenizer) + 5):
        assert not matcher.mask([*let, wall, *me, wall]).any()
    assert not matcher.mask([len(tokenizer), *tokenizer.encode(" so")]).any()


def test_a_stop_token_of_ones_own_is_never_planning(byte_tokenizer):
    ids = byte_tokenizer.encode("let me")
    matcher = PlanningMatcher(LIBRARY, byte_tokenizer, stop_ids=[ids[-1]])
    assert not matcher.mask(ids).any()


def test_no_tokens_no_mask(tokenizer):
    mask = PlanningMatcher(LIBRARY, tokenizer, skip_math=True, parts="answer").mask([])
    assert mask.shape == (0,)
    assert mask.dtype == torch.bool


@pytest.mark.parametrize(
    ("text", "regions"),
    [
        ("so $x so$ so", ["$x so$"]),
        ("so $$\nx so\n$$ so", ["$$\nx so\n$$"]),
        (r"so \(so\) so \[so\] so", [r"\(so\)", r"\[so\]"]),
        (r"so \[so, cut off", [r"\[so, cut off"]),
        ("so ```py\nso\n``` so", ["```py\nso\n```"]),
        (r"so \boxed{\frac{1}{so} \} so} so", [r"\boxed{\frac{1}{so} \} so}"]),
        (r"so \boxed{so", [r"\boxed{so"]),
        (r"\boxed{so \boxed{so} so} so", [r"\boxed{so \boxed{so} so}"]),
        ("$5 so we pay $10 so", []),
        ("it costs $5.\n\nSo 3$ more", []),
        ("$5 so,$6 so", []),
        ("$5 so $ so", []),
        (r"\$5 so 5\$", []),
        (r"$\text{price so \$}$ so", [r"$\text{price so \$}$"]),
    ],
)
def test_skip_math_leaves_out_formulae_code_and_boxes(text, regions, tokenizer):
    assert [text[start:end] for start, end in math_regions(text)] == regions
    outside = text
    for region in regions:
        outside = outside.replace(region, "|")
    assert found(text, tokenizer, skip_math=True) == found(outside, tokenizer)
    assert len(found(text, tokenizer)) > 0


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("<think>so, wait</think>thus", ["so", "wait"], ["thus"]),
        ("so, wait</think>thus", ["so", "wait"], ["thus"]),
        ("so, wait <answer>thus</answer>", ["so", "wait"], ["thus"]),
        ("<think>so</think> thus <answer>but</answer>", ["so"], ["thus", "but"]),
        ("so, thus", ["so", "thus"], []),
    ],
)
def test_parts_of_a_response(text, thinking, answer, tokenizer):
    assert found(text, tokenizer, parts="thinking") == thinking
    assert found(text, tokenizer, parts="answer") == answer
    assert found(text, tokenizer) == thinking + answer


def test_a_match_that_reaches_over_a_border_belongs_to_neither_side(tokenizer):
    library = GramLibrary("mine", (Gram("so <answer> thus"), Gram("so $x"), Gram("y$ thus"), Gram("wait")))
    assert found("so <answer> thus wait", tokenizer, library) == ["so <answer> thus", "wait"]
    assert found("so <answer> thus wait", tokenizer, library, parts="thinking") == []
    assert found("so <answer> thus wait", tokenizer, library, parts="answer") == ["wait"]
    assert found("so $x + y$ thus wait", tokenizer, library) == ["so $x", "y$ thus", "wait"]
    assert found("so $x + y$ thus wait", tokenizer, library, skip_math=True) == ["wait"]


def test_an_unknown_part_is_refused(tokenizer):
    with pytest.raises(UserError, match="thoughts"):
        PlanningMatcher(LIBRARY, tokenizer, parts="thoughts")  # pyright: ignore


def test_planning_mask_is_the_matchers(tokenizer):
    ids = tokenizer.encode("So $so$ far", add_special_tokens=False)
    expected = PlanningMatcher(LIBRARY, tokenizer, skip_math=True).mask(ids)
    assert planning_mask(torch.tensor(ids), tokenizer, LIBRARY, skip_math=True).equal(expected)
    assert 0 < expected.sum() < len(ids)


def test_mask_equals_the_slow_reference_with_the_tiny_vlms_tokenizer(compose, slow_mask):
    if not (ROOT / "assets/tiny_vlm/tokenizer.json").exists():
        pytest.skip("assets/tiny_vlm has no tokenizer yet")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets/tiny_vlm")
    rng, matcher = random.Random(0), PlanningMatcher(LIBRARY, tokenizer)
    for _ in range(200):
        ids = damage(rng, tokenizer.encode(compose(rng, 10), add_special_tokens=False), tokenizer)
        assert matcher.mask(ids).tolist() == slow_mask(ids, tokenizer, GRAMS)


def test_real_responses_equal_the_slow_reference_at_a_plausible_density(tokenizer, slow_mask, real_data):
    source = real_data / "rl_outputs_r1v" / "geoqa_test_qwen2vl_7b_instruct_legacy.json.gz"
    results = json.loads(gzip.decompress(source.read_bytes()))["results"][:150]
    matcher, planning, total = PlanningMatcher(LIBRARY, tokenizer), 0, 0
    for result in results:
        ids = tokenizer.encode(result["model_output"], add_special_tokens=False)
        mask = matcher.mask(ids)
        assert mask.tolist() == slow_mask(ids, tokenizer, GRAMS)
        planning, total = planning + int(mask.sum()), total + len(ids)
    assert 0.02 < planning / total < 0.12
