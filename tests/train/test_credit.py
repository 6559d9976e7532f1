"""What the credit assigner makes of its two sections of the configuration, and what it remembers."""

import json

import numpy as np
import pytest
import torch
from fake_trainer import PLANS, SCRIPT, FakeMatcher, fake_groups
from short_runs import short_config

from mmhicra.hicra.grams import Gram, GramLibrary
from mmhicra.train import credit
from mmhicra.train.credit import CreditAssigner, planning_tags

ALPHA = 0.4


def assigner_of(*overrides):
    config = short_config("nowhere", f"hicra.alpha={ALPHA}", *overrides)
    return CreditAssigner(config.credit, config.hicra, FakeMatcher(), "a tokenizer", seed=5)


def mean_centred(rewards):
    return [reward - sum(rewards) / len(rewards) for reward in rewards]


def standardised(rewards):
    deviation = (sum(value**2 for value in mean_centred(rewards)) / (len(rewards) - 1)) ** 0.5
    return [value / deviation for value in mean_centred(rewards)]


BONUS = {
    "grpo": lambda a, at, ids, entropy: 0.0,
    "hicra": lambda a, at, ids, entropy: ALPHA * abs(a) * (ids[at] == PLANS),
    "hicra_positive": lambda a, at, ids, entropy: ALPHA * max(a, 0.0) * (ids[at] == PLANS),
    "placebo": lambda a, at, ids, entropy: ALPHA * abs(a) * (ids[at] % 2 == 0),
    "high_entropy": lambda a, at, ids, entropy: ALPHA * abs(a) * (entropy[at] > np.quantile(entropy, 0.4)),
    "entropy": lambda a, at, ids, entropy: min(0.7 * entropy[at], abs(a) / 3),
    "uniform": lambda a, at, ids, entropy: ALPHA * abs(a) * ids.count(PLANS) / len(ids),
}
"""By method: what a token at place `at` gets on top of its response's advantage `a`."""


class EvenTokens:
    """A placebo's matcher: even ids."""

    def __init__(self, library=None, tokenizer=None):
        self.gram_library = library

    def mask(self, ids):
        return torch.tensor([one % 2 == 0 for one in ids])


@pytest.mark.parametrize(("scale", "bases"), [("none", mean_centred), ("std", standardised)])
@pytest.mark.parametrize("method", BONUS)
def test_every_token_has_the_advantage_of_its_method(method, scale, bases):
    options = ("credit.top_share=0.6", "credit.entropy_weight=0.7", "credit.entropy_divisor=3.0")
    assigner = assigner_of(f"credit.method={method}", f"credit.scale={scale}", *options)
    if method == "placebo":
        assigner.placebo = EvenTokens()
    for group in fake_groups():
        assigner.tag_planning(group)
        assigner.assign(group, 1, kept=True)
        own = bases(group.rewards()) if len(set(group.rewards())) > 1 else [0.0] * len(group.completions)
        for completion, a in zip(group.completions, own, strict=True):
            places = range(len(completion))
            wanted = [a + BONUS[method](a, at, completion.ids, completion.entropy.tolist()) for at in places]
            assert completion.advantages.tolist() == pytest.approx(wanted, abs=2e-5)
            assert completion.base_advantage == pytest.approx(a, abs=2e-5)


def test_a_group_that_is_not_kept_has_plain_advantages_for_the_record():
    assigner = assigner_of("credit.method=high_entropy")
    group = fake_groups()[0]
    for completion in group.completions:
        completion.entropy = None  # nobody scored it
    assigner.tag_planning(group)
    assigner.assign(group, 1, kept=False)
    for completion, a in zip(group.completions, mean_centred(group.rewards()), strict=True):
        assert completion.advantages.tolist() == pytest.approx([a] * len(completion))
    with pytest.raises(ValueError, match="problem p0, completion 0: no entropy"):
        assigner.assign(group, 1, kept=True)


