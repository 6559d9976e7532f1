from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmhicra.core.records import Completion, Group, Problem, Prompt, RewardRecord
from mmhicra.hicra.credit import (
    METHODS,
    NEEDS_ENTROPY,
    CreditOptions,
    TokenSignals,
    assign_credit,
    group_advantages,
    has_signal,
    hicra_advantages,
    positive_mass,
    spread,
    top_entropy_mask,
)

properties = settings(max_examples=300, deadline=None, derandomize=True)
values = st.floats(-1e6, 1e6, width=32)
alphas = st.floats(0, 1, exclude_max=True)
rewards_of_a_group = st.lists(st.floats(-10, 10), min_size=1, max_size=16)


@st.composite
def masked_advantages(draw):
    pairs = draw(st.lists(st.tuples(values, st.booleans()), max_size=20))
    advantages = torch.tensor([value for value, _ in pairs], dtype=torch.float32)
    return advantages, torch.tensor([planning for _, planning in pairs], dtype=torch.bool)


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.view(torch.int32).tolist()


def group(rewards, lengths, planning=None) -> Group:
    prompt = Prompt(
        Problem("p1", "?", (), "1"),
        [1],
        torch.tensor([1]),
        torch.zeros(3, 1, dtype=torch.int64),
        torch.tensor([False]),
    )
    record = RewardRecord(None, "none", "1", "no-answer", "", {}, 0.0)
    completions = []
    for number, (reward, length) in enumerate(zip(rewards, lengths, strict=True)):
        completion = Completion([5] * length, [-1.0] * length, "stop", "")
        completion.reward = RewardRecord(**{**vars(record), "total": reward})
        completion.planning = None if planning is None else torch.tensor(planning[number], dtype=torch.bool)
        completions.append(completion)
    return Group(prompt, completions)


@properties
@given(masked_advantages(), alphas)
def test_hicra_is_the_papers_formula(given_, alpha):
    advantages, planning = given_
    result = hicra_advantages(advantages, planning, alpha)
    for a, p, h in zip(advantages, planning, result, strict=True):
        assert h == (a + alpha * abs(a) if p else a)


@properties
@given(masked_advantages(), alphas)
def test_no_advantage_changes_its_sign_and_none_falls(given_, alpha):
    advantages, planning = given_
    result = hicra_advantages(advantages, planning, alpha)
    assert (result * advantages >= 0).all()
    assert (result >= advantages).all()
    assert (result[advantages == 0] == 0).all()


@properties
@given(masked_advantages())
@pytest.mark.slow
def test_alpha_zero_is_a_copy_to_the_bit(given_):
    advantages, planning = given_
    advantages = torch.cat([advantages, torch.tensor([-0.0, 0.0, 1e-45])])
    planning = torch.cat([planning, torch.tensor([True, True, True])])
    assert bits(hicra_advantages(advantages, planning, 0.0)) == bits(advantages)


@properties
@given(masked_advantages(), alphas)
def test_an_empty_mask_is_a_copy_to_the_bit(given_, alpha):
    advantages, planning = given_
    assert bits(hicra_advantages(advantages, torch.zeros_like(planning), alpha)) == bits(advantages)


@st.composite
def responses(draw):
    """One response as credit sees it: every token has the response's advantage."""
    rows = draw(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 12, width=32)), min_size=1, max_size=20))
    marks, placebos, entropies = zip(*rows, strict=True)
    signals = TokenSignals(torch.tensor(marks), torch.tensor(placebos), torch.tensor(entropies, dtype=torch.float32))
    return spread(draw(values), len(rows)), signals


@properties
@given(responses(), alphas, st.sampled_from(sorted(METHODS)))
def test_every_method_keeps_signs_lowers_nothing_and_leaves_its_inputs_alone(given_, alpha, method):
    advantages, signals = given_
    before = copy.deepcopy((advantages, signals.planning, signals.placebo, signals.entropy))
    result = METHODS[method](advantages, signals, CreditOptions(alpha=alpha))
    assert (result * advantages.sign() >= 0).all()
    assert (result >= advantages).all()
    assert (result[advantages == 0] == 0).all()
    result += 1
    after = (advantages, signals.planning, signals.placebo, signals.entropy)
    assert all(old.equal(new) for old, new in zip(before, after, strict=True))


