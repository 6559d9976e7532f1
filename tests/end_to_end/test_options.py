"""Every option of the trainer in a real run, and checkpoints that others can load."""

import json

import pytest
import torch
from rollout_lines import read_rollouts
from short_runs import metrics, run, state_files
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.flops import count_flops
from mmhicra.config import ModelConfig
from mmhicra.config.loading import load_config
from mmhicra.core.resources import asset_path
from mmhicra.hicra.grams import GramLibrary
from mmhicra.hicra.planning import planning_mask
from mmhicra.train.loop.rollout_records import spans
from mmhicra.train.update.policy import Policy
from mmhicra.vlm.loading import load_policy

pytestmark = pytest.mark.slow


def cuts_sampling(folder, record, plain):
    assert record["engine/logprob_gap"] > 1e-3, "the trainer does not follow the cut"
    assert "engine/probability_error_worst" not in record, "so no guard looks"
    assert record["entropy/all"] > 0


def samples_cooler(folder, record, plain):
    assert record["engine/logprob_gap_max"] < 1e-4
    assert record["entropy/all"] < 0.9 * plain["entropy/all"]


def computes_in_bf16(folder, record, plain):
    assert json.loads((folder / "checkpoints/step_000001/config.json").read_text())["dtype"] == "bfloat16"
    assert 1e-4 < record["engine/logprob_gap_max"] < 0.5
    assert record["engine/probability_error"] < 1.02


def samples_from_rounded_weights(folder, record, plain):
    """The engine is as far off as with bf16, and the loss makes up for it; the weights stay float32."""
    assert json.loads((folder / "checkpoints/step_000001/config.json").read_text())["dtype"] == "float32"
    assert 1e-4 < record["engine/logprob_gap_max"] < 0.5
    assert 1.0005 < record["engine/probability_error"] < 1.02
    assert record["loss/correction"] == pytest.approx(1.0, abs=0.02)
    assert record["loss/correction"] != 1.0


def computes_the_same(folder, record, plain):
    for name in ("loss/per_token", "entropy/all", "entropy/planning", "logprob/execution", "optimizer/grad_norm"):
        assert record[name] == pytest.approx(plain[name], rel=1e-4, abs=1e-6)


def trains_the_vision_side(folder, record, plain):
    names = {name.split(".")[2] for name in state_files(folder, 1) if name.startswith("model.")}
    assert names == {"language_model", "visual", "weight"}
    before = load_policy(ModelConfig()).model.state_dict()
    after = state_files(folder, 1)
    vision = [name for name in after if ".visual." in name and name.startswith("model.")]
    assert all(not torch.equal(before[name.removeprefix("model.")], after[name]) for name in vision)


def adds_up_its_reward(folder, record, plain):
    parts = [record[f"reward/part_{name}"] for name in ("accuracy", "format", "length")]
    assert record["reward/mean"] == pytest.approx(parts[0] + 0.1 * parts[1] + 0.1 * parts[2])
    assert 0 < parts[1] <= 1
    assert -1 < parts[2] < 0
    assert read_rollouts(folder)[0]["prompt"].endswith("/000000"), "not shuffled"


def marks_other_grams(folder, record, plain):
    grams = {gram[0] for each in read_rollouts(folder) for gram in each["grams"]}
    assert grams
    assert all(len(gram.split()) >= 2 for gram in grams)
    assert grams <= {gram.text for gram in GramLibrary.load("released_193").grams}
    assert 0 < record["planning/density"] < plain["planning/density"]


@pytest.mark.parametrize(
    ("check", "overrides"),
    [
        (cuts_sampling, ("train.dynamic_sampling.max_rounds=3", "rollout.top_p=0.9", "rollout.top_k=20")),
        (samples_cooler, ("rollout.temperature=0.7",)),
        (computes_in_bf16, ("model.precision=bf16", "model.checkpointing=full")),
        (samples_from_rounded_weights, ("rollout.hf.weights=bf16", "train.loss.correction={}")),
        (computes_the_same, ("model.attention=dense", "train.tokens_per_micro_batch=700")),
        (computes_the_same, ("train.rows=plain",)),
        (trains_the_vision_side, ("model.freeze={vision_tower: false, merger: false}",)),
        (
            adds_up_its_reward,
            ("reward.format_weight=0.1", "reward.length_weight=0.1", "reward.length_buffer=94", "data.shuffle=false"),
        ),
        (marks_other_grams, ("hicra.grams=released_193", "hicra.min_words=2", "hicra.skip_math=true")),
    ],
    ids=lambda value: value.__name__ if callable(value) else "options",
)
def test_an_option_does_what_it_says_and_saves(tmp_path, finished_run, check, overrides):
    """The objective itself is compared in tests/train/test_trainer_exact.py; this is what only a run shows."""
    run(tmp_path / "run", "train.steps=1", "eval.problems=0", *overrides)
    after = AutoModelForImageTextToText.from_pretrained(tmp_path / "run/checkpoints/step_000001").state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    check(tmp_path / "run", metrics(tmp_path / "run")[-1], metrics(finished_run)[1])


