"""What a run is said to take of the disk is what it takes."""

import pytest
from short_runs import short_config

from mmhicra.core.run_folder import bytes_in
from mmhicra.train.loop.disk import bytes_of_a_trained_value, bytes_text, disk_need
from mmhicra.vlm.loading import load_policy


@pytest.mark.parametrize(
    ("overrides", "checkpoints", "rollout_files"),
    [
        (["train.steps=10", "log.checkpoint_every=2", "log.keep_checkpoints=2"], 4, 10),
        (["train.steps=10", "log.checkpoint_every=2", "log.keep_checkpoints=2", "eval.keep_best=false"], 3, 10),
        (["train.steps=10", "log.checkpoint_every=2", "log.keep_checkpoints=2", "eval.problems=0"], 3, 10),
        (["train.steps=10", "log.checkpoint_every=0", "log.rollouts_every=4"], 2, 3),
        (["train.steps=10", "log.checkpoint_every=5", "log.rollouts_every=0"], 4, 0),
    ],
)
def test_how_many_lie_there_at_once(tmp_path, overrides, checkpoints, rollout_files):
    need = disk_need(short_config(tmp_path, *overrides), parameters=1000, trained=500)
    assert need.checkpoint == 1000 * 4 + 500 * 12
    assert need.checkpoints == checkpoints
    assert need.rollouts == rollout_files * 4 * 4 * short_config(tmp_path).rollout.max_new_tokens * 15


def test_a_limit_on_checkpoints_and_weights(tmp_path):
    """1000 values, 500 of them trained: 10 kB a checkpoint, 4 kB the weights alone."""
    often = ("train.steps=10", "log.checkpoint_every=2", "log.weights_every=1", "log.keep_weights=3")
    free = disk_need(short_config(tmp_path, *often), parameters=1000, trained=500)
    assert (free.weights, free.saved) == (4 * 4000, free.checkpoints * 10_000 + 16_000)
    limited = short_config(tmp_path, *often, f"log.checkpoint_gib={35_000 / 2**30}")
    assert disk_need(limited, parameters=1000, trained=500).saved == 35_000
    for overrides, least in (
        (often, 30_000),
        ((*often, "eval.keep_best=false"), 20_000),
        ((*often, "log.checkpoint_every=0"), 10_000),
    ):
        assert disk_need(short_config(tmp_path, *overrides), parameters=1000, trained=500).least == least


@pytest.mark.parametrize(
    ("overrides", "bytes_each"),
    [
        ((), 12),
        (("train.optimizer.kind=adamw_8bit",), 6.03125),
        (("model.weights=bf16", "model.precision=bf16"), 14),
        (("model.weights=bf16", "model.precision=bf16", "model.lora={}"), 12),
    ],
)
def test_what_a_trained_value_takes(tmp_path, overrides, bytes_each):
    assert bytes_of_a_trained_value(short_config(tmp_path, *overrides)) == bytes_each


@pytest.mark.parametrize("size", ["999 B", "1 kB", "33.4 MB", "134 MB", "999 GB", "1.2 TB", "12000 TB"])
def test_sizes_as_text(size):
    number, unit = size.split()
    assert bytes_text(round(float(number) * 1000 ** ("B", "kB", "MB", "GB", "TB").index(unit))) == size


@pytest.mark.slow
def test_a_checkpoint_takes_what_was_said(finished_run):
    config = short_config(finished_run)
    parameters = sum(p.numel() for p in load_policy(config.model).model.parameters())
    trained = sum(p.numel() for p in load_policy(config.model).model.parameters() if p.requires_grad)
    need = disk_need(config, parameters, trained)
    assert bytes_in(finished_run / "checkpoints" / "step_000003") == pytest.approx(need.checkpoint, rel=0.01)
    rollouts = bytes_in(finished_run / "rollouts")
    assert 0 < rollouts < need.rollouts
