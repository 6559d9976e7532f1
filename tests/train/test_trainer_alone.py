"""A step of the trainer without model, engine or tokenizer, against formulas of a line."""

import dataclasses
import math

import pytest
import torch
from fake_trainer import PLANS, RATE, SCRIPT, VOCABULARY, FakeAccelerator, fake_trainer

from mmhicra.train.collector import Collector
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.train.guard import Misaligned
from mmhicra.train.loop import rollout_records as records
from mmhicra.train.step import Step
from mmhicra.train.trainer import Trainer

KEPT = ("p0", "p2", "p3")


def advantages(alpha=0.2):
    """(id, advantage) of every kept token: the reward minus the group's mean, and `alpha` of it more for planning."""
    found = []
    for responses in (SCRIPT[name] for name in KEPT):
        mean = sum(reward for _, reward in responses) / len(responses)
        for ids, reward in responses:
            found += [(one, (reward - mean) + alpha * abs(reward - mean) * (one == PLANS)) for one in ids]
    return found


def formula(logits, alpha=0.2):
    """The logits after a step of SGD: of the mean over tokens of -A log p, whose gradient is -A (one-hot - p)."""
    tokens, p = advantages(alpha), logits.softmax(-1)
    moved = sum(advantage * (torch.eye(VOCABULARY)[one] - p) for one, advantage in tokens)
    return logits + RATE * moved / len(tokens)


class UnevenRanks(Ranks):
    """Another rank has two rows more; it finds nothing wrong."""

    def max(self, value):
        return value + 2 if value else 0.0


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.7])
def test_a_step_is_the_formula(alpha):
    trainer = fake_trainer(f"hicra.alpha={alpha}")
    before = trainer.policy.model.logits.detach().clone()
    numbers, step = trainer.step()
    assert torch.allclose(trainer.policy.model.logits, formula(before, alpha), atol=1e-6)
    assert [group.prompt.problem.id for group in step.kept] == list(KEPT)
    assert [group.prompt.problem.id for group in step.dropped] == ["p1"]
    wanted = -sum(advantage for _, advantage in advantages(alpha)) / len(advantages())
    assert numbers["loss/per_token"] == pytest.approx(wanted, abs=1e-6)
    assert numbers["loss/ratio"] == 1.0
    assert (numbers["group/kept"], numbers["group/dropped"]) == (3, 1)
    assert numbers["hicra/alpha"] == pytest.approx(alpha)
    assert numbers["engine/probability_error"] == pytest.approx(1.0, abs=1e-6)


def test_the_next_step_begins_with_the_weights_of_the_last():
    trainer = fake_trainer()
    wanted = trainer.policy.model.logits.detach().clone()
    for number in (1, 2, 3):
        _, step = trainer.step()
        wanted = formula(wanted)
        assert torch.allclose(trainer.policy.model.logits, wanted, atol=1e-6)
        assert (step.number, trainer.step_number, trainer.updates.made) == (number, number, number)
    assert trainer.collector.engine.calls == ["generate", "sleep", "sync"] * 3


def test_rows_that_fill_up_a_rank_change_nothing():
    """With two rows more on another rank this one computes on a filler group twice: same weights, same numbers."""
    plain, uneven = fake_trainer(), fake_trainer(ranks=UnevenRanks(FakeAccelerator()))
    assert [is_filler for _, is_filler in rows_of(uneven)] == [False] * 3 + [True] * 2
    assert [is_filler for _, is_filler in rows_of(plain)] == [False] * 3
    (one, _), (other, step) = plain.step(), uneven.step()
    assert torch.equal(plain.policy.model.logits, uneven.policy.model.logits)
    changing = ("time/", "speed/")
    assert [pair for pair in one.items() if not pair[0].startswith(changing)] == [
        pair for pair in other.items() if not pair[0].startswith(changing)
    ]
    assert all(len(c.old_logprobs) == len(c) for group in step.kept for c in group.completions)


def rows_of(trainer):
    """The rows that the groups of a step would be trained in."""
    step = trainer.begin()
    trainer.collect(step)
    return trainer.rows(step, step.kept)


