"""Mistakes are caught at the door, with the dotted name, the value seen and what is allowed."""

from pathlib import Path

import pytest

from mmhicra.cli import main
from mmhicra.config.loading import dump_config, load_config
from mmhicra.core.errors import ConfigError

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


def test_the_defaults_are_the_papers():
    """A + 0.2 |A| on planning tokens of the published list, mean-centred only; clip higher; no KL, no bonus."""
    config = load_config(None)
    assert (config.credit.method, config.credit.scale) == ("hicra", "none")
    assert (config.hicra.alpha, config.hicra.grams, config.hicra.min_words) == (0.2, "published_249", 1)
    assert (config.hicra.schedule, config.hicra.adaptive, config.hicra.parts) == (None, None, "all")
    loss = config.train.loss
    assert (loss.clip_low, loss.clip_high, loss.ratio, loss.aggregation) == (0.2, 0.28, "token", "token_mean")
    assert (loss.kl_coefficient, loss.entropy_coefficient, loss.siren, loss.correction) == (0.0, 0.0, None, None)
    assert config.train.updates_per_step == 1  # on-policy
    optimizer = config.train.optimizer
    assert (optimizer.betas, optimizer.weight_decay, optimizer.schedule) == ([0.9, 0.999], 0.0, "constant")
    rollout = config.rollout
    assert (rollout.temperature, rollout.top_p, rollout.top_k, rollout.prefetch) == (1.0, 1.0, 0, False)
    reward = config.reward
    assert (reward.accuracy_weight, reward.format_weight, reward.length_weight, reward.custom) == (1.0, 0.0, 0.0, [])
    assert (config.train.dynamic_sampling.max_rounds, config.eval.temperature) == (1, 0.0)


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
        (
            "model={freeze: {language_model: true}, lora: {}}",
            "model.freeze freezes everything, nothing is left to train",
        ),
        ("model={shard: true, quantize: nf4, lora: {}}", "quantize: nf4 packs rows together: drop one"),
        ("model={shard: true, adapter: sft, adapter_mode: merge}", "write the merged model with `mmhicra merge`"),
        ("parallel.replicate=2", "model.shard is false: set model.shard to true, or drop parallel.replicate"),
        ("parallel.reshard=never", "model.shard is false: set model.shard to true, or drop parallel.reshard"),
        ("model={lora: {}, adapter: sft}", "drop lora, or set adapter_mode to merge"),
        ("model={adapter_mode: merge}", "there is none: set adapter, or drop it"),
        ("model={lora: {full_merger: true}}", "which freeze.merger freezes: set freeze.merger to false"),
        ("model={quantize: nf4}", "cannot be trained themselves: add lora"),
        ("model={quantize: nf4, lora: {}, adapter: sft, adapter_mode: merge}", "write it with `mmhicra merge`"),
        ("model={vision_cache: seen, lora: {}, freeze: {vision_tower: false}}", "vision_cache keeps what a frozen"),
        ("log.checkpoint_model=adapter", "but all weights are trained: set it to full"),
        ("train.loss.kl_reference=base", "none is continued and the start is the base: set it to start"),
        ("model={vision_cache: seen, freeze: {merger: false}}", "vision_cache keeps what a frozen vision tower sees"),
        ("hicra.schedule={end: 0.1, steps: 5, extra: 1}", "hicra.schedule.extra is not a known field"),
        (
            "credit={method: grpo}\nhicra={schedule: {end: 0.1, steps: 5}}",
            "hicra.schedule moves alpha, which credit.method",
        ),
        (
            "credit={method: entropy}\nhicra={adaptive: {signal: mass, target: 0.5}}",
            "hicra.adaptive moves alpha, which",
        ),
        (
            "hicra={schedule: {end: 0.1, steps: 5}, adaptive: {signal: kl, target: 0.5}}",
            "hicra: schedule and adaptive both move alpha: drop one",
        ),
        (
            "hicra={alpha: 0.6, adaptive: {signal: kl, target: 0.5}}",
            "alpha (0.6) starts outside the bounds of adaptive",
        ),
        ("hicra={alpha: 0.1, adaptive: {signal: kl, target: 1, minimum: 0.2}}", "of adaptive (0.2 to 0.5): move one"),
        (
            "train.rows=plain\nmodel.attention=dense",
            "model.attention dense is for rows that share a prompt, train.rows: plain attends as transformers does",
        ),
        (
            "reward={length_weight: 0.5, length_buffer: 1025}",
            "reward.length_buffer (1025) is longer than rollout.max_new",
        ),
        ("train.loss.correction={}\nrollout.top_p=0.9", "train.loss.correction compares whole distributions, but"),
        ("train.loss.correction={}\nrollout.top_k=5", "set them to 1 and 0, or drop the correction"),
        (
            "rollout={engine: vllm, prefetch: true, guard: {every: 9}}\ntrain.loss.correction={}\n"
            "train.dynamic_sampling.max_rounds=2",
            "rollout.prefetch samples a step ahead, train.dynamic_sampling.max_rounds samples more now: drop one",
        ),
        (
            "train.loss={siren: {}, entropy_coefficient: 0.1}",
            "entropy_coefficient and siren both regularise the entropy",
        ),
        (
            "train.optimizer={schedule: linear, warmup_steps: 100}",
            "optimizer.warmup_steps (100) leaves nothing of the 100 optimizer steps",
        ),
        (
            "data={tasks: [count], source: rows.jsonl}",
            "tasks only applies to the sources visual_math and visual_ledger",
        ),
        ("model.weights=bf16", "holds what precision: bf16 computes with, but precision is fp32: set both to bf16"),
        (
            "model={weights: bf16, precision: bf16, lora: {}, quantize: nf4}",
            "weights: bf16 and quantize: nf4 both say how frozen weights are held: drop weights",
        ),
        ("eval.benchmarks=[{name: emma}, {name: emma}]", "benchmarks lists emma twice: keep one"),
        ("eval.temperature=0.001", "temperature is 0.001: it should be 0, which is greedy, or at least 0.01"),
        ("run_folder=''", "run_folder: the path is empty"),
        ("model.path=" + "x" * 5000, "model.path: the path xxxx"),
        ("hicra.grams=a/" + "x" * 256, "is longer (258) than file systems take"),
        (
            "model.vision_cache=~nosuchuser/x",
            "model.vision_cache: the path ~nosuchuser/x: there is no such user's home",
        ),
        ("run_folder=s3://bucket/run", "run_folder: the path is an address (s3:/...), which would become a folder"),
        ("model.vision_cache=file:///tmp/x", "model.vision_cache: the path is an address (file:/...)"),
        ("data.source=https://me:SECRET@host/x.jsonl", "data.source: the path is an address (https:/...)"),
        ("eval.benchmarks=[{name: emma, source: 'hf://a/b'}]", "source: the path is an address (hf:/...)"),
        (
            "reward.format_weight=1e-320",
            "reward.format_weight: the weight 9.99989e-321 is lost in float32",
        ),
        ("train.optimizer.learning_rate=1e-300", "learning_rate is 1e-300: input should be greater than or equal to"),
        ('data.source="a\\nb"', "data.source: the path 'a\\nb' holds a control character"),
        ("train.optimizer.betas=[0.9]", "train.optimizer.betas is [0.9]: list should have at least 2 items"),
        ("train.optimizer.betas=[0.9, 0.9, 0.9]", "list should have at most 2 items"),
        ("train.optimizer.betas=[0.9, 1]", "train.optimizer.betas.1 is 1: input should be less than 1"),
    ],
)
def test_mistakes_are_named(override, said):
    with pytest.raises(ConfigError) as refusal:
        load_config(None, override.split("\n"))
    assert said in str(refusal.value)
    assert "SECRET" not in str(refusal.value)


