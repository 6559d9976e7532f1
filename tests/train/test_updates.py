"""What spoils an update, on one rank and on several; and every comparison with a limit that NaN must not pass."""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmhicra.config import GuardConfig
from mmhicra.core.errors import UserError
from mmhicra.core.records import Completion, Group, RewardRecord
from mmhicra.train.collector import finite_rewards, place_groups
from mmhicra.train.guard import AlignmentGuard, Comparison, Misaligned, compare_completion
from mmhicra.train.loop.metrics import Tally, nonfinite_numbers
from mmhicra.train.update.updates import IDLE_STEPS, FiniteCheck, NotFinite, Sign, UpdateCount, refuse_nonfinite_state
from mmhicra.vlm.patch_grid import PatchGridInputs
from mmhicra.vlm.weights import nonfinite

NAN, INF = math.nan, math.inf


class Several:
    """Ranks that meet: what each gathers is what all have given."""

    def __init__(self, checks=()):
        self.checks = list(checks)

    def max(self, value):
        return float(any(check.seen for check in self.checks) or value)

    def gather(self, items):
        own = [found for check in self.checks for found in check.seen]
        return own or items


def row(*problems):
    return [SimpleNamespace(prompt=SimpleNamespace(problem=SimpleNamespace(id=name))) for name in problems]


def watch(rows, ranks=None):
    """A check that saw `rows`: (problems, loss, what the gradient becomes with it); the last is summed over ranks."""
    policy = nn.ParameterDict({"weight": nn.Parameter(torch.zeros(2))})
    check = FiniteCheck(policy, ranks or Several())
    if ranks is not None:
        ranks.checks.append(check)
    for number, (problems, loss, gradient) in enumerate(rows, start=1):
        policy["weight"].grad = torch.tensor([0.0, gradient])
        check.see(row(*problems), torch.tensor(loss), last=number == len(rows))
    return check


@pytest.mark.parametrize(
    ("rows", "norm", "sign", "problems"),
    [
        ([("a", 1.0, 1.0), ("b", 2.0, 3.0)], 3.0, None, ()),
        ([("a", 1.0, 1.0), ("b", NAN, NAN), ("c", 1.0, NAN)], NAN, Sign.LOSS, ("b",)),
        ([("a", INF, 0.0), ("b", 2.0, 3.0)], 3.0, Sign.LOSS, ("a",)),
        ([("a", 1.0, 1.0), ("bc", 1.0, INF), ("d", 1.0, NAN)], NAN, Sign.GRADIENT, ("b", "c")),
        ([("a", 1.0, 1.0), ("b", 1.0, NAN)], NAN, Sign.SUM, ("b",)),
        ([("a", 1.0, 1e30), ("b", 1.0, 1.0)], INF, Sign.GRADIENT, ("a",)),
    ],
    ids=["well", "loss", "loss without gradient", "gradient", "in the sum", "overflow"],
)
def test_the_row_that_spoils_an_update_is_named(rows, norm, sign, problems):
    spoiled = watch(rows).verdict(torch.tensor(norm))
    assert (spoiled and spoiled.sign) == sign
    if spoiled:
        assert spoiled.problems == problems
        assert all(f" {name}" in str(spoiled) for name in problems)


def test_what_one_rank_sees_all_ranks_decide():
    """A loss on one rank that is not finite spoils the update of a rank that has seen nothing, for the same reason."""
    ranks = Several()
    well, ill = watch([("a", 1.0, 1.0)], ranks), watch([("b", 1.0, 1.0), ("c", NAN, 1.0)], ranks)
    verdicts = [check.verdict(torch.tensor(1.0)) for check in (well, ill)]
    assert verdicts[0] == verdicts[1]
    assert verdicts[0] is not None
    assert verdicts[0].problems == ("c",)


def test_skipped_in_a_row_and_idle_in_a_row_are_counted_over_a_resume():
    count = UpdateCount(limit=2)
    spoiled = watch([("a", NAN, 1.0)]).verdict(torch.tensor(1.0))
    assert spoiled is not None
    count.skip(spoiled)
    count.make()
    count.skip(spoiled)
    assert not count.exhausted
    resumed = UpdateCount(limit=2)
    resumed.restore(json.loads(json.dumps(count.state())))
    resumed.begin_step()
    resumed.skip(spoiled)
    assert resumed.exhausted
    assert (resumed.skipped, resumed.skipped_in_step, resumed.made) == (3, 1, 1)
    assert "problem a" in str(resumed.refusal())
    again = UpdateCount(limit=2)
    again.restore(resumed.state())
    again.begin_step()
    assert not again.exhausted, "a run that was stopped may try once more"
    resumed.count_idle()
    resumed.make()
    said = [resumed.count_idle() for _ in range(3 * IDLE_STEPS)]
    assert said.index(True) == IDLE_STEPS - 1
    assert said.count(True) == 1


