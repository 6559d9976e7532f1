"""Every credit method and regulariser in real runs: a resumed run is the same run, and the metrics say what it did."""

import json
import math
import shutil

import pytest
from short_runs import assert_same_run, metrics, run, state_files

from mmhicra.core.errors import RunFolderError

pytestmark = pytest.mark.slow

METHODS = {
    "hicra": (),
    "hicra_positive": ("credit.method=hicra_positive",),
    "placebo": ("credit.method=placebo",),
    "uniform": ("credit.method=uniform",),
    "high_entropy": ("credit.method=high_entropy",),
    "entropy": ("credit.method=entropy",),
    "scheduled": ("hicra.schedule={end: 0.0, steps: 3}", "train.optimizer.schedule=cosine"),
    "adaptive_mass": ("hicra.adaptive={signal: mass, target: 0.5, rate: 0.1}",),
    "adaptive_kl": ("hicra.adaptive={signal: kl, target: 0.5, rate: 0.1}",),
    "entropy_bonus": ("credit.method=grpo", "train.loss.entropy_coefficient=0.1"),
    "siren": ("credit.method=grpo", "train.loss.siren={coefficient: 10.0}"),
    # The only part of a run that draws from torch's global generator; the engine samples without it.
    "dropout": ("model.lora={rank: 4, alpha: 8, dropout: 0.2}", "rollout.guard.every=0"),
}


@pytest.fixture(scope="module")
def grpo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grpo")
    run(folder, "eval.problems=0", "credit.method=grpo", "train.steps=1")
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_a_method_resumes_to_the_bit(tmp_path, method):
    """What it trains on is compared with its formula in tests/train/test_trainer_exact.py."""
    options = ("eval.problems=0", "train.steps=2", *METHODS[method])
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(whole, *options)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step_000002")
    run(cut, *options, resume=True)
    assert_same_run(whole, cut, 2)


def test_alpha_follows_its_schedule_and_its_controller(tmp_path):
    run(tmp_path / "scheduled", "eval.problems=0", "hicra.schedule={end: 0.0, steps: 3}")
    assert [r["hicra/alpha"] for r in metrics(tmp_path / "scheduled")] == pytest.approx([0.2, 0.1, 0.0])
    run(tmp_path / "adaptive", "eval.problems=0", "hicra.adaptive={signal: mass, target: 0.9, rate: 0.1}")
    records = metrics(tmp_path / "adaptive")
    alphas, shares = ([record[name] for record in records] for name in ("hicra/alpha", "hicra/mass"))
    assert all(0 < share < 0.9 for share in shares)
    expected = [0.2]
    for share in shares[:-1]:
        expected.append(expected[-1] + 0.1 * (0.9 - share) / 0.9)
    assert alphas == pytest.approx(expected)


def test_the_bonus_is_alpha_times_the_mean_advantage_and_grpo_has_none(tmp_path, grpo):
    run(tmp_path / "hicra", "eval.problems=0", "train.steps=1", "hicra.alpha=0.3")
    (record,) = metrics(tmp_path / "hicra")
    bonus = record["advantage/bonus"]
    assert bonus > 0
    planning_mass = record["advantage/planning_mass"]  # of 1.3 A where A > 0, 0.7 A where A < 0
    assert 0.3 / 1.3 * planning_mass < bonus < 0.3 / 0.7 * planning_mass
    assert {r["advantage/bonus"] for r in metrics(grpo)} == {0.0}


def test_semantic_entropy_is_measured_for_every_method_over_the_whole_step(tmp_path, grpo):
    options = ("eval.problems=0", "credit.method=grpo", "train.steps=1", "train.tokens_per_micro_batch=700")
    run(tmp_path / "small", *options)
    names = ("planning/semantic_entropy", "planning/conditional_entropy", "planning/density", "planning/grams_used")
    whole, small = metrics(grpo)[0], metrics(tmp_path / "small")[0]
    assert [whole[name] for name in names] == [small[name] for name in names]
    assert 0 < whole["planning/semantic_entropy"] <= math.log2(whole["planning/grams_used"])


def test_siren_does_not_depend_on_micro_batches(tmp_path):
    options = ("credit.method=grpo", "train.loss.siren={coefficient: 10.0}", "eval.problems=0", "train.steps=2")
    run(tmp_path / "large", *options)
    run(tmp_path / "small", *options, "train.tokens_per_micro_batch=700")
    large, small = state_files(tmp_path / "large", 2), state_files(tmp_path / "small", 2)
    worst = max(float((large[n] - small[n]).abs().max()) for n in large if "exp_avg" in n and "sq" not in n)
    assert worst < 1e-6
    for a, b in zip(metrics(tmp_path / "large"), metrics(tmp_path / "small"), strict=True):
        assert a["siren/peak_entropy"] == pytest.approx(b["siren/peak_entropy"], rel=1e-5)
    assert metrics(tmp_path / "large")[0]["siren/loss"] == 0.0  # the first step is the anchor
    assert metrics(tmp_path / "large")[1]["siren/loss"] > 0.0


def test_placebo_marks_as_much_as_planning_and_is_kept(tmp_path):
    run(tmp_path / "run", "credit.method=placebo", "eval.problems=0", "train.steps=2", "train.prompts_per_step=8")
    states = [
        json.loads((tmp_path / f"run/checkpoints/step_{step:06d}/trainer_state/state.json").read_text())["method"]
        for step in (1, 2)
    ]
    first, second = (state["crediting"]["placebo"] for state in states)
    assert first == second
    densities = first["provenance"]
    assert densities["placebo_density"] == pytest.approx(densities["planning_density"], rel=0.25)  # few responses
    assert all(0 < record["placebo/density"] < 1 for record in metrics(tmp_path / "run"))


def test_a_changed_gram_file_is_not_resumed(tmp_path):
    grams = tmp_path / "grams.txt"
    grams.write_text("it seems\nstep by step\n")
    options = (f"hicra.grams={grams}", "eval.problems=0", "train.steps=1")
    run(tmp_path / "run", *options)
    grams.write_text("it seems\n")
    with pytest.raises(RunFolderError, match=r"trained with other grams \(2, not 1"):
        run(tmp_path / "run", *options, "train.steps=2", resume=True)
