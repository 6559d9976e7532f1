"""The embedded engine samples from the distribution it says it does, whatever else is in the batch."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmhicra.config import DataConfig, FreezeConfig, RolloutConfig
from mmhicra.core.errors import ConfigError
from mmhicra.rollout.engine import Sampling, request_seed, sampling_of
from mmhicra.rollout.hf.engine import HFEngine
from mmhicra.rollout.hf.sampling import draw, request_uniforms, sampling_logprobs
from mmhicra.train.collector import mask_truncated
from mmhicra.vlm.family import FAMILIES
from mmhicra.vlm.processing import PromptBuilder

pytestmark = pytest.mark.slow

QUESTIONS = (
    ("How many sides has a triangle, and how many has a square?",),
    ("<image>What is x?", (100, 80)),
    ("Compare <image> with <image><image>.", (84, 84), (150, 60), (56, 112)),
    ("And?",),
)


@pytest.fixture
def scene(tiny_model, make_problem):
    """Family -> model, four prompts (text only, one image, several) and an engine."""

    def make(family, max_sequences=64):
        loaded = tiny_model(family)
        build = PromptBuilder(loaded.processor, loaded.family, loaded.config, DataConfig()).build
        prompts = [build(make_problem(*q, id=str(i))) for i, q in enumerate(QUESTIONS)]
        return loaded, prompts, engine_of(loaded, loaded.model, max_sequences)

    return make


def engine_of(loaded, model, max_sequences=64, precision="fp32"):
    return HFEngine(model, loaded.family, loaded.tokenizer, loaded.pad_token_id, max_sequences, precision)


def sampling_for(loaded, **options):
    rollout = RolloutConfig(**{"max_new_tokens": 12, **options})
    return sampling_of(rollout, loaded, n=3, temperature=options.get("temperature", 1.0))


@contextmanager
def boosted(loaded, boosts):
    """Add to the logits that leave the model's own head."""
    bias = torch.zeros(loaded.config.get_text_config().vocab_size)
    for token, boost in boosts.items():
        bias[token] = boost
    handle = loaded.family.lm_head(loaded.model).register_forward_hook(lambda module, args, logits: logits + bias)
    try:
        yield
    finally:
        handle.remove()


def stock_logits(model, prompt, completion):
    """The stock model's plain forward over prompt and response: (R, V) logits that predict the response."""
    ids = torch.cat([prompt.expanded_ids, torch.tensor(completion.ids)])
    kinds = torch.cat([prompt.image_positions.int(), torch.zeros(len(completion), dtype=torch.int32)])
    with torch.no_grad():
        logits = model(
            input_ids=ids[None],
            pixel_values=prompt.vision.pixel_values,
            image_grid_thw=prompt.vision.grid_thw,
            mm_token_type_ids=kinds[None],
        ).logits[0]
    return logits[len(prompt) - 1 : -1]


def exact_logprobs(loaded, model, prompt, completion, temperature=1.0):
    """(R,) log-probs of the response by the stock forward, under the distribution it was sampled from."""
    logits = stock_logits(model, prompt, completion) / temperature
    logits[:, loaded.banned_token_ids] = -torch.inf
    return logits.log_softmax(-1).gather(1, torch.tensor(completion.ids)[:, None])[:, 0]


def sampled_ids(groups):
    return [[completion.ids for completion in group.completions] for group in groups]


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_equal_the_stock_forward(family, scene):
    """Padding, shared caches, images, departures of finished rows: none of it may show."""
    loaded, prompts, engine = scene(family)
    sampling = sampling_for(loaded, temperature=0.7, max_new_tokens=90)
    with boosted(loaded, dict.fromkeys(sampling.stop_token_ids, 1.5)):
        groups = engine.generate(prompts, sampling, seed=1, step=2)
        expected = [[exact_logprobs(loaded, loaded.model, g.prompt, c, 0.7) for c in g.completions] for g in groups]
    assert [group.prompt for group in groups] == prompts
    lengths = {len(completion) for group in groups for completion in group.completions}
    assert len(lengths) > 5, "rows should end at different times"
    for group, rows in zip(groups, expected, strict=True):
        for completion, row in zip(group.completions, rows, strict=True):
            torch.testing.assert_close(torch.tensor(completion.logprobs), row, atol=1e-5, rtol=0)


