"""Which groups a step trains on and in which order, what the engine does meanwhile, and when the guard is asked."""

import json
import math
import time

import pytest
import torch
from scripted_trainer import scripted_config, scripted_trainer, tokenised
from short_runs import VOLATILE

from mmhicra.core.errors import UserError
from mmhicra.core.records import Problem
from mmhicra.train.guard import Limits, Misaligned
from mmhicra.vlm.loading import load_policy

SIGNAL, ALIKE = (1.0, 0.0), (1.0, 1.0)


@pytest.fixture
def make(tiny_model_folder):
    """(Rewards of each problem, overrides) -> a trainer; `claimed` is the log-prob of every token."""

    def made(rewards, *overrides, claimed=-5.0, changes=None):
        config = scripted_config(
            tiny_model_folder("qwen2_5_vl"),
            *("rollout.n=2", "train.tokens_per_micro_batch=400", "train.steps=4", *overrides),
        )
        if changes:
            config = config.model_copy(update={"rollout": config.rollout.model_copy(update=changes)})
        names = [f"p{number}" for number in range(len(rewards))]
        problems = [Problem(id=name, question=f"What is {name}?", images=(), answer="1") for name in names]
        script = {
            name: tuple(([f"{name} {'abc'[index]}"], reward) for index, reward in enumerate(own))
            for name, own in zip(names, rewards, strict=True)
        }
        loaded = load_policy(config.model)
        trainer = scripted_trainer(config, loaded, lambda prompt, ids: [claimed] * len(ids), problems, script)
        trainer.names = {
            tuple(tokenised(loaded.tokenizer, pieces)[0]): name for name in names for pieces, _ in script[name]
        }
        return trainer

    return made


def followed(trainer):
    """The problems of every optimizer step, noted as they are trained on."""
    updates, seen = [], []

    def look(module, arguments):
        if torch.is_grad_enabled():
            (batch,) = arguments
            lengths = torch.bincount(batch.sequence).tolist()
            seen.extend(trainer.names[tuple(ids.tolist())] for ids in batch.targets.split(lengths))

    def note(*_):
        updates.append(frozenset(seen))
        seen.clear()

    trainer.policy.register_forward_pre_hook(look)
    trainer.optimizer.register_step_pre_hook(note)
    return updates


def generated(trainer):
    """The problems of every call of the engine."""
    return [call[1] for call in trainer.collector.engine.calls if call[0] == "generate"]


def ids(groups):
    return [group.prompt.problem.id for group in groups]


@pytest.mark.slow
def test_every_epoch_has_an_order_of_its_own_that_seed_and_step_decide(make):
    options = ("train.prompts_per_step=6", "train.minibatches=3", "train.epochs=3")
    orders = {}
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        trainer = make([SIGNAL] * 6, *options, f"seed={seed}")
        updates = followed(trainer)
        trainer.step()
        trainer.step()
        orders[name] = [updates[first : first + 3] for first in range(0, len(updates), 3)]
    assert [len(update) for epoch in orders["one"] for update in epoch] == [2] * 18
    assert all(frozenset().union(*epoch) == {f"p{n}" for n in range(6)} for epoch in orders["one"])
    assert orders["one"] == orders["again"]
    assert len({tuple(epoch) for epoch in orders["one"]}) == 6, "three epochs of two steps"
    assert orders["one"] != orders["other"]


