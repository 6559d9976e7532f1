"""Mistakes found in other implementations of HICRA, each with the test that fails on it.

P, C, D and M are the files test_planning.py, test_credit.py, test_grams.py and test_mining.py beside this one; E, L
and A are end_to_end/test_methods.py, train/test_losses.py and rewards/test_answers.py; no letter: this file.

A port to a trainer's library
 1 mask from the grams' own token ids      test_a_gram_is_found_however_it_is_tokenised
 2 no word boundary                        test_nothing_is_found_inside_a_word
 3 last piece merges with what follows     test_a_gram_is_found_before_anything_that_merges_with_its_end
 4 grams unused by default                 test_by_default_grams_are_used_and_entropy_is_not
 5 groups rebuilt from positions           test_credit_follows_the_group_not_the_position
 6 batch no multiple of the group size     test_a_group_of_any_size_gets_its_credit
 7 factor compounds on reuse               C test_assigning_twice_is_assigning_once; test_reuse_does_not_compound
 8 divided by the standard deviation       test_by_default_advantages_are_centred_and_not_divided
 9 a second loss path ignores the credit   E test_a_method_trains_otherwise_than_grpo_and_resumes_to_the_bit
10 miner: case, punctuation, all clusters,  M test_planted_strategies_are_mined_and_content_is_not,
   wrong solutions, final answers           M test_only_correct_solutions_and_no_questions_are_mined,
                                           M test_refused_solutions
11 mined file not read, preset instead     test_a_list_that_cannot_be_read_is_never_replaced_by_another,
                                           M test_two_runs_write_the_same_file_which_loads_and_matches
12 semantic entropy with the mask only,    E test_semantic_entropy_is_measured_for_every_method_over_the_whole_step
   per micro-batch
14 tool output marked                      test_what_the_policy_did_not_write_cannot_carry_a_gram
 - chained indexing writes to a copy       test_advantages_really_change

A port to another array library, and its successor
 2 18 hand-picked grams by default          test_the_default_list_is_a_published_one
 3 pieces re-joined with spaces            test_split_words_and_split_apostrophes_are_read_as_written
 4 pieces of a word taken for words        test_nothing_is_found_inside_a_word
 5 byte-level characters taken for text    test_characters_outside_ascii_are_text_not_byte_symbols
 6 marks up to a window before the gram    test_only_the_tokens_of_the_gram_are_marked
 7 window of five tokens                   test_a_gram_may_need_any_number_of_tokens
 8 other weights stacked on top            test_hicra_is_grpo_and_the_mask_and_nothing_else
 9 match across the border of two          test_no_match_crosses_from_one_completion_to_the_next
10 miner: DF bounds, top 3 of each cluster  M test_cluster_df_and_selection_equal_the_reference,
                                           M test_ties_at_the_edge_are_kept_and_the_share_is_of_clusters

A notebook
 - prompt decoded too                      test_the_prompt_cannot_mark_a_response
 - whole sequence marked                   test_only_the_tokens_of_the_gram_are_marked
 - padding marked                          test_padding_and_end_tokens_are_never_planning
 - substring match                         test_nothing_is_found_inside_a_word
 - advantages clamped                      test_large_advantages_are_not_clamped
 - no ratio, no clip                       L test_loss_equals_a_loop
 - answer read from prompt and response    A test_what_is_extracted_stands_in_the_final_text

Requirements: exact spans: 1 and 3 above, P; boundaries and union: P; no special tokens: P
test_special_added_and_unknown_tokens_are_walls_and_never_planning; one torch.where: test_advantages_really_change;
loud on an empty file, list hash: D; alpha 0, signs, no variance: C; left and right padding, image tokens:
test_padding_and_end_tokens_are_never_planning, test_image_tokens_are_never_planning; coverage on recorded rollouts:
P test_real_responses_equal_the_slow_reference_at_a_plausible_density.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mmhicra.config import HicraConfig
from mmhicra.core.errors import UserError
from mmhicra.core.records import Completion, Group, Problem, Prompt, RewardRecord
from mmhicra.hicra.credit import assign_credit, hicra_advantages
from mmhicra.hicra.grams import Gram, GramLibrary
from mmhicra.hicra.planning import PlanningMatcher, planning_mask

LIBRARY = GramLibrary.load("published_249")
TINY = AutoTokenizer.from_pretrained(Path(__file__).parents[2] / "assets/tiny_vlm")


def ids_of(text: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def found(text: str, tokenizer: PreTrainedTokenizerFast, library: GramLibrary = LIBRARY) -> list[str]:
    matches = PlanningMatcher(library, tokenizer).matches(ids_of(text, tokenizer))
    return [text[match.start_char : match.end_char] for match in matches]


def marked(ids: list[int], tokenizer: PreTrainedTokenizerFast, library: GramLibrary) -> str:
    """What the planning tokens wrote."""
    mask = planning_mask(ids, tokenizer, library).tolist()
    return tokenizer.decode([one for one, planning in zip(ids, mask, strict=True) if planning])


def group(rewards: list[float], masks: list[list[bool]], prompt: str = "?") -> Group:
    zeros = torch.zeros(3, 1, dtype=torch.int64)
    it = Prompt(Problem("p", prompt, (), "1"), [1], torch.tensor([1]), zeros, torch.tensor([False]))
    completions = []
    for reward, mask in zip(rewards, masks, strict=True):
        completion = Completion([5] * len(mask), [-1.0] * len(mask), "stop", "")
        completion.reward = RewardRecord(None, "none", "1", "no-answer", "", {}, reward)
        completion.planning = torch.tensor(mask, dtype=torch.bool)
        completions.append(completion)
    return Group(it, completions)


def credited(rewards: list[float], masks: list[list[bool]]) -> list[list[float]]:
    it = group(rewards, masks)
    assign_credit(it, "hicra", 0.2)
    return [completion.advantages.tolist() for completion in it.completions]  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize(
    "text", ["let me", "Let me", " let me", "x = 1. Let me", "\nlet me", "(let me)", "LET ME", "**Let me**"]
)
def test_a_gram_is_found_however_it_is_tokenised(text, tokenizer):
    library = GramLibrary("mine", (Gram("let me"),))
    assert [hit.lower() for hit in found(text, tokenizer, library)] == ["let me"]


@pytest.mark.parametrize(
    "text", ["some also sober", "nowhere known", "buttons", "nextdoor", "waiter", "thusly", "senses so_on"]
)
def test_nothing_is_found_inside_a_word(text, tokenizer):
    assert found(text, tokenizer) == []
    pieces = [token for word in text.split() for letter in word for token in ids_of(letter, tokenizer)]
    assert not planning_mask(pieces, tokenizer, LIBRARY).any()


@pytest.mark.parametrize(
    ("text", "gram"),
    [("Hmm, no", "hmm,"), ("hmm,2", "hmm,"), ("so, yes.", "so, yes"), ("## Step 1", "## step"), ("wait...", "wait"),
     ("therefore,\n", "therefore"), ("does this make sense?!", "does this make sense?"), ("thus:$x$", "thus")],
)  # fmt: skip
def test_a_gram_is_found_before_anything_that_merges_with_its_end(text, gram, tokenizer):
    assert gram in [hit.lower() for hit in found(text, tokenizer)]


def test_by_default_grams_are_used_and_entropy_is_not():
    assert HicraConfig().grams == "published_249"
    assert inspect.signature(assign_credit).parameters["method"].default == "hicra"
    assert credited([1.0, 0.0], [[True, False], [False, False]])[0] == pytest.approx([0.6, 0.5])


def test_the_default_list_is_a_published_one():
    assert len(GramLibrary.load(HicraConfig().grams)) == 249


def test_credit_follows_the_group_not_the_position():
    rewards, masks = [1.0, 0.0, 0.0, 1.0, 1.0], [[True], [True, False], [False], [True, True], [False, True]]
    order = [3, 0, 4, 2, 1]
    shuffled = credited([rewards[i] for i in order], [masks[i] for i in order])
    assert shuffled == [credited(rewards, masks)[i] for i in order]


@pytest.mark.parametrize("size", [2, 3, 5, 8, 12])
def test_a_group_of_any_size_gets_its_credit(size):
    result = credited([1.0] + [0.0] * (size - 1), [[True, False]] * size)
    assert result[0] == pytest.approx([1.2 * (1 - 1 / size), 1 - 1 / size])
    assert result[1:] == [pytest.approx([-0.8 / size, -1 / size])] * (size - 1)


def test_reuse_does_not_compound():
    it = group([1.0, 0.0], [[True, False], [True, True]])
    for _ in range(4):
        assign_credit(it, "hicra", 0.2)
    assert torch.cat([c.advantages for c in it.completions]).tolist() == pytest.approx([0.6, 0.5, -0.4, -0.4])


def test_by_default_advantages_are_centred_and_not_divided():
    assert credited([4.0, 0.0, 0.0, 0.0], [[False]] * 4) == [[3.0], [-1.0], [-1.0], [-1.0]]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"strategic_grams": ["so"], "metadata": {}}', '["so", null]', "so"]
)
def test_a_list_that_cannot_be_read_is_never_replaced_by_another(content, tmp_path):
    path = tmp_path / "mined.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"mined\.json"):
        GramLibrary.load(path)
    LIBRARY.merge(GramLibrary("mine", (Gram("eureka"),))).save(path)
    assert Gram("eureka") in GramLibrary.load(path).grams
    path.write_text(json.dumps(["eureka"]))
    assert GramLibrary.load(path).grams == (Gram("eureka"),)


def test_what_the_policy_did_not_write_cannot_carry_a_gram(tokenizer):
    """A tool's output stands between structural tokens, and text on either side of one does not join."""
    library = GramLibrary("mine", (Gram("let me"),))
    wall = tokenizer.convert_tokens_to_ids("<think>")
    ids = [*ids_of("let", tokenizer), wall, *ids_of(" me", tokenizer)]
    assert not planning_mask(ids, tokenizer, library).any()
    assert planning_mask([i for i in ids if i != wall], tokenizer, library).any()