@properties
@given(responses(), st.sampled_from(sorted(METHODS.keys() - {"entropy"})))
def test_every_method_of_alpha_is_grpo_to_the_bit_at_zero(given_, method):
    advantages, signals = given_
    assert bits(METHODS[method](advantages, signals, CreditOptions(alpha=0.0))) == bits(advantages)


@properties
@given(responses(), alphas)
@pytest.mark.slow
def test_each_method_is_its_formula(given_, alpha):
    advantages, signals = given_
    options = CreditOptions(alpha=alpha, top_share=0.25, entropy_weight=0.5, entropy_divisor=4.0)
    a = advantages[0]
    bonus, marks = alpha * a.abs(), signals.planning.float()
    quantile = torch.quantile(signals.entropy, 0.75)
    expected = {
        "grpo": torch.zeros_like(marks),
        "hicra": bonus * marks,
        "hicra_positive": bonus * marks * (a > 0),
        "placebo": bonus * signals.placebo.float(),
        "high_entropy": bonus * (signals.entropy > quantile).float(),
        "entropy": torch.stack([min(0.5 * h, a.abs() / 4) for h in signals.entropy]),
        "uniform": (bonus * marks.mean()).expand_as(marks),
    }
    assert expected.keys() == METHODS.keys()
    for method, added in expected.items():
        torch.testing.assert_close(METHODS[method](advantages, signals, options), advantages + added)


@pytest.mark.slow
@properties
@given(responses(), alphas)
def test_uniform_has_the_mass_of_hicra(given_, alpha):
    advantages, signals = given_
    options = CreditOptions(alpha=alpha)
    added = [
        float((METHODS[name](advantages, signals, options) - advantages).double().sum())
        for name in ("hicra", "uniform")
    ]
    step = 2.0**-149 * advantages.numel()  # each token is rounded to float32, whose numbers are never closer than that
    assert added[0] == pytest.approx(added[1], rel=1e-4, abs=1e-3 * float(advantages.abs().max()) + step)


@properties
@given(st.integers(2, 16), st.data(), alphas)
def test_hicra_adds_a_constant_positive_bonus(size, data, alpha):
    """hicra_spec 1.2: with 0/1 rewards and success rate p, a planning token gains alpha * 2p(1-p) on average."""
    right = data.draw(st.integers(1, size - 1))
    it = group([1.0] * right + [0.0] * (size - right), [1] * size, [[True]] * size)
    assign_credit(it, "hicra", alpha)
    p = right / size
    assert sum(float(c.advantages) for c in it.completions) / size == pytest.approx(alpha * 2 * p * (1 - p), abs=1e-6)


def test_top_entropy_takes_the_share_and_never_ties():
    assert top_entropy_mask(torch.arange(10.0), 0.3).tolist() == [False] * 7 + [True] * 3
    assert not top_entropy_mask(torch.zeros(10), 0.3).any()
    assert top_entropy_mask(torch.tensor([]), 0.3).shape == (0,)


@pytest.mark.parametrize("method", sorted(NEEDS_ENTROPY | {"placebo"}))
def test_a_method_without_its_signal_is_an_error(method):
    it = group([1.0, 0.0], [1, 1], [[True], [True]])
    with pytest.raises(ValueError, match="p1, completion 0: no (entropy|placebo)"):
        assign_credit(it, method)


def test_the_default_alpha_makes_a_success_larger_and_a_failure_smaller():
    advantages, planning = torch.tensor([0.5, 0.5, -0.5, -0.5]), torch.tensor([True, False, True, False])
    assert hicra_advantages(advantages, planning, 0.2).tolist() == pytest.approx([0.6, 0.5, -0.4, -0.5])


