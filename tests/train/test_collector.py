"""Groups are scored while others are still sampled."""

from __future__ import annotations

import threading

from short_runs import run

from mmhicra.rewards.reward import Rewarder
from mmhicra.rollout.hf.engine import HFEngine


def test_the_first_group_is_scored_before_the_last_is_sampled(tmp_path, monkeypatch):
    """The engine holds back the second group until the first has its rewards."""
    scored, waited = threading.Event(), []
    generate, score = HFEngine.generate, Rewarder.score

    def one_by_one(self, prompts, sampling, seed, step, on_finish=None, on_group=None):
        assert on_group is not None
        groups = []
        for prompt in prompts:
            groups += generate(self, [prompt], sampling, seed, step, on_group=on_group)
            waited.append(scored.wait(timeout=60))
        return groups

    def scoring(self, groups):
        score(self, groups)
        scored.set()

    monkeypatch.setattr(HFEngine, "generate", one_by_one)
    monkeypatch.setattr(Rewarder, "score", scoring)
    run(tmp_path / "run", "train.steps=1", "eval.problems=0")
    assert waited == [True] * 4