def test_adapters_take_part(scene):
    """A peft-wrapped model is sampled with its adapters: log-probs equal the wrapped model's own forward."""
    loaded, prompts, plain = scene("qwen2_5_vl")
    sampling = sampling_for(loaded)
    before = plain.generate(prompts, sampling, seed=1, step=0)
    options = peft.LoraConfig(r=4, target_modules=r".*language_model.*\.q_proj", init_lora_weights=False)
    wrapped = peft.get_peft_model(loaded.model, options)
    try:
        groups = engine_of(loaded, wrapped).generate(prompts, sampling, seed=1, step=0)
        assert sampled_ids(groups) != sampled_ids(before)
        completion = groups[1].completions[0]
        expected = exact_logprobs(loaded, wrapped, prompts[1], completion)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-5, rtol=0)
    finally:
        wrapped.unload()
        loaded.family.freeze(loaded.model, FreezeConfig())
    assert sampled_ids(plain.generate(prompts, sampling, seed=1, step=0)) == sampled_ids(before)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_batch_changes_nothing(family, scene):
    loaded, prompts, engine = scene(family)
    sampling = sampling_for(loaded, max_new_tokens=40)
    together = sampled_ids(engine.generate(prompts, sampling, seed=5, step=3))
    alone = [sampled_ids(engine.generate([prompt], sampling, seed=5, step=3))[0] for prompt in prompts]
    backwards = sampled_ids(engine.generate(prompts[::-1], sampling, seed=5, step=3))[::-1]
    by_threes = sampled_ids(engine_of(loaded, loaded.model, max_sequences=3).generate(prompts, sampling, 5, 3))
    assert together == alone == backwards == by_threes


def test_random_numbers_follow_seed_step_and_problem(scene):
    loaded, prompts, engine = scene("qwen2_vl")
    sampling = sampling_for(loaded)
    first = sampled_ids(engine.generate(prompts, sampling, seed=1, step=1))
    torch.manual_seed(99)
    assert sampled_ids(engine.generate(prompts, sampling, seed=1, step=1)) == first
    assert sampled_ids(engine.generate(prompts, sampling, seed=2, step=1)) != first
    assert sampled_ids(engine.generate(prompts, sampling, seed=1, step=2)) != first
    assert len({tuple(ids) for group in first for ids in group}) == len(prompts) * sampling.n
    shorter = sampled_ids(engine.generate(prompts, replace(sampling, max_new_tokens=5), seed=1, step=1))
    assert shorter == [[ids[:5] for ids in group] for group in first]


def test_request_seeds_are_the_same_everywhere():
    """Pinned: another machine, another Python or another release must draw the same numbers."""
    assert request_seed(1, 2, "a") == 2095130923345423647
    assert request_seed(1, 2, "b") == 7375850673046619975
    assert request_seed(1, 21, "a") != request_seed(12, 1, "a")


def test_greedy_is_the_argmax(scene):
    loaded, prompts, engine = scene("mimo_vl")
    sampling = sampling_of(RolloutConfig(max_new_tokens=8), loaded, n=1, temperature=0.0)
    for group in engine.generate(prompts, sampling, seed=0, step=0):
        (completion,) = group.completions
        logits = stock_logits(loaded.model, group.prompt, completion)
        logits[:, loaded.banned_token_ids] = -torch.inf
        assert completion.ids == logits.argmax(-1).tolist()


def test_banned_tokens_never_appear(scene):
    loaded, prompts, engine = scene("qwen2_5_vl")
    banned = loaded.banned_token_ids
    image = loaded.config.image_token_id
    assert image in banned
    with boosted(loaded, dict.fromkeys(banned, 40.0)):
        allowed = engine.generate(prompts, replace(sampling_for(loaded), banned_token_ids=()), seed=0, step=0)
        assert all(image in banned and set(c.ids) <= set(banned) for group in allowed for c in group.completions)
        for temperature in (1.0, 0.0):
            options = replace(sampling_for(loaded), temperature=temperature)
            groups = engine.generate(prompts, options, seed=0, step=0)
            assert not any(set(c.ids) & set(banned) for group in groups for c in group.completions)