@pytest.mark.parametrize(
    ("least", "most"),
    [
        ("train.optimizer.betas=[0.0, 0.0]", "train.optimizer.betas=[0.999999, 0.999999]"),
        ("seed=0", f"seed={2**63 - 1}"),
        ("train.optimizer.learning_rate=1e-12", "train.optimizer.learning_rate=1"),
        ("train.loss.kl_coefficient=1e-9", "train.loss.kl_coefficient=1e4"),
        ("rollout.temperature=0.01", "rollout.temperature=100"),
        ("eval.temperature=0", "eval.temperature=100"),
        ("threads=0", "threads=1024"),
        ("hicra.alpha=0", "hicra.alpha=0.999"),
        ("data={min_pixels: 1}", "data={max_pixels: 100000000}"),
    ],
)
def test_the_ends_of_what_is_allowed_are_allowed(least, most):
    load_config(None, [least])
    load_config(None, [most])


@pytest.mark.parametrize(
    ("allowed", "refused"),
    [
        (
            "data.max_prompt_tokens=100; rollout.max_new_tokens=60; train.tokens_per_micro_batch=160",
            "train.tokens_per_micro_batch=159",
        ),
        ("reward.length_weight=1; rollout.max_new_tokens=700; reward.length_buffer=700", "reward.length_buffer=701"),
        ("reward.length_buffer=9999", "reward.length_weight=0.1"),
        ("train.minibatches=64", "train.minibatches=65"),
        ("data.min_pixels=5000; data.max_pixels=5000", "data.max_pixels=4999"),
        ("train.optimizer.schedule=cosine; train.optimizer.warmup_steps=99", "train.optimizer.warmup_steps=100"),
        ("train.optimizer.warmup_steps=200", "train.optimizer.schedule=linear"),
        ("hicra.adaptive={signal: mass, target: 0.5, minimum: 0.2}", "hicra.alpha=0.19"),
        ("hicra.adaptive={signal: mass, target: 0.5, maximum: 0.2}", "hicra.alpha=0.21"),
        ("eval.temperature=0.01", "eval.temperature=0.009"),
        ("reward.accuracy_weight=0; reward.format_weight=0.1", "reward.format_weight=0"),
        ("reward.accuracy_weight=0; reward.length_weight=0.1", "reward.length_weight=0"),
        ("reward.accuracy_weight=0; reward.custom=[{path: 'math:hypot'}]", "reward.custom=[]"),
        ("rollout.top_p=0.9; rollout.top_k=5", "train.loss.correction={}"),
        ("train.loss.correction={}; rollout.top_p=1.0; rollout.top_k=0", "rollout.top_k=1"),
        ("train.loss.entropy_coefficient=0; train.loss.siren={}", "train.loss.entropy_coefficient=0.001"),
    ],
)
def test_fields_may_go_as_far_as_they_contradict_each_other(allowed, refused):
    overrides = allowed.split("; ")
    load_config(None, overrides)
    with pytest.raises(ConfigError):
        load_config(None, [*overrides, refused])


