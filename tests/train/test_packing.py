"""Flat rows against one response at a time through the stock model: log-probs, entropies, loss and every gradient."""

import random
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from made_groups import TEMPERATURE, make_groups, make_policy

from mmhicra.config import ModelConfig
from mmhicra.core.records import Group
from mmhicra.train.update.losses import Totals, token_weights
from mmhicra.train.update.packing import fill_rows, pack, split_groups
from mmhicra.train.update.policy import Policy
from mmhicra.vlm.family import FAMILIES
from mmhicra.vlm.features import FrozenVision
from mmhicra.vlm.loading import load_policy

ENTROPY_WEIGHT = 0.1
RELATIVE = 1e-5
IMAGES = (0, 1, 3)

groups_of = st.lists(
    st.tuples(st.sampled_from(IMAGES), st.lists(st.integers(1, 9), min_size=1, max_size=4)), min_size=1, max_size=3
)
"""Groups as (images of the prompt, length of each response)."""


@pytest.fixture(scope="module")
def load(tiny_model_folder):
    """(family, LoRA or all of it trained, gradient checkpointing) -> the model."""

    @cache
    def loaded(family, lora, checkpointing):
        freeze = {"vision_tower": lora, "merger": lora}
        options = {
            "freeze": freeze,
            "checkpointing": checkpointing,
            "lora": {"rank": 4, "alpha": 4} if lora else None,
        }
        model = load_policy(ModelConfig(path=str(tiny_model_folder(family)), family=family, **options))
        torch.manual_seed(0)
        for name, parameter in model.model.named_parameters():
            if "lora_B" in name:  # zero at first, which would hide the gradient of lora_A
                torch.nn.init.normal_(parameter, std=0.1)
        return model

    return loaded


def plain(model, prompt, completion):
    """Log-probs and entropies of one response behind its prompt, through the stock model."""
    ids = torch.cat([prompt.expanded_ids, torch.tensor(completion.ids)]).unsqueeze(0)
    types = torch.cat([prompt.image_positions.int(), torch.zeros(len(completion), dtype=torch.int32)]).unsqueeze(0)
    images = (
        {"pixel_values": prompt.vision.pixel_values, "image_grid_thw": prompt.vision.grid_thw} if prompt.images else {}
    )
    logits = model.model(input_ids=ids, mm_token_type_ids=types, **images).logits[0, len(prompt) - 1 : -1]
    allowed = torch.ones(logits.shape[-1], dtype=torch.bool).index_fill(0, torch.tensor(model.banned_token_ids), False)
    logprobs = (logits / TEMPERATURE).masked_fill(~allowed, float("-inf")).log_softmax(-1)
    entropy = -(logprobs[:, allowed].exp() * logprobs[:, allowed]).sum(-1)
    return logprobs.gather(-1, torch.tensor(completion.ids).unsqueeze(-1)).squeeze(-1), entropy


def assert_close(found, expected, scale=None):
    """To 1e-5 of `scale`, which is that of the largest expected value."""
    scale = scale or expected.abs().max().item()
    torch.testing.assert_close(found, expected, atol=RELATIVE * scale, rtol=0)