def test_stop_tokens_end_a_response(scene):
    """The stop token is kept in the ids, left out of the text, nothing follows it, and ended rows leave the batch."""
    loaded, prompts, engine = scene("qwen3_vl")
    rows = []
    stop = loaded.tokenizer.encode("</think>")[0]
    sampling = sampling_for(loaded, stop_tokens=["</think>"], max_new_tokens=200)
    assert set(sampling.stop_token_ids) == {stop, *loaded.end_token_ids}
    head = loaded.family.lm_head(loaded.model)
    handle = head.register_forward_hook(lambda module, args, logits: rows.append(len(logits)))
    with boosted(loaded, {stop: 4.0}):
        groups = engine.generate(prompts, sampling, seed=0, step=0)
    handle.remove()
    completions = [completion for group in groups for completion in group.completions]
    assert any(completion.ids[-1] == stop for completion in completions)
    assert len({len(completion) for completion in completions}) > 5, "rows should end at different times"
    control = loaded.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    for completion in completions:
        assert completion.finish_reason == "stop"
        assert completion.ids[-1] in sampling.stop_token_ids
        assert not set(completion.ids[:-1]) & set(sampling.stop_token_ids)
        assert completion.text == loaded.tokenizer.decode([id for id in completion.ids[:-1] if id not in control])
        assert "</think>" not in completion.text
    alive = [sum(len(completion) > t for completion in completions) for t in range(1, len(rows))]
    assert all(count * 0.75 <= left for count, left in zip(rows[1:], alive, strict=True)), "ended rows go on decoding"


def test_length_ends_a_response(scene):
    loaded, prompts, engine = scene("qwen2_5_vl")
    sampling = sampling_for(loaded, max_new_tokens=4)
    told = []
    with boosted(loaded, dict.fromkeys(sampling.stop_token_ids, -100.0)):
        groups = engine.generate(prompts, sampling, seed=0, step=0, on_finish=told.append)
    completions = [completion for group in groups for completion in group.completions]
    assert {(len(c), len(c.logprobs), c.finish_reason) for c in completions} == {(4, 4, "length")}
    assert mask_truncated(groups) == len(completions)
    assert all(c.text == loaded.tokenizer.decode(c.ids, skip_special_tokens=True) for c in completions)
    assert told == [12]


def test_progress_counts_up_to_all(scene):
    loaded, prompts, engine = scene("qwen2_5_vl", max_sequences=6)
    told = []
    sampling = sampling_for(loaded, max_new_tokens=60)
    engine.generate(prompts, sampling, seed=0, step=0, on_finish=told.append)
    assert told == sorted(set(told))
    assert told[-1] == len(prompts) * sampling.n


@pytest.mark.parametrize(("most", "batches"), [(64, [4]), (7, [2, 2]), (9, [3, 1]), (3, [1, 1, 1, 1])])
def test_no_more_completions_are_decoded_at_a_time_than_allowed(scene, monkeypatch, most, batches):
    """Three completions each; prompts of like length together, the shortest first."""
    loaded, prompts, engine = scene("qwen2_5_vl", max_sequences=most)
    seen = []
    prefill = HFEngine._prefill
    monkeypatch.setattr(
        HFEngine,
        "_prefill",
        lambda self, some, *about: seen.append(list(map(len, some))) or prefill(self, some, *about),
    )
    engine.generate(prompts, sampling_for(loaded, max_new_tokens=2), seed=0, step=0)
    assert [len(lengths) for lengths in seen] == batches
    assert [length for lengths in seen for length in lengths] == sorted(map(len, prompts))


def test_model_keeps_its_modes_and_can_train_on(scene):
    loaded, prompts, engine = scene("qwen2_5_vl")
    model = loaded.model
    model.train()
    model.model.visual.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    seen = []
    handle = model.model.language_model.register_forward_hook(
        lambda module, args, output: seen.append((torch.is_grad_enabled(), module.training))
    )
    engine.generate(prompts, sampling_for(loaded), seed=0, step=0)
    handle.remove()
    assert set(seen) == {(False, False)}, "no gradients and no dropout while it generates"
    assert {name: module.training for name, module in model.named_modules()} == modes
    model.train()
    assert model.config.text_config._attn_implementation == "sdpa"
    model(input_ids=prompts[0].expanded_ids[None]).logits.sum().backward()
    assert all(p.grad is not None for p in model.model.language_model.layers.parameters())
    model.zero_grad(set_to_none=True)


