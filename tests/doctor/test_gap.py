"""The log-prob gap: its numbers, and an engine that was not synced."""

import copy
from collections import defaultdict

import pytest
import torch
from short_runs import short_config

from mmhicra.core.records import RewardRecord
from mmhicra.data.generated.visual_math import generate
from mmhicra.doctor.gap import check_gap
from mmhicra.doctor.step_time import StepTime, longest_step
from mmhicra.rollout.engine import sampling_of
from mmhicra.rollout.hf.engine import HFEngine
from mmhicra.train.update.load import Load
from mmhicra.train.update.policy import Policy
from mmhicra.vlm.loading import load_policy
from mmhicra.vlm.processing import PromptBuilder


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

    def judge(groups):
        """Every response is right."""
        for completion in (completion for group in groups for completion in group.completions):
            completion.reward = RewardRecord("1", "boxed", "1", "right", "scripted", {}, 1.0)

    check = check_gap(config, policy, engine, sampling, prompts, model.tokenizer, judge)
    assert check.facts["right"] == {"count": 8, "of": 8}
    assert "8 of 8 responses are right" in check.summary
    assert "every sampled response is right: a group whose rewards are all alike trains nothing" in check.notes[0]
    assert len(check.facts["rollouts"]) == 8
    assert check.state == ("well" if synced else "faulty")
    if not synced:
        (fault,) = check.faults
        by_problem = defaultdict(list)
        for rollout in check.facts["rollouts"]:
            by_problem[rollout["id"]] += [rollout["error"]] * rollout["tokens"]
        worst = max(by_problem, key=lambda problem: sum(by_problem[problem]) / len(by_problem[problem]))
        assert fault.kind == "log-probs differ"
        assert f"the worst is problem {worst} (image of 84x84 pixels" in fault.what


def test_the_longest_step_adds_up(tmp_path):
    """3 waves of 2 groups of 4, 100 tokens each behind prompts of 50; micro-batches of 900 tokens."""
    config = short_config(tmp_path, "train.prompts_per_step=6", "train.epochs=2")
    never = ("half", "checkpointing", "dense", "adapters", "reference", "shard", "cuda", "nucleus", "engine_rests")
    load = Load(
        **dict.fromkeys(never, False),
        **dict.fromkeys(("vision_frozen", "embedded"), True),
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
    seconds = longest_step(config, load, StepTime(prefill=0.5, token=0.01, micro_batch=2.0, tokens=900, peak=None))
    assert seconds["rollout"] == pytest.approx(3 * (0.5 + 100 * 0.01))
    assert seconds["update"] == pytest.approx(2 * 6 * 450 / 900 * 2.0)
    assert seconds["log-probs before"] == pytest.approx(6 * 450 / 900 * 2.0 / 3)
