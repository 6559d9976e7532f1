"""Mistakes are caught at the door, with the dotted name, the value seen and what is allowed."""

from pathlib import Path

import pytest

from mmhicra.config_loading import dump_config, load_config
from mmhicra.refusals import ConfigRefusal

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load_and_round_trip(path, tmp_path):
    config = load_config(path)
    written = tmp_path / "config.yaml"
    written.write_text(dump_config(config), encoding="utf-8")
    assert load_config(written) == config


def test_shipped_configs_are_the_papers_recipe():
    assert {path.stem for path in CONFIGS} >= {
        "tiny", "qwen2.5vl_7b", "qwen2.5vl_3b_lora", "mimo_vl_7b", "qwen3vl_8b", "qwen2vl_2b"
    }  # fmt: skip
    for path in CONFIGS:
        config = load_config(path)
        assert (config.hicra.alpha, config.hicra.grams) == (0.2, "published_249")
        assert (config.train.loss.clip_low, config.train.loss.clip_high) == (0.2, 0.28)
        assert config.credit.scale == "none"


def test_every_number_that_the_paper_leaves_open_is_commented():
    for path in CONFIGS:
        if path.stem == "tiny":
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        for field in (
            "n:",
            "prompts_per_step:",
            "learning_rate:",
            "aggregation:",
            "clip_low:",
            "max_pixels:",
        ):
            line = next(line for line in lines if line.strip().startswith(field))
            assert "#" in line, f"{path.name}: {field} has no comment"


def test_overrides_come_after_the_file_and_in_order():
    config = load_config(CONFIGS[0], ["train.steps=7", "train.optimizer.learning_rate=1e-5", "train.steps=9"])
    assert (config.train.steps, config.train.optimizer.learning_rate) == (9, 1e-5)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.stepz=3", "train.stepz is not a known field; did you mean train.steps?"),
        ("trian.steps=3", "trian is not a known field; did you mean train?"),
        ("train.steps=three", "train.steps is 'three'"),
        ("train.steps=2.5", "train.steps is 2.5"),
        ("rollout.vllm.eager=true", "rollout.vllm.eager is not a known field"),
        ("rollout.vllm.memory_fraction=0.5", "rollout: vllm only applies to engine vllm, got engine hf: drop one"),
        ("rollout.prefetch=true", "rollout: prefetch samples while the trainer works, but engine hf"),
        ("rollout={engine: vllm, prefetch: true}", "rollout: prefetch leaves out the steps at which the guard looks"),
        ("rollout={engine: vllm, prefetch: true, vllm: {sleep: true}}", "rollout: prefetch samples"),
        (
            "rollout={engine: vllm, prefetch: true, guard: {every: 9}}",
            "rollout.prefetch is off-policy by one step: set train.loss.correction",
        ),
        ("train.steps=true", "train.steps is True"),
        ("train.steps=0", "train.steps is 0: input should be greater than 0"),
        ("rollout.n=1", "rollout.n is 1: input should be greater than or equal to 2"),
        ("data.preset=foo", "'virl39k', 'geometry3k'"),
        ("hicra.alpha=1.0", "hicra.alpha is 1.0: input should be less than 1"),
        ("model.freeze.language_model=true", "nothing is left to train"),
        ("data.min_pixels=9999999", "min_pixels (9999999) is larger than max_pixels"),
        ("train.minibatches=500", "minibatches (500) is larger than prompts_per_step (64)"),
        ("rollout.max_new_tokens=99999", "train.tokens_per_micro_batch (16384) cannot hold"),
        ("reward.accuracy_weight=0.0", "reward has no term"),
        (
            "reward.custom=[{pat: 3}]",
            "reward.custom.0.pat is not a known field; did you mean reward.custom.0.path?",
        ),
        (
            "model.lora={rank: 8, dropot: 0.1}",
            "model.lora.dropot is not a known field; did you mean model.lora.dropout?",
        ),
        ("train.steps", "write it as section.field=value"),
        ("seed.x=3", "seed is {'x': 3}"),
    ],
)
def test_mistakes_are_named(override, said):
    with pytest.raises(ConfigRefusal) as refusal:
        load_config(None, [override])
    assert said in str(refusal.value)


def test_lora_contradictions_are_refused():
    with pytest.raises(ConfigRefusal, match="set both to true, or drop model.lora"):
        load_config(None, ["model.lora={}", "model.freeze.merger=false"])


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [1", "is not YAML"), ("- 1", "must be a mapping"), ("seed: 1\nseed: 2", "key given twice: seed")],
)
def test_broken_files_are_named(tmp_path, text, said):
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigRefusal, match="broken.yaml") as refusal:
        load_config(path)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigRefusal, match="nowhere.yaml: No such file"):
        load_config(tmp_path / "nowhere.yaml")
