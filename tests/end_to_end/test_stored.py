"""Runs that store weights and optimizer state otherwise: the same run where nothing is rounded, and exact resume."""

import shutil

import pytest
import torch
from short_runs import assert_same_run, metrics, run, state_files

pytestmark = pytest.mark.slow

FEW = (
    *("model.precision=bf16", "train.optimizer.learning_rate=1e-3", "eval.problems=0", "data.max_prompt_tokens=300"),
    *("train.tokens_per_micro_batch=1500", "rollout.max_new_tokens=40", "train.loss.kl_coefficient=0.01"),
)
BF16 = ("model.weights=bf16",)
SMALLEST = (*BF16, "train.optimizer={kind: adamw_8bit, offload: true, learning_rate: 1e-3}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Options -> the folder of a run of three steps."""
    folders = {}

    def folder(*options):
        if options not in folders:
            folders[options] = tmp_path_factory.mktemp("stored") / "run"
            run(folders[options], *FEW, *options)
        return folders[options]

    return folder


def test_weights_in_bfloat16_give_the_run_of_autocast(finished):
    """Rollouts, metrics, and float32 masters: all as with float32 weights, to the bit."""
    exact, half = finished(), finished(*BF16)
    assert metrics(half) == metrics(exact)
    assert any(record.get("optimizer/grad_norm") for record in metrics(half)[:3])
    found = state_files(half, 3)
    masters = {name: value for name, value in found.items() if name.startswith("master.")}
    assert len(masters) > 20
    for name, value in state_files(exact, 3).items():
        assert torch.equal(masters.get(f"master.{name}", found[name]), value), name


@pytest.mark.parametrize("options", [BF16, SMALLEST], ids=["bf16", "8-bit, offload"])
def test_resumed_equals_never_stopped(options, finished, tmp_path):
    shutil.copytree(finished(*options), tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/step_000003")
    run(tmp_path / "run", *FEW, *options, resume=True)
    assert_same_run(finished(*options), tmp_path / "run", 3)