def test_the_mask_is_a_constant():
    advantages = torch.tensor([1.0, -1.0], requires_grad=True)
    hicra_advantages(advantages, torch.tensor([True, True]), 0.25).sum().backward()
    assert advantages.grad is not None
    assert advantages.grad.tolist() == [1.25, 0.75]


@pytest.mark.parametrize("alpha", [-0.1, 1.0, 1.2, float("nan")])
def test_alpha_outside_its_range_is_an_error(alpha):
    with pytest.raises(ValueError, match="alpha"):
        hicra_advantages(torch.ones(2), torch.ones(2, dtype=torch.bool), alpha)
    with pytest.raises(ValueError, match="alpha"):
        CreditOptions(alpha=alpha)


@pytest.mark.parametrize(
    "wrong", [{"top_share": 0.0}, {"top_share": 1.0}, {"entropy_weight": -1.0}, {"entropy_divisor": 1.0}]
)
def test_options_outside_their_range_are_errors(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CreditOptions(**wrong)


@pytest.mark.parametrize("mask", [torch.ones(3, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool), torch.ones(2)])
@pytest.mark.parametrize("method", sorted(METHODS.keys() - NEEDS_ENTROPY))
def test_a_mask_of_another_shape_or_type_is_an_error(mask, method):
    with pytest.raises(ValueError, match="mask"):
        METHODS[method](torch.ones(2), TokenSignals(mask, mask), CreditOptions())


@pytest.mark.parametrize("method", sorted(NEEDS_ENTROPY))
def test_entropies_of_another_length_are_an_error(method):
    signals = TokenSignals(torch.ones(2, dtype=torch.bool), entropy=torch.arange(3.0))
    with pytest.raises((ValueError, RuntimeError), match="shape|size"):
        METHODS[method](torch.ones(2), signals, CreditOptions())


@properties
@given(rewards_of_a_group)
def test_advantages_are_centred_and_keep_the_order(rewards):
    advantages = group_advantages(rewards)
    assert advantages.sum().item() == pytest.approx(0, abs=1e-9)
    if has_signal(rewards):
        mean = sum(rewards) / len(rewards)
        assert advantages.tolist() == pytest.approx([reward - mean for reward in rewards], abs=1e-9)


@properties
@given(st.floats(-10, 10), st.integers(1, 64), st.sampled_from(["none", "std"]))
def test_a_group_without_range_has_exactly_zero_advantages(reward, size, scale):
    for rewards in ([reward] * size, torch.full((size,), reward, dtype=torch.float32)):
        assert not has_signal(rewards)
        assert (group_advantages(rewards, scale) == 0).all()
    assert not has_signal([])


def test_rounding_noise_is_no_signal_and_a_small_reward_is():
    assert not has_signal([0.1 + 0.2, 0.3])
    assert (group_advantages([0.1 + 0.2, 0.3], "std") == 0).all()
    assert has_signal([0.0, 1e-3])


def test_std_scale_divides_by_the_sample_deviation():
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    expected = (rewards - 0.6) / (rewards.var(correction=1).sqrt() + 1e-6)
    torch.testing.assert_close(group_advantages(rewards, "std"), expected)
    torch.testing.assert_close(group_advantages(rewards), rewards - 0.6)
    assert group_advantages(torch.tensor([1, 0])).tolist() == [0.5, -0.5]


@pytest.mark.parametrize("rewards", [[1.0, float("nan")], [float("inf"), 0.0], [[1.0], [0.0]]])
def test_rewards_that_are_no_row_of_numbers_are_errors(rewards):
    with pytest.raises(ValueError, match="rewards"):
        group_advantages(torch.tensor(rewards))


def test_an_unknown_scale_or_method_is_an_error():
    with pytest.raises(ValueError, match="scale"):
        group_advantages([1.0, 0.0], "range")  # pyright: ignore
    with pytest.raises(ValueError, match="method"):
        assign_credit(group([1.0], [1]), "ppo")  # pyright: ignore


def test_spread_repeats_in_single_precision():
    assert spread(0.25, 3).equal(torch.tensor([0.25, 0.25, 0.25]))
    assert spread(1.0, 0).shape == (0,)


def test_assign_credit_sets_every_completions_advantages():
    it = group([1.0, 0.0, 0.0], [3, 2, 0], [[True, False, True], [False, True], []])
    assign_credit(it, "hicra", 0.2)
    first, second, third = (c.advantages for c in it.completions)
    torch.testing.assert_close(first, torch.tensor([0.8, 2 / 3, 0.8]))
    torch.testing.assert_close(second, torch.tensor([-1 / 3, -0.8 / 3]))
    assert third is not None
    assert third.shape == (0,)
    assert {c.advantages.dtype for c in it.completions} == {torch.float32}


@properties
@given(
    st.lists(st.tuples(st.floats(-2, 2), st.lists(st.booleans(), max_size=6)), min_size=1, max_size=8),
    alphas,
    st.sampled_from(["none", "std"]),
)
@pytest.mark.slow
def test_assigning_twice_is_assigning_once(drawn, alpha, scale):
    rewards, masks = zip(*drawn, strict=True)
    once = group(rewards, map(len, masks), masks)
    assign_credit(once, "hicra", alpha, scale)
    twice = copy.deepcopy(once)
    assign_credit(twice, "hicra", alpha, scale)
    for a, b in zip(once.completions, twice.completions, strict=True):
        assert bits(a.advantages) == bits(b.advantages)


@properties
@given(st.lists(st.tuples(st.floats(-2, 2), st.lists(st.booleans(), max_size=6)), min_size=1, max_size=8))
def test_hicra_with_alpha_zero_is_grpo_to_the_bit_for_a_group(drawn):
    rewards, masks = zip(*drawn, strict=True)
    hicra, grpo = (group(rewards, map(len, masks), masks) for _ in range(2))
    assign_credit(hicra, "hicra", 0.0)
    assign_credit(grpo, "grpo", 0.2)
    for a, b in zip(hicra.completions, grpo.completions, strict=True):
        assert bits(a.advantages) == bits(b.advantages)


def test_a_group_without_signal_gets_zeros_from_hicra_too():
    it = group([1.0, 1.0], [2, 1], [[True, True], [True]])
    assign_credit(it)
    assert all((c.advantages == 0).all() for c in it.completions)


def test_hicra_needs_the_masks_and_grpo_does_not():
    it = group([1.0, 0.0], [2, 1])
    with pytest.raises(ValueError, match="p1, completion 0: no planning mask"):
        assign_credit(it)
    assert it.completions[0].advantages is None
    assign_credit(it, "grpo")
    assert it.completions[0].advantages.tolist() == [0.5, 0.5]


def test_a_misshapen_mask_leaves_the_group_as_it_was():
    it = group([1.0, 0.0], [2, 1], [[True, True], [True, False]])
    with pytest.raises(ValueError, match="p1, completion 1: .*shape"):
        assign_credit(it)
    assert [c.advantages for c in it.completions] == [None, None]


def test_the_positive_mass_answers_to_alpha_and_the_mass_of_all_advantages_does_not():
    shares = {}
    for alpha in (0.0, 0.2, 0.5):
        it = group([1.0, 0.0], [4, 4], [[True, False, False, False]] * 2)
        assign_credit(it, "hicra", alpha)
        planning, total = positive_mass([it])
        mass = torch.stack([c.advantages.abs() for c in it.completions])
        shares[alpha] = planning / total, float(mass[:, 0].sum() / mass.sum())
    assert [positive for positive, _ in shares.values()] == pytest.approx([(1 + a) / (4 + a) for a in shares])
    assert [everything for _, everything in shares.values()] == pytest.approx([0.25] * 3)
    with pytest.raises(ValueError, match="comes after"):
        positive_mass([group([1.0], [1])])
