"""Losses against loops, and the normalisation that makes micro-batching invisible."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmhicra.train.update.losses import (
    Totals,
    anchored_entropy_slope,
    clipped_policy_loss,
    importance_ratio,
    importance_weights,
    k3,
    peak_entropy,
    peak_mask,
    token_weights,
)

LENGTHS = [3, 1, 5]


def make_tokens(seed=0, lengths=LENGTHS):
    generator = torch.Generator().manual_seed(seed)
    sequence = torch.repeat_interleave(torch.tensor(lengths))
    new, old, advantages = (torch.randn(len(sequence), generator=generator) for _ in range(3))
    return new, old, advantages, sequence


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_loss_equals_a_loop(level):
    new, old, advantages, sequence = make_tokens()
    result = clipped_policy_loss(new, old, advantages, sequence, clip_low=0.2, clip_high=0.28, level=level)
    for t in range(len(new)):
        own = [i for i in range(len(new)) if sequence[i] == sequence[t]]
        gap = (new - old)[t] if level == "token" else sum((new - old)[i] for i in own) / len(own)
        ratio, advantage = math.exp(gap), float(advantages[t])
        expected = -min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage)
        assert float(result.loss[t]) == pytest.approx(expected, rel=1e-5)


def test_on_policy_gradient_is_the_policy_gradient():
    new, _, advantages, sequence = make_tokens()
    new.requires_grad_()
    for level in ("token", "sequence"):
        loss = clipped_policy_loss(new, new.detach(), advantages, sequence, clip_low=0.2, clip_high=0.28, level=level)
        (gradient,) = torch.autograd.grad(loss.loss.sum(), new)
        assert torch.allclose(gradient, -advantages)


@pytest.mark.parametrize("kind", ["truncated", "masked"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_importance_weights_equal_a_loop(kind, level):
    trainer, engine, _, sequence = make_tokens(lengths=[3, 1, 5, 40])
    trainer.requires_grad_()
    weights = importance_weights(trainer, engine, sequence, kind=kind, level=level, limit=3.0)
    assert not weights.requires_grad
    for t in range(len(sequence)):
        own = [i for i in range(len(sequence)) if sequence[i] == sequence[t]]
        weight = math.exp(sum(float(trainer[i] - engine[i]) for i in (own if level == "sequence" else [t])))
        cut = min(weight, 3.0) if kind == "truncated" else weight * (1 / 3 <= weight <= 3)
        assert float(weights[t]) == pytest.approx(cut, rel=1e-4)
    assert len({float(weight) for weight in weights}) > 1, "all are cut alike"
    same = importance_weights(engine, engine, sequence, kind=kind, level=level, limit=3.0)
    assert torch.equal(same, torch.ones_like(same))


def test_correction_makes_the_gradient_that_of_the_trainers_distribution():
    """The expectation over what another distribution sampled equals the policy gradient."""
    logits = torch.tensor([0.3, -1.0, 0.7, 0.1], requires_grad=True)
    engine = torch.tensor([0.1, -0.7, 0.9, 0.0]).log_softmax(-1)
    rewards = torch.tensor([1.0, -2.0, 0.5, 0.0])
    own, actions = logits.log_softmax(-1), torch.arange(4)
    weights = importance_weights(own, engine, actions, kind="truncated", level="token", limit=10.0)
    corrected = torch.autograd.grad((engine.exp() * weights * rewards * own).sum(), logits, retain_graph=True)
    exact = torch.autograd.grad((own.exp() * rewards).sum(), logits)
    torch.testing.assert_close(corrected, exact)


def test_sequence_ratio_is_the_geometric_mean_with_its_own_tokens_gradient():
    new, old, _, sequence = make_tokens()
    new.requires_grad_()
    ratio = importance_ratio(new, old, sequence, "sequence")
    assert ratio.unique().numel() == len(LENGTHS)
    (gradient,) = torch.autograd.grad(ratio.sum(), new)
    assert torch.allclose(gradient, ratio.detach())


def test_clip_fractions_count_only_what_clipping_changes():
    new, old = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.zeros(4)
    advantages, sequence = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.zeros(4, dtype=torch.int64)
    result = clipped_policy_loss(new, old, advantages, sequence, clip_low=0.2, clip_high=0.28)
    assert result.clipped_high.tolist() == [True, False, False, False]
    assert result.clipped_low.tolist() == [False, False, False, True]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20))
def test_k3_is_never_negative_and_zero_at_equality(values):
    logprobs = torch.tensor(values, dtype=torch.float64)
    assert (k3(logprobs, logprobs.flip(0)) >= 0).all()
    assert k3(logprobs, logprobs).abs().max() == 0


def test_k3_estimates_the_divergence():
    generator = torch.Generator().manual_seed(0)
    policy, reference = (torch.randn(6, generator=generator).log_softmax(0).double() for _ in range(2))
    exact = (policy.exp() * (policy - reference)).sum()
    assert torch.allclose((policy.exp() * k3(policy, reference)).sum(), exact)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "dr_grpo"])
@given(lengths=st.lists(st.integers(1, 9), min_size=2, max_size=6), seed=st.integers(0, 99))
def test_weights_are_the_textbook_aggregates_however_the_batch_is_cut(aggregation, lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(length, generator=generator).double() for length in lengths]
    everything = torch.cat(parts)
    textbook = {
        "token_mean": everything.mean(),
        "sequence_mean": torch.stack([part.mean() for part in parts]).mean(),
        "dr_grpo": everything.sum() / (len(parts) * 16),
    }[aggregation]
    totals = Totals(tokens=len(everything), sequences=len(parts), max_new_tokens=16)
    loss = torch.zeros((), dtype=torch.float64)
    for micro_batch in (parts[:1], parts[1:]):
        sequence = torch.repeat_interleave(torch.tensor([len(part) for part in micro_batch]))
        loss += (token_weights(sequence, aggregation, totals) * torch.cat(micro_batch)).sum()
    assert torch.allclose(loss, textbook, atol=1e-6)


lengths_of = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@given(lengths_of, st.sampled_from([0.0, 0.5, 0.8]), st.integers(0, 99))
def test_peaks_are_above_the_quantile_of_their_own_response(lengths, quantile, seed):
    sequence = torch.repeat_interleave(torch.tensor(lengths))
    entropy = torch.rand(len(sequence), generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    mask, peaks = peak_mask(entropy, sequence, quantile), peak_entropy(entropy, sequence, quantile, len(lengths))
    for number in range(len(lengths)):
        own = entropy[sequence == number]
        expected = own[own > torch.quantile(own, quantile)]
        assert mask[sequence == number].sum() == len(expected)
        assert float(peaks[number]) == pytest.approx(float(expected.mean()) if len(expected) else 0.0, abs=1e-6)


def test_where_most_entropies_are_zero_the_others_are_the_peaks():
    entropy = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.7])
    assert peak_mask(entropy, torch.zeros(10, dtype=torch.int64), 0.8).tolist() == [False] * 9 + [True]
    assert not peak_mask(torch.zeros(10), torch.zeros(10, dtype=torch.int64), 0.8).any()
    assert peak_mask(torch.tensor([]), torch.tensor([], dtype=torch.int64), 0.8).shape == (0,)


def test_peaks_of_a_response_that_is_not_finite_are_not_finite_either():
    entropy, sequence = torch.tensor([0.5, torch.nan, 1.0, 0.2, 0.4]), torch.tensor([0, 0, 0, 1, 1])
    spoilt, well = peak_entropy(entropy, sequence, 0.5, 2).tolist()
    assert math.isnan(spoilt)
    assert well == pytest.approx(0.4)


@given(lengths_of, st.integers(1, 4), st.floats(0, 2))
def test_siren_does_not_depend_on_micro_batches(lengths, parts, anchor):
    """The gradient of beta (H - anchor)^2, H over all responses, in any split of the responses."""
    entropy = torch.rand(sum(lengths), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = entropy.clone().requires_grad_()
    mean = peak_entropy(whole, torch.repeat_interleave(torch.tensor(lengths)), 0.8, len(lengths)).mean()
    (expected,) = torch.autograd.grad(0.005 * (mean - anchor) ** 2, whole) if mean.requires_grad else (whole * 0,)

    slope, pieces, start = anchored_entropy_slope(float(mean), anchor, 0.005), entropy.clone().requires_grad_(), 0
    loss = pieces.sum() * 0.0
    for first in range(0, len(lengths), parts):
        some = lengths[first : first + parts]
        piece = pieces[start : start + sum(some)]
        start += sum(some)
        own = peak_entropy(piece, torch.repeat_interleave(torch.tensor(some)), 0.8, len(some))
        loss = loss + slope * own.sum() / len(lengths)
    (gradient,) = torch.autograd.grad(loss, pieces)
    torch.testing.assert_close(gradient, expected)