@pytest.mark.parametrize(
    ("rewards", "rounds", "kept", "dropped"),
    [
        ([SIGNAL] * 8, [["p0", "p1"]], ["p0", "p1"], []),
        ([SIGNAL, ALIKE] * 4, [["p0", "p1"], ["p2", "p3"]], ["p0", "p2"], ["p1", "p3"]),
        ([ALIKE, SIGNAL, SIGNAL, SIGNAL] * 2, [["p0", "p1"], ["p2", "p3"]], ["p1", "p2"], ["p0", "p3"]),
        ([ALIKE] * 8, [["p0", "p1"], ["p2", "p3"], ["p4", "p5"]], [], ["p0", "p1", "p2", "p3", "p4", "p5"]),
        ([ALIKE] * 3, [["p0", "p1"], ["p2"]], [], ["p0", "p1", "p2"]),
    ],
    ids=["enough at once", "filled up", "more than enough", "never", "no problem twice"],
)
def test_a_step_is_filled_up_to_its_share_and_no_further(make, rewards, rounds, kept, dropped):
    trainer = make(rewards, "train.prompts_per_step=2", "train.dynamic_sampling.max_rounds=3")
    updates = followed(trainer)
    numbers, rollouts = trainer.step()
    assert [names for names in generated(trainer) if names] == rounds
    assert (ids(rollouts.kept), ids(rollouts.dropped)) == (kept, dropped)
    assert (numbers["group/kept"], numbers["group/dropped"]) == (len(kept), len(dropped))
    assert updates == ([set(kept)] if kept else [])
    assert all(c.advantages.any() for group in rollouts.kept for c in group.completions)
    assert not any(c.advantages.any() for g in rollouts.dropped for c in g.completions if g.rewards() == list(ALIKE))


def test_without_refills_a_step_trains_on_what_has_signal(make):
    trainer = make([SIGNAL, ALIKE] * 4, "train.prompts_per_step=4")
    _, rollouts = trainer.step()
    assert generated(trainer) == [["p0", "p1", "p2", "p3"]]
    assert (ids(rollouts.kept), ids(rollouts.dropped)) == (["p0", "p2"], ["p1", "p3"])


def test_a_step_without_signal_changes_nothing_and_the_next_one_trains(make):
    trainer = make([ALIKE, ALIKE, SIGNAL, SIGNAL], "train.prompts_per_step=2", "train.epochs=2")
    before = {name: p.detach().clone() for name, p in trainer.policy.named_parameters()}
    first, _ = trainer.step()
    assert all(torch.equal(before[name], p) for name, p in trainer.policy.named_parameters())
    assert [call[0] for call in trainer.collector.engine.calls] == ["generate", "sleep"], "no weights to hand over"
    assert not any(name.startswith(("loss/", "optimizer/grad")) for name in first)
    second, _ = trainer.step()
    assert any(not torch.equal(before[name], p) for name, p in trainer.policy.named_parameters())
    assert second["optimizer/grad_norm"] > 0
    assert trainer.collector.engine.calls[-1][0] == "sync"


def test_a_group_of_truncated_responses_trains_nothing_and_is_replaced(make):
    """p0 has signal, but nothing to train; p1's first response alone is left of its group."""
    options = ("train.mask_truncated=true", "train.prompts_per_step=2", "train.dynamic_sampling.max_rounds=2")
    trainer = make([SIGNAL] * 4, *options)
    trainer.collector.engine.cut = {("p0", 0), ("p0", 1), ("p1", 1)}
    updates = followed(trainer)
    numbers, step = trainer.step()
    assert generated(trainer) == [["p0", "p1"], ["p2", "p3"]]
    assert (ids(step.kept), ids(step.dropped), updates) == (["p1", "p2"], ["p0", "p3"], [{"p1", "p2"}])
    assert numbers["rollout/masked_truncated"] == 3
    assert all(math.isfinite(value) for value in numbers.values())
    masked = [completion.advantages.tolist() for group in step.groups for completion in group.completions[1:]]
    assert [any(values) for values in masked] == [False, True, False, True]


def test_a_step_of_truncated_responses_alone_changes_nothing(make):
    trainer = make([SIGNAL] * 2, "train.mask_truncated=true", "train.prompts_per_step=2", "rollout.guard.every=1")
    trainer.collector.engine.cut = {(name, number) for name in ("p0", "p1") for number in (0, 1)}
    before = {name: p.clone() for name, p in trainer.unwrapped.named_parameters()}
    trainer.guard.limits = Limits(1e9, 1e9, 1e9)
    numbers, _ = trainer.step()
    assert all(torch.equal(before[name], p) for name, p in trainer.unwrapped.named_parameters())
    assert numbers["engine/probability_error_worst"] > 1, "the guard looks all the same"
    assert (numbers["group/kept"], numbers["rollout/masked_truncated"]) == (0, 4)