def assert_equal_to_one_by_one(model, groups, budget, attention="segments", vision=None, plain_rows=False):
    """Log-probs, entropies, loss and gradients of `groups` in rows of `budget` tokens."""
    policy = make_policy(model, attention, plain=plain_rows)
    completions = [completion for group in groups for completion in group.completions]
    totals = Totals(sum(map(len, completions)), len(completions), 16)
    trained = {name: p for name, p in model.model.named_parameters() if p.requires_grad}

    rowed = groups if vision is None else [Group(vision.add_features([g.prompt])[0], g.completions) for g in groups]
    loss, packed = torch.zeros(()), {}
    for row in fill_rows(split_groups(rowed, budget, plain_rows), budget, plain=plain_rows):
        batch = pack(row)
        stats = policy(batch)
        weights = token_weights(batch.sequence, "sequence_mean", totals)
        loss = loss - (weights * (stats.logprobs * batch.advantages + ENTROPY_WEIGHT * stats.entropy)).sum()
        here = [completion for part in row for completion in part.completions]
        pairs = torch.stack([stats.logprobs, stats.entropy]).split([len(c) for c in here], dim=1)
        packed |= dict(zip(map(id, here), pairs, strict=True))
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)

    plain_loss, terms = torch.zeros(()), 0.0
    for group in groups:
        for completion in group.completions:
            logprobs, entropy = plain(model, group.prompt, completion)
            assert_close(packed[id(completion)][0], logprobs)
            assert_close(packed[id(completion)][1], entropy)
            own = (logprobs * completion.advantages + ENTROPY_WEIGHT * entropy).mean()
            plain_loss = plain_loss - own / len(completions)
            terms += (logprobs * completion.advantages).detach().abs().mean().item() / len(completions)
    assert_close(loss, plain_loss, scale=terms)  # the terms cancel
    expected = torch.autograd.grad(plain_loss, list(trained.values()), allow_unused=True)
    largest = max(gradient.abs().max() for gradient in expected if gradient is not None)
    for name, found, wanted in zip(trained, gradients, expected, strict=True):
        if wanted is None:
            assert found is None or not found.any(), name
        else:
            error = (found - wanted).norm() / max(wanted.norm(), 1e-2 * largest)
            assert error < RELATIVE, f"{name}: {error}"


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["none", "full"])
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(shapes=[(3, [5, 1, 9]), (0, [1]), (1, [2, 2, 2, 2])], split=False)
@example(shapes=[(1, [4, 9, 1]), (0, [3, 3])], split=True)
@given(shapes=groups_of, split=st.booleans())
def test_rows_equal_one_by_one(load, family, lora, checkpointing, shapes, split):
    model = load(family, lora, checkpointing)
    groups = make_groups(model, shapes)
    budget = max(map(widest, groups)) if split else 10**6
    vision = FrozenVision(model.model, model.family, "fp32") if lora else None
    assert_equal_to_one_by_one(model, groups, budget, vision=vision)


def widest(group):
    """A budget that holds the prompt and its longest response, and nothing more."""
    return len(group.prompt) + group.prompt.patches + max(map(len, group.completions))


def test_the_dense_reference_equals_one_by_one(load):
    model = load("qwen3_vl", False, "none")
    assert_equal_to_one_by_one(model, make_groups(model, [(1, [3, 5]), (0, [2, 1])]), 10**6, attention="dense")


def test_rows_stay_within_the_budget_and_lose_nothing(load):
    model = load("qwen2_5_vl", True, "none")
    groups = make_groups(model, [(count, [3, 9, 1, 7, 7]) for count in IMAGES * 2])
    budget = max(map(widest, groups)) + 10
    parts = split_groups(groups, budget)
    assert len(parts) > len(groups)
    rows = fill_rows(parts, budget)
    assert all(sum(part.size for part in row) <= budget for row in rows)
    kept = sorted(id(c) for row in rows for part in row for c in part.completions)
    assert kept == sorted(id(c) for group in groups for c in group.completions)


def test_more_rows_can_be_asked_for(load):
    groups = make_groups(load("qwen2_5_vl", True, "none"), [(0, [3, 3])] * 3)
    parts = split_groups(groups, 10**6)
    assert [len(row) for row in fill_rows(parts, 10**6)] == [3]
    assert [len(row) for row in fill_rows(parts, 10**6, at_least=2)] == [2, 1]
    assert [len(row) for row in fill_rows(parts, 10**6, at_least=7)] == [1, 1, 1]
    assert fill_rows([], 100) == []


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_plain_rows_equal_one_response_at_a_time(family, load):
    """As shared rows do, above: several images in a prompt, none, and one; the vision tower is trained too."""
    model = load(family, False, "none")
    groups = make_groups(model, [(3, [5, 1, 9]), (0, [4, 2]), (1, [3])])
    assert_equal_to_one_by_one(model, groups, 10**6, plain_rows=True)