def test_weights_and_moments_that_are_not_finite_are_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    model[0].weight.data[0, 0] = NAN  # frozen: the model folder's check has seen it
    refuse_nonfinite_state(model, optimizer, Several())
    optimizer.state[model[1].bias]["exp_avg_sq"][1] = INF
    with pytest.raises(NotFinite, match=r"1 tensors .* e\.g\. exp_avg_sq of 1\.bias"):
        refuse_nonfinite_state(model, optimizer, Several())
    model[1].weight.data[0, 0] = -INF
    with pytest.raises(NotFinite, match=r"2 tensors .* e\.g\. 1\.weight"):
        refuse_nonfinite_state(model, optimizer, Several())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_numbers_are_finite(dtype):
    """A sum that overflows is no reason to refuse a tensor."""
    large = torch.full((8,), torch.finfo(dtype).max, dtype=dtype)
    tensors = {"large": large, "opposite": large * torch.tensor([1.0, -1.0], dtype=dtype).repeat(4)}
    tensors |= {name: large.index_fill(0, torch.tensor([3]), value) for name, value in (("nan", NAN), ("-inf", -INF))}
    tensors |= {"ids": torch.tensor([1, 2]), "none": large[:0]}
    assert nonfinite(tensors.items()) == ["nan", "-inf"]


@pytest.mark.parametrize("own", [NAN, INF, -INF, -1e5])
def test_the_guard_stops_at_what_is_no_number(own):
    prompt = SimpleNamespace(
        problem=SimpleNamespace(id="p"), vision=PatchGridInputs(positions=torch.arange(3).expand(3, -1))
    )
    completion = Completion([5, 6], [-1.0, -2.0], "stop", "")
    sized = type("Sized", (SimpleNamespace,), {"__len__": lambda self: 3})(**vars(prompt))
    seen = compare_completion(sized, completion, torch.tensor([-1.0, own]), allowed=0.01)
    assert seen.error == seen.largest == INF or seen.largest == pytest.approx(1e5, rel=1e-4)
    assert seen.first[0] == 1
    guard = AlignmentGuard(GuardConfig(), "fp32", cuts=False, say=lambda text: None)
    with pytest.raises(Misaligned, match="mean of exp.*is inf over 12 tokens.*worst is problem p"):
        guard.check([Comparison("q", "", 10, 10.0, 0.0, (0, 1, 0.0, 0.0)), seen])


def test_the_guard_stops_at_a_mean_that_is_no_number():
    guard = AlignmentGuard(GuardConfig(), "fp32", cuts=False, say=lambda text: None)
    with pytest.raises(Misaligned):
        guard.check([Comparison("p", "", 1, NAN, NAN, (0, 1, NAN, 0.0))])


def test_a_maximum_keeps_what_is_no_number():
    one, other = Tally(), Tally()
    one.maximum("x", torch.tensor([1.0, NAN]))
    one.maximum("x", torch.tensor([2.0]))
    other.maximum("x", torch.tensor([3.0]))
    for merged in (one.merge([other]), other.merge([one])):
        assert nonfinite_numbers(merged.result()) == ["x"]
    assert nonfinite_numbers({"step": 1, "a": INF, "b": NAN, "c": 0.5, "d": "nan", "e": None}) == ["a", "b"]


@pytest.mark.parametrize("reward", [NAN, INF, -INF, 1e30, -1e39])
def test_rewards_that_are_not_finite_are_refused(reward):
    records = [RewardRecord(None, "none", "1", "wrong", "", {}, total) for total in (1.0, reward)]
    completions = [Completion([1], [0.0], "stop", "", reward=record) for record in records]
    group = Group(SimpleNamespace(problem=SimpleNamespace(id="p")), completions)
    assert finite_rewards(Group(group.prompt, completions[:1])) == [1.0]
    with pytest.raises(
        UserError, match=f"problem p: its rewards are 1, {re.escape(f'{reward:g}')}: reward.custom must give"
    ):
        finite_rewards(group)


def test_the_first_groups_with_signal_are_kept():
    assert place_groups([True, False, True, True], taken=0, wanted=2) == [0, None, 1, None]
    assert place_groups([False, True], taken=2, wanted=4) == [None, 2]
    assert place_groups([True] * 7, taken=0, wanted=4) == [0, 1, 2, 3, None, None, None]
    assert place_groups([], taken=1, wanted=4) == []