def test_advantages_really_change():
    advantages, mask = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([True, False, True, False])
    assert hicra_advantages(advantages, mask, 0.25).tolist() == [1.25, 1.0, -0.75, -1.0]


@pytest.mark.parametrize(
    "text", ["that can't be right", "That can’t be right", "this isn’t\nleading anywhere", "¡let's backtrack!"]
)
def test_split_words_and_split_apostrophes_are_read_as_written(text, tokenizer):
    letters = [token for letter in text for token in ids_of(letter, tokenizer)]  # every letter a piece of its own
    grams = [match.gram.text for match in PlanningMatcher(LIBRARY, tokenizer).matches(letters)]
    longest = max(grams, key=len)
    assert longest in ("that can't be right", "this isn't leading anywhere", "let's backtrack")


def test_characters_outside_ascii_are_text_not_byte_symbols(tokenizer):
    library = GramLibrary("mine", (Gram("na\u00efve idea"), Gram("因此"), Gram("step one")))
    assert found("A naïve idea: 因此, step\none", tokenizer, library) == ["naïve idea", "因此", "step\none"]
    assert found("nÃ¯ve idea âĸ step Ċone", tokenizer, library) == []


def test_only_the_tokens_of_the_gram_are_marked(byte_tokenizer):
    ids = ids_of("first add 3 then let me check x = 2 and go on", byte_tokenizer)
    assert marked(ids, byte_tokenizer, GramLibrary("mine", (Gram("let me check"),))) == "letmecheck"