def test_what_the_parts_of_a_configuration_say_together():
    assert load_config(None).longest_sequence == 2048 + 1024
    assert load_config(None, ["eval.max_new_tokens=3000"]).longest_sequence == 2048 + 3000
    assert load_config(None, ["eval.max_new_tokens=30"]).longest_sequence == 2048 + 1024
    methods = {"grpo": False, "entropy": False, "hicra": True, "hicra_positive": True, "placebo": True}
    methods |= {"high_entropy": True, "uniform": True}
    assert {name: load_config(None, [f"credit.method={name}"]).amplifies for name in methods} == methods
    cuts = [load_config(None, [f"rollout={{top_p: {p}, top_k: {k}}}"]).rollout.cuts for p in (1.0, 0.9) for k in (0, 5)]
    assert cuts == [False, True, True, True]
    assert load_config(None, ["train={minibatches: 3, epochs: 2}"]).train.updates_per_step == 6


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.yaml: No such file"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(("text", "said"), [("model: 5", "model is a value, not a section"), ("train: null", "")])
def test_options_of_eval_over_an_odd_file(tmp_path, capsys, text, said):
    """`mmhicra eval` sets fields of sections that a file may have made something else of."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    options = ["--set", "seed=x"]  # ends what is otherwise whole before a model is loaded
    assert main(["eval", "--model", "tiny_vlm", "--config", str(path), *options]) == 2
    assert (said or "seed is 'x'") in capsys.readouterr().err