def test_a_step_without_signal_computes_on_a_dropped_group(monkeypatch):
    monkeypatch.setitem(SCRIPT, "p0", SCRIPT["p1"])
    trainer = fake_trainer("train.prompts_per_step=2", "rollout.guard.every=1")
    before = trainer.policy.model.logits.detach().clone()
    numbers, step = trainer.step()
    assert (step.has_batch, step.kept, step.filler_group.prompt.problem.id) == (False, [], "p0")
    assert torch.equal(trainer.policy.model.logits, before)
    assert trainer.collector.engine.calls == ["generate", "sleep"], "no weights to hand over"
    assert numbers["engine/probability_error_worst"] == pytest.approx(1.0, abs=1e-6)
    assert not any(name.startswith("loss/") for name in numbers)


def test_a_loss_is_pure():
    """It returns what it found: nobody else knows more after it than before, and asked again it says the same."""
    trainer = fake_trainer("rollout.guard.every=1")
    step = trainer.begin()
    trainer.collect(step)
    trainer.tag_planning(step)
    trainer.assign_credit(step)
    (row, _), totals = trainer.rows(step, step.kept)[0], trainer.totals(step.kept)
    known = [dict(vars(completion)) for part in row for completion in part.completions]
    sums, random = dict(step.tally.sums), torch.get_rng_state()
    first, again = (trainer.loss(row, totals, 0.0, is_filler=False) for _ in range(2))
    assert first.value.item() == again.value.item()
    assert first.metrics.result() == again.metrics.result() != {}
    assert first.first_pass
    assert torch.equal(first.old_logprobs, trainer.policy.logprobs().detach()[[i for c in known for i in c["ids"]]])
    assert [dict(vars(completion)) for part in row for completion in part.completions] == known
    assert (trainer.guard.comparisons, dict(step.tally.sums)) == ([], sums)
    assert torch.equal(torch.get_rng_state(), random)
    assert trainer.policy.model.logits.grad is None
    filler = trainer.loss(row, totals, 0.0, is_filler=True)
    assert (filler.value.item(), filler.metrics.result()) == (0.0, {})
    trainer.ranks = Ranks(FakeAccelerator(num_processes=2))  # whose wrapper would take the mean over both
    assert trainer.loss(row, totals, 0.0, is_filler=False).value.item() == 2 * first.value.item()


def test_planning_is_searched_once(monkeypatch):
    """Credit, telemetry and rollout files use what one search found; the matcher can do nothing but search."""
    trainer = fake_trainer()
    numbers, step = trainer.step()
    responses = [tuple(ids) for name in (*KEPT, "p1") for ids, _ in SCRIPT[name]]
    monkeypatch.setattr(records, "token_spans", lambda ids, tokenizer: ("", torch.zeros(len(ids), 2)))
    written = list(records.rollout_records(step, tokenizer=None))
    assert trainer.credit_assigner.matcher.searched == responses
    assert [tuple(record["ids"]) for record in written] == responses
    for record in written:
        places = [at for at, one in enumerate(record["ids"]) if one == PLANS]
        assert [[start, end] for _, _, start, end in record["grams"]] == [[at, at + 1] for at in places]
    tokens = [one for ids in responses for one in ids]
    assert numbers["planning/density"] == tokens.count(PLANS) / len(tokens)


def test_what_a_step_leaves_is_in_declared_fields():
    trainer = fake_trainer("train.epochs=2", "train.loss.siren={}", "rollout.guard.every=1")
    _, step = trainer.step()
    for thing, kind in ((trainer, Trainer), (step, Step), (trainer.collector, Collector)):
        assert vars(thing).keys() == {each.name for each in dataclasses.fields(kind)}


def test_an_engine_that_is_wrong_stops_the_run_before_the_weights_change():
    trainer = fake_trainer("rollout.guard.every=2", error=0.5)
    before = trainer.policy.model.logits.detach().clone()
    with pytest.raises(Misaligned, match=rf"mean of exp\|gap\| is {math.exp(0.5):.4f}"):
        trainer.step()
    assert torch.equal(trainer.policy.model.logits, before)
    trainer = fake_trainer("rollout.guard.every=2", error=0.5)
    trainer.guard.checked, trainer.step_number = True, 1
    numbers, step = trainer.step()  # the second step is not the guard's
    assert (step.guard_due, step.on_policy) == (False, True)
    assert numbers["engine/probability_error_worst"] == pytest.approx(math.exp(0.5), rel=1e-5)
    assert step.worst_problem in KEPT
