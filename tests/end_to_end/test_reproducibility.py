"""A run is a function of its configuration, its seed and its data."""

import signal

import pytest
import torch
from short_runs import assert_same_run, metrics, printed, run, start, state_files, wait_for

from mmhicra.core.errors import ConfigError, RunFolderError

pytestmark = pytest.mark.slow


def test_two_runs_with_one_seed_are_identical(finished_run, tmp_path):
    run(tmp_path / "again")
    assert_same_run(finished_run, tmp_path / "again", step=3)


def test_another_seed_is_another_run(finished_run, tmp_path):
    run(tmp_path / "other", "seed=1")
    left, right = state_files(finished_run, 3), state_files(tmp_path / "other", 3)
    assert any(not torch.equal(left[name], right[name]) for name in left)


def test_training_changes_the_weights_and_every_metric_is_a_number(finished_run):
    first, last = state_files(finished_run, 1), state_files(finished_run, 3)
    assert any(not torch.equal(first[name], last[name]) for name in first)
    assert [record["step"] for record in metrics(finished_run)] == [0, 1, 2, 3]
    assert all(value is not None for record in metrics(finished_run) for value in record.values())


def test_alpha_zero_is_grpo_to_the_bit(tmp_path):
    run(tmp_path / "hicra", "hicra.alpha=0.0")
    run(tmp_path / "grpo", "credit.method=grpo")
    assert_same_run(tmp_path / "hicra", tmp_path / "grpo", step=3)


def test_alpha_above_zero_is_not_grpo(finished_run, tmp_path):
    run(tmp_path / "grpo", "credit.method=grpo")
    left, right = state_files(finished_run, 3), state_files(tmp_path / "grpo", 3)
    assert any(not torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    "options",
    [
        (),
        (
            "train.minibatches=2",
            "train.epochs=2",
            "train.optimizer.schedule=cosine",
            "train.loss.kl_coefficient=0.05",
            *("data.count=8", "data.curriculum={visits: 1}"),  # the second epoch begins at step 3
            *("log.rollouts_share=0.5", "log.rollouts_keep=2"),
            *("train.mask_truncated=true", "rollout.max_new_tokens=32", 'rollout.stop_strings=["so 7"]'),
        ),
    ],
    ids=["on-policy", "several updates"],
)
def test_killed_and_resumed_equals_never_stopped(tmp_path, options):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(whole, *options)
    kill_after_step(broken, 1, options)
    assert not (broken / "checkpoints" / "step_000003").exists()
    run(broken, *options, resume=True)
    assert_same_run(whole, broken, step=3)
    listed = [(folder / "filtered.jsonl") for folder in (whole, broken)]
    assert [path.exists() for path in listed] == [bool(options)] * 2
    assert not options or listed[0].read_text() == listed[1].read_text() != ""
    assert sorted(p.name for p in (broken / "rollouts").iterdir()) == sorted(
        p.name for p in (whole / "rollouts").iterdir()
    )
    for file in (whole / "rollouts").iterdir():
        assert file.read_bytes() == (broken / "rollouts" / file.name).read_bytes()


def test_ctrl_c_saves_and_says_how_to_go_on(finished_run, tmp_path):
    process = start(tmp_path / "run", ["log.checkpoint_every=0"])
    wait_for(tmp_path / "run" / "rollouts" / "step_000001.jsonl.zst", process)
    process.send_signal(signal.SIGINT)
    status, output = process.wait(timeout=120), printed(tmp_path / "run").read_text()
    assert status == 130, output
    assert "--resume" in output
    run(tmp_path / "run", resume=True)
    assert_same_run(finished_run, tmp_path / "run", step=3)


def test_resume_refuses_another_run(finished_run):
    with pytest.raises(ConfigError, match="train.prompts_per_step was 4, is 5"):
        run(finished_run, "train.prompts_per_step=5", resume=True)


def test_a_run_is_not_overwritten_unasked(finished_run):
    with pytest.raises(RunFolderError, match="already holds a run: add --resume"):
        run(finished_run)


def test_nothing_to_resume_is_named(tmp_path):
    with pytest.raises(RunFolderError, match="holds no run to resume"):
        run(tmp_path / "empty", resume=True)


def kill_after_step(folder, step, overrides):
    """Start a run in a process of its own and kill it, without warning, in the step after `step`."""
    process = start(folder, overrides)
    wait_for(folder / "checkpoints" / f"step_{step:06d}", process)
    process.kill()
    process.wait()