def test_what_is_always_or_never_solved_rests(make):
    options = ("data.curriculum={visits: 1, skip_epochs: 1}", "train.prompts_per_step=2", "train.steps=9")
    trainer = make([ALIKE, SIGNAL, (0.0, 0.0), SIGNAL], *options)
    for _ in range(5):
        trainer.step()
    assert generated(trainer) == [["p0", "p1"], ["p2", "p3"], ["p1", "p3"], ["p0", "p1"], ["p2", "p3"]]
    left_out = [(each.id, each.why, each.success) for each in trainer.collector.stream.curriculum.resting.values()]
    assert left_out == [("p0", "easy", [1.0]), ("p2", "hard", [0.0])]


def test_the_guard_judges_a_step_without_signal_too_when_it_is_due(make):
    options = ("train.prompts_per_step=2", "rollout.guard.every=2")
    with pytest.raises(Misaligned, match="worst is problem p0"):
        make([ALIKE] * 4, *options).step()
    trainer = make([ALIKE] * 4, *options)
    trainer.guard.checked, trainer.step_number = True, 1
    numbers, _ = trainer.step()  # the second step is not its turn
    assert "engine/probability_error_worst" not in numbers


def test_a_small_disagreement_is_told_but_stops_nothing(make, tiny_model_folder):
    trainer = make([SIGNAL] * 4, "train.prompts_per_step=2")
    first, rollouts = trainer.step()
    logprobs = {tuple(c.ids): c.old_logprobs for group in rollouts.kept for c in group.completions}
    trainer = make([SIGNAL] * 4, "train.prompts_per_step=2", "rollout.guard.every=1")
    gaps = {"p0": 0.0001, "p1": 0.0006}
    trainer.collector.engine.logprobs_of = lambda prompt, ids: (logprobs[tuple(ids)] + gaps[prompt.problem.id]).tolist()
    numbers, step = trainer.step()
    assert step.worst_problem == "p1"
    assert numbers["engine/probability_error_worst"] == pytest.approx(1.0006, abs=2e-5)
    assert 1.0001 < numbers["engine/probability_error"] < 1.0006
    assert first["engine/probability_error"] > 1.0006


def test_prefetch_samples_one_step_ahead_but_for_the_steps_at_which_the_guard_looks(make):
    options = ("train.prompts_per_step=2", "train.loss.correction={}", "rollout.guard={every: 3, stop_above: 1e4}")
    trainer = make([SIGNAL] * 8, *options, "rollout.guard.sample_above=1e4", changes={"prefetch": True})
    told, policies = [], []
    for _ in range(4):
        numbers, step = trainer.step()
        policies.append(step.on_policy)
        assert ("engine/probability_error_worst" in numbers) == step.on_policy
        told.append([(call[0], call[3] if call[0] == "generate" else None) for call in trainer.collector.engine.calls])
        trainer.collector.engine.calls.clear()
    assert told == [
        [("generate", 1), ("generate", 2), ("sync", None)],
        [("generate", 3), ("sync", None)],
        [("sleep", None), ("sync", None)],  # step 4 is the guard's
        [("generate", 4), ("sleep", None), ("sync", None)],
    ]
    assert policies == [True, False, False, True]


def test_completions_sampled_ahead_are_taken_up_by_a_resumed_run(make):
    options = ("train.prompts_per_step=2", "train.loss.correction={}")
    first = make([SIGNAL] * 8, *options, changes={"prefetch": True})
    first.step()
    state = json.loads(json.dumps(first.collector.state()))
    second = make([SIGNAL] * 8, *options, changes={"prefetch": True}, claimed=-9.0)
    second.collector.restore(state)
    second.step_number = 1
    for trainer in (first, second):
        _, rollouts = trainer.step()
        assert ids(rollouts.kept) == ["p2", "p3"]
        assert {value for group in rollouts.kept for c in group.completions for value in c.logprobs} == {-5.0}
        assert generated(trainer)[-1] == ["p4", "p5"]