def test_entropies_by_token_class_are_those_of_the_rollout_files(finished_run):
    """The paper's plots, from what each token is recorded to have had."""
    for step in (1, 2, 3):
        record, planning, execution = metrics(finished_run)[step], [], []
        for each in read_rollouts(finished_run, step):
            if each["kept"]:
                marked = {t for start, end in each["planning"] for t in range(start, end)}
                for t, entropy in enumerate(each["entropy"]):
                    (planning if t in marked else execution).append(entropy)
        assert len(planning) > 10
        assert record["entropy/planning"] == pytest.approx(sum(planning) / len(planning), abs=2e-5)
        assert record["entropy/execution"] == pytest.approx(sum(execution) / len(execution), abs=2e-5)
        both = planning + execution
        assert record["entropy/all"] == pytest.approx(sum(both) / len(both), abs=2e-5)
        first = metrics(finished_run)[1]
        assert record["entropy/planning_relative"] == pytest.approx(
            record["entropy/planning"] / first["entropy/planning"]
        )


def test_several_updates_use_log_probs_from_before_the_first(tmp_path):
    run(tmp_path / "run", "train.steps=1", "train.epochs=3", "train.optimizer.learning_rate=1e-3")
    (record,) = metrics(tmp_path / "run")[1:]
    assert record["loss/ratio_max"] > 1.01  # the second and third pass have moved away
    assert record["engine/logprob_gap_max"] < 1e-4  # against the log-probs from before


def test_on_policy_makes_one_forward_pass(tmp_path, monkeypatch):
    passes = []
    forward = Policy.forward
    monkeypatch.setattr(Policy, "forward", lambda self, batch: passes.append(batch) or forward(self, batch))
    run(tmp_path / "one", "train.steps=1", "eval.problems=0")
    assert len(passes) == 1  # all four groups fit one micro-batch
    run(tmp_path / "two", "train.steps=1", "eval.problems=0", "train.epochs=2")
    assert len(passes) == 1 + 3  # before the first update, and once an epoch


def test_the_speed_of_the_update_is_that_of_its_forward_passes(tmp_path, monkeypatch):
    counted, forward = [], Policy.forward

    def count(self, batch):
        found = []
        counted.append(count_flops(lambda: found.append(forward(self, batch))))
        return found[0]

    monkeypatch.setattr(Policy, "forward", count)
    run(tmp_path / "run", "train.steps=1", "eval.problems=0", "train.epochs=2")
    record = json.loads((tmp_path / "run/metrics.jsonl").read_text())
    operations = record["speed/update_tflops"] * 1e12 * (record["time/forward"] + record["time/backward"])
    assert operations == pytest.approx(3 * sum(counted[1:]), rel=0.01)  # the first looks back


def test_on_policy_ratios_are_one_and_the_engine_agrees(finished_run):
    for record in metrics(finished_run)[1:]:
        assert record["loss/ratio"] == record["loss/ratio_max"] == 1.0
        assert record["engine/logprob_gap_max"] < 1e-4


def test_dynamic_sampling_refills_and_counts(tmp_path):
    run(tmp_path / "plain", "train.steps=2")
    run(tmp_path / "refilled", "train.steps=2", "train.dynamic_sampling.max_rounds=8")
    plain, refilled = metrics(tmp_path / "plain")[1:], metrics(tmp_path / "refilled")[1:]
    assert [record["group/kept"] for record in refilled] == [4.0, 4.0]
    assert sum(record["group/kept"] for record in plain) < 8
    assert all(record["group/kept"] + record["group/dropped"] == 4 for record in plain)


def test_kl_pulls_towards_the_reference(tmp_path):
    options = ("train.optimizer.learning_rate=1e-3", "train.steps=6")
    run(tmp_path / "free", *options, "train.loss.kl_coefficient=1e-9")
    run(tmp_path / "held", *options, "train.loss.kl_coefficient=100.0")
    free, held = metrics(tmp_path / "free"), metrics(tmp_path / "held")
    assert free[1]["loss/kl"] == held[1]["loss/kl"] == 0.0
    assert 0 < held[6]["loss/kl"] < free[6]["loss/kl"] / 2