def test_a_gram_may_need_any_number_of_tokens(byte_tokenizer):
    ids = ids_of("an error in the thought process", byte_tokenizer)
    mask = planning_mask(ids, byte_tokenizer, LIBRARY)
    assert len(ids) == 31
    assert int(mask.sum()) == 26  # all but the five spaces, which are tokens here


def test_hicra_is_grpo_and_the_mask_and_nothing_else():
    """Rewards and masks being equal, log-probs, entropies and texts make no difference."""
    plain, other = (group([1.0, 0.0], [[True, False], [False, True]]) for _ in range(2))
    for completion in other.completions:
        completion.logprobs = [-9.0] * len(completion)
        completion.text = "wait, no"
    for it in (plain, other):
        assign_credit(it, "hicra", 0.2)
    assert [c.advantages.tolist() for c in plain.completions] == [c.advantages.tolist() for c in other.completions]


def test_no_match_crosses_from_one_completion_to_the_next(tokenizer):
    library = GramLibrary("mine", (Gram("let me"),))
    first, second = ids_of("so let", tokenizer), ids_of(" me see", tokenizer)
    matcher = PlanningMatcher(library, tokenizer)
    assert matcher.mask(first + second).any()
    assert not matcher.mask(first).any()
    assert not matcher.mask(second).any()


def test_the_prompt_cannot_mark_a_response(tokenizer):
    """The matcher is given the response's ids; it has no place for a prompt, and a batch of rows is an error."""
    assert list(inspect.signature(PlanningMatcher.mask).parameters) == ["self", "ids"]
    assert not planning_mask(ids_of("x = 2", tokenizer), tokenizer, LIBRARY).any()
    with pytest.raises(ValueError, match="one response at a time"):
        planning_mask(torch.tensor([[1, 2], [3, 4]]), tokenizer, LIBRARY)


@pytest.mark.parametrize("special", ["<|endoftext|>", "<|im_end|>"])
def test_padding_and_end_tokens_are_never_planning(special, tokenizer):
    library = GramLibrary("mine", (Gram("let me"), Gram("endoftext"), Gram("im_end"), Gram(special)))
    pad, text = tokenizer.convert_tokens_to_ids(special), ids_of("let me", tokenizer)
    plain = planning_mask(text, tokenizer, library).tolist()
    assert any(plain)
    assert planning_mask([pad] * 3 + text, tokenizer, library).tolist() == [False] * 3 + plain
    assert planning_mask(text + [pad] * 3, tokenizer, library).tolist() == plain + [False] * 3
    with pytest.raises(ValueError, match="padding"):
        planning_mask([*text, -100], tokenizer, library)


def test_image_tokens_are_never_planning():
    names = ["<|vision_start|>", "<|image_pad|>", "<|image_pad|>", "<|vision_end|>"]
    image = TINY.convert_tokens_to_ids(names)
    assert None not in image
    assert len(set(image)) == 3
    library = GramLibrary("mine", (Gram("let me"), Gram("image_pad"), Gram("vision_start"), Gram("<|image_pad|>")))
    text = ids_of("let me", TINY)
    mask = planning_mask([*image, *text, *image], TINY, library).tolist()
    assert mask == [False] * 4 + planning_mask(text, TINY, library).tolist() + [False] * 4
    assert any(mask)


def test_large_advantages_are_not_clamped():
    assert credited([100.0, 0.0], [[True, False], [True, False]]) == [
        pytest.approx([60, 50]),
        pytest.approx([-40, -50]),
    ]