@pytest.mark.parametrize(
    ("overrides", "alphas"),
    [
        ((), [0.4, 0.4, 0.4, 0.4]),
        (("hicra.schedule={end: 0.1, steps: 3}",), [0.4, 0.25, 0.1, 0.1]),
        (("credit.method=grpo",), [0.0] * 4),
        (("hicra.adaptive={signal: mass, target: 0.5, rate: 0.1}",), [0.4, 0.3, 0.4, 0.45]),
    ],
)
def test_alpha_of_every_step(overrides, alphas):
    """The adaptive one is told of twice its target, of none of it, and of half."""
    assigner, told = assigner_of(*overrides), iter([1.0, 0.0, 0.25, 0.5])
    group = fake_groups()[0]
    assigner.tag_planning(group)
    for step, alpha in enumerate(alphas, start=1):
        assigner.assign(group, step, kept=True)
        base, (first, planning, _) = group.completions[0].base_advantage, group.completions[0].advantages.tolist()
        assert first == pytest.approx(base)
        assert planning == pytest.approx(base * (1 + alpha))
        assigner.controller.observe(next(told))


@pytest.mark.parametrize(
    ("overrides", "needs"),
    [
        (("credit.method=hicra",), (False, False, False)),
        (("credit.method=entropy",), (True, False, False)),
        (("credit.method=high_entropy",), (True, False, False)),
        (("credit.method=placebo",), (False, False, True)),
        (("hicra.adaptive={signal: kl, target: 0.1}",), (False, True, False)),
        (("hicra.adaptive={signal: mass, target: 0.1}",), (False, False, False)),
    ],
)
def test_what_a_method_needs_before_credit(overrides, needs):
    assigner = assigner_of(*overrides)
    assert (assigner.needs_entropy, assigner.follows_drift, assigner.lacks_placebo) == needs


def test_tags_stay_on_the_completions_and_have_to_be_there():
    assigner, group = assigner_of(), fake_groups()[2]
    with pytest.raises(ValueError, match="p2: not every completion was searched"):
        planning_tags(group)
    assigner.tag_planning(group)
    assert assigner.matcher.searched == [tuple(ids) for ids, _ in SCRIPT["p2"]]
    for completion, tags in zip(group.completions, planning_tags(group), strict=True):
        assert completion.planning is tags.planning
        assert completion.planning.tolist() == [one == PLANS for one in completion.ids]
        assert completion.placebo is None
        assert len(tags.matches) == completion.ids.count(PLANS)


def test_the_placebo_is_drawn_once_and_taken_up_by_a_resumed_run(monkeypatch):
    drawn = []

    def library(samples, matcher, tokenizer, seed):
        drawn.append((samples, matcher, tokenizer, seed))
        return GramLibrary("placebo", (Gram("a b"), Gram("c d")), {"placebo_density": 0.5})

    monkeypatch.setattr(credit, "placebo_library", library)
    monkeypatch.setattr(credit, "PlanningMatcher", EvenTokens)
    adaptive = "hicra.adaptive={signal: mass, target: 0.5}"
    first, groups = assigner_of("credit.method=placebo", adaptive), fake_groups()
    first.draw_placebo(first.samples(groups))
    ((samples, matcher, tokenizer, seed),) = drawn
    assert [sample.ids for sample in samples] == [ids for responses in SCRIPT.values() for ids, _ in responses]
    assert (matcher, tokenizer, seed) == (first.matcher, "a tokenizer", 5)
    first.controller.observe(1.0)
    second = assigner_of("credit.method=placebo", adaptive)
    second.restore(json.loads(json.dumps(first.state())))
    assert not second.lacks_placebo
    assert second.state() == first.state()
    assert second.controller.alpha == pytest.approx(0.38)
    for assigner in (first, second):
        assigner.tag_planning(groups[0])
        assert [c.placebo.tolist() for c in groups[0].completions] == [
            [one % 2 == 0 for one in ids] for ids, _ in SCRIPT["p0"]
        ]