def test_checkpoint_equals_the_trained_weights(finished_run):
    folder = finished_run / "checkpoints" / "step_000003"
    loaded = AutoModelForImageTextToText.from_pretrained(folder).state_dict()
    for name, tensor in state_files(finished_run, 3).items():
        if name.removeprefix("model.") in loaded:
            assert torch.equal(loaded[name.removeprefix("model.")], tensor)
    assert AutoProcessor.from_pretrained(folder).tokenizer("Let me verify").input_ids
    assert load_config(finished_run / "config.yaml").train.steps == 3


def test_lora_trains_adapters_and_saves_a_merged_model(tmp_path):
    summary = run(tmp_path / "run", "model.lora={rank: 4, alpha: 8}", "train.loss.kl_coefficient=0.01")
    assert summary["parameters"]["trained"] < summary["parameters"]["total"] / 10
    trained = state_files(tmp_path / "run", 3)
    weights = [name for name in trained if name.startswith("model.")]  # the others are the optimizer's moments
    assert len(weights) == 2 * 7 * 4
    assert all("lora_" in name for name in weights)
    folder = tmp_path / "run" / "checkpoints" / "step_000003"
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
    loaded = AutoModelForImageTextToText.from_pretrained(folder).state_dict()
    expected = AutoModelForImageTextToText.from_pretrained(asset_path("tiny_vlm"), dtype=torch.float32).state_dict()
    for name in [name for name in weights if ".lora_A." in name]:
        down, up = trained[name], trained[name.replace(".lora_A.", ".lora_B.")]
        assert up.abs().max() > 0
        adapted = name.removeprefix("model.base_model.model.").removesuffix(".lora_A.default.weight") + ".weight"
        expected[adapted] = expected[adapted] + 8 / 4 * up @ down
    assert expected.keys() == loaded.keys()
    for name in expected:
        torch.testing.assert_close(loaded[name], expected[name], rtol=0, atol=1e-7)


def test_rollout_files_say_what_was_sampled_and_marked(finished_run):
    records = read_rollouts(finished_run)
    assert len(records) == 4 * 4
    tokenizer = AutoProcessor.from_pretrained(finished_run / "checkpoints" / "step_000001").tokenizer
    library = GramLibrary.load("published_249")
    control = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    for record in records:
        assert record["images"][0].endswith(".png")
        assert record["reward"]["verdict"] in {"right", "wrong", "no-answer"}
        assert tokenizer.decode([id for id in record["ids"] if id not in control]) == record["response"]
        assert record["planning"] == spans(planning_mask(record["ids"], tokenizer, library))
    assert any(record["planning"] for record in records)
    groups = [records[i : i + 4] for i in range(0, 16, 4)]
    for group in groups:
        assert sum(record["advantage"] for record in group) == pytest.approx(0, abs=1e-6)
        assert group[0]["kept"] == any(record["advantage"] for record in group)


def test_metrics_hold_every_number_the_terminal_shows(tmp_path, capsys):
    run_loudly(tmp_path / "run", "reward.length_weight=1", "reward.length_buffer=96")
    shown = capsys.readouterr().out
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert record["reward/mean"] < record["accuracy/mean"]
    (line,) = [line.split() for line in shown.splitlines() if line.startswith("1/1 ")]
    for name, layout in (
        ("reward/mean", ".3f"),
        ("accuracy/mean", ".3f"),
        ("response/length", ".0f"),
        ("entropy/all", ".3f"),
        ("group/kept", ".0f"),
        ("planning/density", ".1%"),
        ("time/step", ".2f"),
        ("time/rollout", ".2f"),
    ):
        assert f"{record[name]:{layout}}" in line
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert f"{summary['held_out']['after']['mean']:.1%} (95 % interval" in shown
    assert summary["paths"]["checkpoint"] in shown.replace("\n", "")


def run_loudly(folder, *overrides):
    from short_runs import short_config

    from mmhicra.cli import main

    folder.parent.mkdir(exist_ok=True)
    config = folder.parent / "config.yaml"
    from mmhicra.config.loading import dump_config

    config.write_text(dump_config(short_config(folder, "train.steps=1", *overrides)), encoding="utf-8")
    assert main(["train", "--config", str(config)]) == 0