def test_bf16_is_autocast(scene):
    """Log-probs in bfloat16 are near the float32 ones, and not equal to them."""
    loaded, prompts, _ = scene("qwen2_5_vl")
    engine = engine_of(loaded, loaded.model, precision="bf16")
    (group,) = engine.generate(prompts[1:2], sampling_for(loaded), seed=0, step=0)
    completion = group.completions[0]
    exact = exact_logprobs(loaded, loaded.model, prompts[1], completion)
    gap = (torch.tensor(completion.logprobs) - exact).abs().max()
    assert 1e-4 < gap < 0.3


def reference_distribution(logits, temperature, top_k, top_p, banned):
    """One row, in plain Python: the probabilities that tokens are drawn with."""
    scores = {i: x / temperature for i, x in enumerate(logits) if i not in banned}
    order = sorted(scores, key=lambda i: (-scores[i], i))[: top_k or None]
    highest = scores[order[0]]
    weights = [math.exp(scores[i] - highest) for i in order]
    kept, before = {}, 0.0
    for token, weight in zip(order, weights, strict=True):
        if before / sum(weights) >= top_p:
            break
        kept[token], before = weight, before + weight
    return [kept.get(i, 0.0) / sum(kept.values()) for i in range(len(logits))]


@settings(deadline=None)
@given(
    logits=st.lists(st.integers(-40, 40), min_size=6, max_size=12),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    top_k=st.integers(0, 14),
    top_p=st.sampled_from([0.05, 0.313, 0.777, 0.95, 1.0]),
    banned=st.sets(st.integers(0, 5), max_size=3),
)
def test_distribution_equals_the_plain_one(logits, temperature, top_k, top_p, banned):
    sampling = Sampling(1, temperature, top_p, top_k, 1, (), tuple(sorted(banned)))
    logits = [x / 10 for x in logits]
    computed = sampling_logprobs(torch.tensor([logits, logits]), sampling).exp()
    expected = torch.tensor([reference_distribution(logits, temperature, top_k, top_p, banned)] * 2)
    torch.testing.assert_close(computed, expected, atol=1e-5, rtol=0)


def test_draw_inverts_the_cdf():
    probabilities = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0])
    uniforms = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2**-53], dtype=torch.float64)
    drawn = draw(probabilities.log().expand(6, -1), uniforms)
    assert drawn.tolist() == [1, 1, 3, 3, 4, 4]


@settings(deadline=None)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=40),
    st.one_of(st.integers(0, 2**53 - 1), st.sampled_from([0, 2**53 - 1])),
)
def test_impossible_tokens_are_never_drawn(logits, uniform):
    """Whatever the probabilities add up to, at both ends of the unit interval, too."""
    logprobs = torch.tensor([logits])
    logprobs[:, -1] = logprobs[:, 0] = -torch.inf
    token = draw(logprobs, torch.tensor([uniform], dtype=torch.float64) / 2**53).item()
    assert logprobs[0, token] > -torch.inf


def test_drawn_frequencies():
    """20 000 draws from one request: each token within four standard errors of its probability."""
    sampling = Sampling(20_000, 1.0, 0.9, 0, 1, (), ())
    logprobs = sampling_logprobs(torch.tensor([[0.0, 1.0, 2.0, 3.0, -1.0]]), sampling)
    uniforms = request_uniforms(request_seed(0, 0, "a"), sampling)[:, 0]
    drawn = draw(logprobs.expand(20_000, -1), uniforms).bincount(minlength=5) / 20_000
    error = (logprobs.exp() * (1 - logprobs.exp()) / 20_000).sqrt()
    assert ((drawn - logprobs.exp()).abs() <= 4 * error)[0].all()


def test_unusable_sampling_is_refused(tiny_model):
    loaded = tiny_model("qwen2_5_vl")
    with pytest.raises(ConfigError, match=r"rollout.stop_tokens: 'END' is 3 tokens"):
        sampling_of(RolloutConfig(stop_tokens=["END"]), loaded, n=2, temperature=1.0)
    with pytest.raises(ConfigError, match=r"rollout.max_sequences \(4\) cannot hold the 5 completions"):
        sampling_of(RolloutConfig(max_sequences=4), loaded, n=5, temperature=1.0)
