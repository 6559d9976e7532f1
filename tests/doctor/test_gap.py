"""The log-prob gap: its numbers, and an engine that was not synced."""

import copy
import math

import pytest
import torch
from short_runs import short_config

from mmhicra.data.visual_math import generate
from mmhicra.doctor.gap import Gap, check_gap
from mmhicra.doctor.memory import Load
from mmhicra.doctor.pace import Pace, longest_step
from mmhicra.rollout.engine import sampling_of
from mmhicra.rollout.hf import HFEngine
from mmhicra.train.policy import Policy
from mmhicra.vlm.loading import load_policy
from mmhicra.vlm.processing import PromptBuilder


def test_numbers_of_a_gap():
    gap = Gap.of(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.0, -2.5, -2.9]))
    assert gap.mean == pytest.approx(0.2)
    assert gap.largest == pytest.approx(0.5)
    assert gap.error == pytest.approx((1 + math.exp(0.5) + math.exp(0.1)) / 3)
    assert gap.worst == 1


@pytest.mark.parametrize("synced", [True, False])
def test_an_engine_that_was_not_synced_is_blamed_by_its_worst_sample(synced, tmp_path):
    config = short_config(tmp_path)
    model = load_policy(config.model)
    engine = HFEngine(copy.deepcopy(model.model), model.family, model.tokenizer, model.pad_token_id, 64)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter *= 1.02  # an update the engine has not heard of
    if synced:
        engine.sync(model.model)
    policy = Policy(model.model, model.family, temperature=1.0, banned_ids=model.banned_token_ids, chunk=64)
    builder = PromptBuilder(model.processor, model.family, model.config, config.data)
    prompts = [builder.build(problem) for problem in generate("train", 4, 0)]
    sampling = sampling_of(config.rollout, model, n=4, temperature=1.0)
    check, groups = check_gap(config, policy, engine, sampling, prompts, model.tokenizer)
    assert sum(len(group.completions) for group in groups) == 8
    assert check.state == ("well" if synced else "faulty")
    if not synced:
        (fault,) = check.faults
        worst = max(check.facts["rollouts"], key=lambda rollout: rollout["largest"])
        assert fault.kind == "log-probs differ"
        assert worst["id"] in fault.what


def test_the_longest_step_adds_up(tmp_path):
    """3 waves of 2 groups of 4, 100 tokens each behind prompts of 50; micro-batches of 900 tokens."""
    config = short_config(tmp_path, "train.prompts_per_step=6", "train.epochs=2")
    load = Load(
        **dict.fromkeys(("half", "checkpointing", "dense", "adapters", "reference", "shard", "cuda", "nucleus"), False),
        **dict.fromkeys(("sees_always_alike", "embedded"), True),
        **dict.fromkeys(("engine", "patches", "chunk", "evaluation_group", "evaluation_sequences"), 0),
        processes=1,
        budget=900,
        prompt=50,
        response=100,
        group=4,
        groups=6,
        sequences=8,
        step_prompts=6,
    )
    seconds = longest_step(config, load, Pace(prefill=0.5, token=0.01, micro_batch=2.0, tokens=900, peak=None))
    assert seconds["rollout"] == pytest.approx(3 * (0.5 + 100 * 0.01))
    assert seconds["update"] == pytest.approx(2 * 6 * 450 / 900 * 2.0)
    assert seconds["log-probs before"] == pytest.approx(6 * 450 / 900 * 2.0 / 3)
