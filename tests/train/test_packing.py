"""The shared-prefix row against one response at a time through the stock model: log-probs, loss and gradients."""

import random

import pytest
import torch
from PIL import Image

from mmhicra.config import DataConfig, ModelConfig
from mmhicra.records import Completion, Group, Problem, ProblemImage
from mmhicra.train.losses import Totals, token_weights
from mmhicra.train.packing import batch_rows, make_rows, pack, shared_prefix_mask
from mmhicra.train.policy import Policy
from mmhicra.vlm.families import FAMILIES
from mmhicra.vlm.loading import load_policy
from mmhicra.vlm.processing import PromptBuilder

TEMPERATURE = 0.8
QUESTIONS = {"no image": 0, "one image": 1, "two images": 2}


def make_groups(model, completions=3, longest=12):
    """Groups over text-only, one-image and two-image prompts, with random responses and advantages."""
    builder = PromptBuilder(model.processor, model.family, model.config, DataConfig())
    rng = random.Random(0)
    groups = []
    for name, count in QUESTIONS.items():
        images = tuple(
            ProblemImage(Image.effect_noise((60 + 40 * i, 90), 60 + i).convert("RGB"), f"{i}.png") for i in range(count)
        )
        problem = Problem(id=name, question="<image>" * count + f"What is this, {name}?", images=images, answer="1")
        group = Group(builder.build(problem), [])
        for _ in range(completions):
            length = rng.randint(1, longest)
            ids = [rng.randrange(5, 200) for _ in range(length)]
            advantages = torch.tensor([rng.uniform(-1, 1) for _ in range(length)])
            group.completions.append(Completion(ids, [0.0] * length, "length", "", advantages=advantages))
        groups.append(group)
    return groups


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def model(request, tiny_model_folder):
    config = ModelConfig(path=str(tiny_model_folder(request.param)), family=request.param)
    return load_policy(config.model_copy(update={"freeze": config.freeze.model_copy(update={"vision_tower": False})}))


def plain_logprobs(model, prompt, completion, banned):
    """One response behind its prompt, through the stock model."""
    ids = torch.cat([prompt.expanded_ids, torch.tensor(completion.ids)]).unsqueeze(0)
    types = torch.cat([prompt.image_positions.int(), torch.zeros(len(completion), dtype=torch.int32)]).unsqueeze(0)
    images = {"pixel_values": prompt.pixel_values, "image_grid_thw": prompt.image_grid_thw} if prompt.images else {}
    logits = model.model(input_ids=ids, mm_token_type_ids=types, **images).logits[0, len(prompt) - 1 : -1]
    logits = (logits / TEMPERATURE).index_fill(-1, banned, float("-inf"))
    return logits.log_softmax(-1).gather(-1, torch.tensor(completion.ids).unsqueeze(-1)).squeeze(-1)


def gradients(model, loss):
    parameters = [p for p in model.model.parameters() if p.requires_grad]
    return torch.autograd.grad(loss, parameters, allow_unused=True)


@pytest.mark.parametrize("whole", [True, False], ids=["whole groups", "split groups"])
def test_shared_prefix_equals_one_by_one(model, whole):
    groups = make_groups(model)
    longest = max(len(group.prompt) + len(completion) for group in groups for completion in group.completions)
    budget = 100_000 if whole else longest
    policy = Policy(model.model, model.family, temperature=TEMPERATURE, banned_ids=model.banned_token_ids, chunk=7)
    totals = Totals(sum(len(c) for g in groups for c in g.completions), 9, 16)

    loss, packed = torch.zeros(()), {}
    batches = batch_rows(make_rows(groups, budget), budget)
    assert (sum(map(len, batches)) == len(groups)) == whole
    for rows in batches:
        batch = pack(rows, model.pad_token_id)
        stats = policy(batch)
        loss = loss - (token_weights(batch.sequence, "sequence_mean", totals) * stats.logprobs * batch.advantages).sum()
        completions = [c for row in rows for c in row.completions]
        packed |= dict(zip(map(id, completions), stats.logprobs.split([len(c) for c in completions]), strict=True))

    plain_loss = torch.zeros(())
    for group in groups:
        for completion in group.completions:
            logprobs = plain_logprobs(model, group.prompt, completion, policy.banned)
            torch.testing.assert_close(packed[id(completion)], logprobs, atol=1e-5, rtol=0)
            plain_loss = plain_loss - (logprobs * completion.advantages).mean() / 9
    torch.testing.assert_close(loss, plain_loss, atol=1e-5, rtol=1e-5)
    for own, plain in zip(gradients(model, loss), gradients(model, plain_loss), strict=True):
        torch.testing.assert_close(own, plain, atol=1e-5, rtol=1e-4)


def test_the_mask_lets_a_response_see_its_prompt_and_itself():
    segments = torch.tensor([[0, 0, 1, 1, 2, -1]])
    expected = [
        "x.....",
        "xx....",
        "xxx...",
        "xxxx..",
        "xx..x.",
        ".....x",
    ]
    mask = shared_prefix_mask(segments)[0, 0]
    assert ["".join("x" if seen else "." for seen in row) for row in mask.tolist()] == expected


def test_batches_stay_within_the_budget_and_lose_nothing(model):
    groups = make_groups(model, completions=5)
    rows = make_rows(groups, 400)
    for batch in batch_rows(rows, 400):
        assert max(map(len, batch)) * len(batch) <= 400
    kept = sorted(id(c) for batch in batch_rows(rows, 400) for row in batch for c in row.completions)
    assert kept == sorted(id(c) for group in groups for c in group.completions)


def test_a_response_that_cannot_fit_is_named(model):
    with pytest.raises(ValueError, match="problem one image: .* exceed train.tokens_per_micro_batch"):
        make_rows(make_groups(model)[1:2], 10)


def test_a_batch_without_images_looks_at_a_blank_one_if_told(model):
    batch = pack(make_rows(make_groups(model)[:1], 10_000), model.pad_token_id)
    options = {"temperature": TEMPERATURE, "banned_ids": [], "chunk": 64}
    plain, looking = (
        Policy(model.model, model.family, **options, looks_always=always)(batch) for always in (False, True)
    )
    assert torch.equal(plain.logprobs, looking.logprobs)
    tower = [p for p in model.family.vision_tower(model.model).parameters() if p.requires_grad]
    gradients = torch.autograd.grad(looking.logprobs.sum(), tower)
    assert tower
    assert all(gradient.abs().max() == 0 for gradient in gradients)