def test_the_numbers_of_a_step_do_not_depend_on_how_it_is_cut_into_rows(make):
    numbers = {}
    for budget in (120, 10_000):
        trainer = make([SIGNAL] * 4, f"train.tokens_per_micro_batch={budget}")
        numbers[budget], _ = trainer.step()
    names = [name for name in numbers[120] if not name.startswith(VOLATILE)]
    assert len(names) > 30
    for name in names:
        assert numbers[120][name] == pytest.approx(numbers[10_000][name], rel=1e-4, abs=1e-5), name


def spoil(trainer, passes, **parts):
    """Multiply parts of what the policy says by NaN in the forward passes of these numbers, from 1."""
    seen = []

    def change(module, arguments, stats):
        seen.append(stats)
        if len(seen) in passes:
            return stats._replace(**{name: getattr(stats, name) * factor for name, factor in parts.items()})
        return None

    trainer.policy.register_forward_hook(change)


def test_a_skipped_update_says_nothing_of_the_engine(make):
    trainer = make([SIGNAL] * 4, "train.prompts_per_step=2", "rollout.guard.every=9")
    trainer.guard.checked = True
    spoil(trainer, {1}, logprobs=math.nan)
    numbers, _ = trainer.step()
    assert trainer.updates.skipped == 1
    assert "engine/probability_error_worst" not in numbers
    numbers, _ = trainer.step()
    assert trainer.updates.made == 1
    assert math.isfinite(numbers["engine/probability_error_worst"])


def test_updates_end_within_a_step_when_too_many_are_skipped(make):
    trainer = make([SIGNAL] * 4, "train.prompts_per_step=4", "train.minibatches=4", "train.max_skipped_updates=2")
    before = {name: p.detach().clone() for name, p in trainer.policy.named_parameters()}
    spoil(trainer, {2, 3}, logprobs=math.nan)  # the first pass looks back, all in one row
    numbers, _ = trainer.step()
    assert (trainer.updates.skipped, trainer.updates.made) == (2, 0)
    assert numbers["optimizer/skipped"] == 2
    assert all(torch.equal(before[name], p) for name, p in trainer.policy.named_parameters())


def test_sirens_anchor_is_of_the_first_step_that_has_one(make):
    trainer = make([SIGNAL] * 4, "train.prompts_per_step=2", "train.loss.siren={}")
    spoil(trainer, {1}, nucleus_entropy=math.nan)
    trainer.step()
    assert trainer.anchor is None
    trainer.step()
    assert math.isfinite(trainer.anchor)


@pytest.mark.parametrize("reward", [1e30, math.inf, math.nan])
def test_rewards_that_cannot_be_trained_on_end_the_run_by_name(make, reward):
    with pytest.raises(UserError, match="problem p1: its rewards are"):
        make([SIGNAL, (reward, 0.0)], "train.prompts_per_step=2").step()


def test_a_step_sampled_ahead_is_not_judged_even_if_it_is_the_first_of_a_start(make):
    options = ("train.prompts_per_step=2", "train.loss.correction={}")
    first = make([ALIKE] * 8, *options, changes={"prefetch": True})
    first.step()
    second = make([ALIKE] * 8, *options, "rollout.guard.every=9", changes={"prefetch": True})
    second.collector.restore(first.collector.state())
    second.step_number = 1
    numbers, _ = second.step()
    assert "engine/probability_error_worst" not in numbers
    assert not second.guard.checked


def test_new_weights_wait_for_what_is_sampled_ahead(make):
    """An engine takes its time with the second step's completions: it gets the new weights after the last of them."""
    trainer = make(
        [SIGNAL] * 8, "train.prompts_per_step=2", "train.loss.correction={}", "rollout.guard.every=0",
        changes={"prefetch": True},
    )  # fmt: skip
    engine, order = trainer.collector.engine, []
    generate, sync = engine.generate, engine.sync

    def slow(*arguments, **options):
        if order:
            time.sleep(1.0)
        groups = generate(*arguments, **options)
        order.append("sampled")
        return groups

    engine.generate, engine.sync = slow, lambda model: order.append("new weights") or sync(model)
    trainer.step()
    assert order == ["sampled", "sampled", "new weights"]