def test_a_policy_of_plain_rows_refuses_shared_ones(load):
    model = load("qwen2_5_vl", True, "none")
    groups = make_groups(model, [(0, [4, 2]), (1, [3])])
    assert [len(row) for row in fill_rows(split_groups(groups, 10**6, True), 10**6, plain=True)] == [1, 1, 1]
    policy = make_policy(model, plain=True)
    for row in ([part] for part in split_groups(groups[:1], 10**6)), [split_groups(groups, 10**6, True)]:
        with pytest.raises(ValueError, match="a plain row is one prompt and one response"):
            policy(pack(next(iter(row))))


def test_an_image_costs_its_patches_until_it_has_been_looked_at(load):
    model = load("qwen2_5_vl", True, "none")
    (group,) = make_groups(model, [(1, [4])])
    seen = FrozenVision(model.model, model.family, "fp32").add_features([group.prompt])
    (unseen_part,) = split_groups([group], 10**6)
    (seen_part,) = split_groups([Group(seen[0], group.completions)], 10**6)
    assert seen_part.size == len(group.prompt) + 4
    assert unseen_part.size == seen_part.size + int(group.prompt.vision.grid_thw.prod())


def test_a_response_that_cannot_fit_is_named(load):
    groups = make_groups(load("qwen2_5_vl", True, "none"), [(1, [4])])
    with pytest.raises(ValueError, match="problem p0: .* exceed train.tokens_per_micro_batch"):
        split_groups(groups, 10)


def test_a_batch_without_images_looks_at_a_blank_one_if_told(load):
    model = load("qwen3_vl", False, "none")
    batch = pack(split_groups(make_groups(model, [(0, [3, 2])]), 10_000))
    options = {"temperature": TEMPERATURE, "banned_ids": [], "chunk": 64}
    plain_stats, looking = (
        Policy(model.model, model.family, **options, always_runs_vision=always)(batch) for always in (False, True)
    )
    assert torch.equal(plain_stats.logprobs, looking.logprobs)
    tower = [p for p in model.family.vision_tower(model.model).parameters() if p.requires_grad]
    gradients = torch.autograd.grad(looking.logprobs.sum(), tower)
    assert tower
    assert all(gradient.abs().max() == 0 for gradient in gradients)


def test_a_group_at_the_budget_stays_whole_and_a_response_one_over_it_is_refused(load):
    model = load("qwen2_5_vl", True, "none")
    (group,) = make_groups(model, [(0, [4, 6])])
    whole = len(group.prompt) + 10
    assert [len(part.completions) for part in split_groups([group], whole)] == [2]
    assert [len(part.completions) for part in split_groups([group], whole - 1)] == [1, 1]
    longest = len(group.prompt) + 6
    assert len(split_groups([group], longest)) == 2
    with pytest.raises(ValueError, match=f"6 response tokens and 0 patches exceed .* \\({longest - 1}\\)"):
        split_groups([group], longest - 1)


def test_the_largest_part_is_placed_first_so_that_few_rows_do(load):
    """Two small parts and one as large as both: small ones first would leave no row for the large one."""
    model = load("qwen2_5_vl", True, "none")
    prompt = len(make_groups(model, [(0, [1])])[0].prompt)
    parts = split_groups(make_groups(model, [(0, [1]), (0, [1]), (0, [prompt + 2])]), 10**6)
    assert [part.size for part in parts] == [prompt + 1, prompt + 1, 2 * prompt + 2]
    assert [len(row) for row in fill_rows(parts, 2 * prompt + 2)] == [1, 2]


@pytest.mark.parametrize("seed", range(50))
def test_any_sizes_stay_within_any_budget_evenly(seed):
    """Only the size of a part decides where it goes."""
    rng = random.Random(seed)
    budget = rng.randint(5, 60)
    parts: list[Any] = [SimpleNamespace(size=rng.randint(1, budget)) for _ in range(rng.randint(1, 30))]
    rows = fill_rows(parts, budget)
    assert sorted(map(id, (part for row in rows for part in row))) == sorted(map(id, parts))
    filled = [sum(part.size for part in row) for row in rows]
    assert max(filled) <= budget
    assert max(filled) - min(filled) <= max(part.size for part in parts)
    assert -(-sum(filled) // budget) <= len(rows) <= len(parts)
