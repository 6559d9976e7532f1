"""The objective that was configured is the one that is trained.

A real trainer with written-down completions against plain formulas, one response at a time through the stock model: the
loss, every gradient before every optimizer step, the weights after it, and the metrics.
"""

from functools import cache

import pytest
import torch
from plain_training import PlainModel, of_tokens
from scripted_trainer import noise, scripted_config, scripted_problems, scripted_trainer
from witness import CONTINUED, Witness

from mmhicra.config import ModelConfig
from mmhicra.train.guard import Misaligned
from mmhicra.vlm.loading import load_policy
from mmhicra.vlm.processing import PromptBuilder

pytestmark = pytest.mark.slow

FAR = ("train.optimizer.learning_rate=4e-3",)
"""Updates move the policy by more than the clip range."""
SEVERAL = ("train.minibatches=2", "train.epochs=2", *FAR)

CASES = {
    "hicra": (),
    "grpo": ("credit.method=grpo", "rollout.temperature=0.7"),
    "sequence_mean": ("train.loss.aggregation=sequence_mean", "credit.scale=std", "hicra.alpha=0.6"),
    "dr_grpo": ("train.loss.aggregation=dr_grpo", "train.epochs=2", "train.optimizer.betas=[0.7, 0.9]"),
    "clips": (*SEVERAL, "train.loss.clip_low=0.1", "train.loss.clip_high=0.5"),
    "gspo": (*SEVERAL, "train.loss.ratio=sequence", "train.loss.clip_low=0.2", "train.loss.clip_high=0.4"),
    "entropy_bonus": ("train.loss.entropy_coefficient=0.3", "credit.method=uniform", "train.epochs=2"),
    "siren": (*SEVERAL, "train.loss.siren={coefficient: 20.0, top_p: 0.7, quantile: 0.6}", "rollout.temperature=1.2"),
    "truncated_token": (*FAR, "train.loss.correction={limit: 1.3}", "train.epochs=2"),
    "masked_token": (*FAR, "train.loss.correction={kind: masked, limit: 1.5}"),
    "truncated_sequence": (*FAR, "train.loss.correction={level: sequence, limit: 1.1}", "rollout.temperature=0.8"),
    "masked_sequence": (*FAR, "train.loss.correction={kind: masked, level: sequence, limit: 6.0}"),
    "kl": ("train.loss.kl_coefficient=0.5", "train.epochs=3", "train.optimizer.weight_decay=3.0"),
    "lora_kl": ("model.lora={rank: 3, alpha: 12}", "train.loss.kl_coefficient=0.8", "train.minibatches=2", *FAR),
    "adapters_everywhere": (
        *("model.freeze={vision_tower: false, merger: false}", "train.tokens_per_micro_batch=1200"),
        "model.lora={rank: 3, alpha: 9, targets: all-linear, dora: true, rslora: true, rank_pattern: {q_proj: 5}, "
        "alpha_pattern: {up_proj: 4}}",
        *("model.checkpointing=full", "train.minibatches=2", "train.loss.kl_coefficient=0.5", *FAR),
    ),
    "merger_beside_adapters": (
        *("model.lora={rank: 3, full_merger: true}", "model.freeze.merger=false", "train.tokens_per_micro_batch=1200"),
        *("train.minibatches=2", "train.loss.kl_coefficient=0.5", *FAR),
    ),
    "continued_kl": ("model.adapter=ADAPTER", "train.loss.kl_coefficient=0.8", "train.minibatches=2", *FAR),
    "continued_kl_to_base": (
        *("model.adapter=ADAPTER", "train.loss.kl_coefficient=0.8", "train.loss.kl_reference=base"),
        "train.minibatches=2",
    ),
    "vision": (
        *("model.freeze={vision_tower: false, merger: false}", "train.tokens_per_micro_batch=1200"),
        "train.optimizer.max_grad_norm=0.01",
    ),
    "plain_rows": (
        *("train.rows=plain", "model.freeze={vision_tower: false, merger: false}", "train.minibatches=2"),
        "train.tokens_per_micro_batch=1200",
    ),
    "checkpointing": ("model.checkpointing=full", "train.optimizer.max_grad_norm=0.05", "train.minibatches=3"),
    "positive": ("credit.method=hicra_positive", "train.optimizer.schedule=linear", "train.minibatches=2"),
    "placebo": ("credit.method=placebo", "hicra.alpha=0.9"),
    "high_entropy": ("credit.method=high_entropy", "credit.top_share=0.6", "hicra.alpha=0.4"),
    "entropy_advantage": ("credit.method=entropy", "credit.entropy_weight=0.02", "credit.entropy_divisor=3.0"),
    "schedule": (
        *("hicra.schedule={end: 0.9, steps: 3}", "train.optimizer.schedule=cosine", "train.steps=3"),
        *("train.optimizer.warmup_steps=2", "train.minibatches=2"),
    ),
    "adaptive_mass": (
        *("hicra.alpha=0.35", "hicra.adaptive={signal: mass, target: 0.5, rate: 0.3}"),
        "credit.scale=std",
    ),
    "cut": ("train.mask_truncated=true", "credit.method=high_entropy", "train.loss.kl_coefficient=0.5"),
    "cut_sequence_mean": (
        *("train.mask_truncated=true", "train.loss.aggregation=sequence_mean", "train.loss.entropy_coefficient=0.3"),
        *("train.rows=plain", "credit.scale=std", "train.minibatches=2"),
    ),
    "cut_dr_grpo": (
        *("train.mask_truncated=true", "train.loss.aggregation=dr_grpo", "train.epochs=2"),
        "train.loss.siren={coefficient: 20.0, top_p: 0.7, quantile: 0.6}",
    ),
    "cut_adaptive": ("train.mask_truncated=true", "hicra.adaptive={signal: mass, target: 0.5, rate: 0.3}"),
    "adaptive_drift": ("hicra.adaptive={signal: kl, target: 0.001, rate: 0.1}", "train.epochs=2"),
}
"""Changes to `scripted_trainer.SMALL`; every case runs all its steps, two if it does not say otherwise."""
ENGINE_NOISE = 0.9
"""How far the engine's log-probs are from the policy's in the cases that correct for it."""
REACHED = {
    "clips": ("loss/clipped_low", "loss/clipped_high"),
    "gspo": ("loss/clipped_low", "loss/clipped_high"),
    "siren": ("siren/loss",),
    "kl": ("loss/kl",),
    **dict.fromkeys(
        ["lora_kl", "adapters_everywhere", "merger_beside_adapters", "continued_kl", "continued_kl_to_base"],
        ("loss/kl",),
    ),
    "adaptive_drift": ("hicra/kl",),
    "adaptive_mass": ("hicra/mass",),
    "placebo": ("placebo/density",),
    **dict.fromkeys(
        [name for name in CASES if name.split("_")[0] in ("truncated", "masked")], ("loss/correction_limited",)
    ),
}
"""Metrics that are above 0 if a case does what it is there for."""


@pytest.fixture(scope="module")
def plain(tiny_model_folder):
    """The stock copy of a tiny model."""
    folder = tiny_model_folder("qwen2_5_vl")
    return PlainModel(folder, load_policy(scripted_config(folder).model).banned_token_ids)


@pytest.fixture(scope="module")
def first_logprobs(plain, tiny_model_folder):
    """(Temperature, prompt, ids) -> (R,) log-probs under the model as it is at first."""
    folder = tiny_model_folder("qwen2_5_vl")
    config = scripted_config(folder)
    loaded = load_policy(config.model)
    builder = PromptBuilder(loaded.processor, loaded.family, loaded.config, config.data)
    prompts = {problem.id: builder.build(problem) for problem in scripted_problems()}

    @cache
    def score(temperature, problem, ids):
        with torch.no_grad():
            return of_tokens(plain.logprobs(plain.weights(), prompts[problem], list(ids), temperature), list(ids))

    return score


@pytest.fixture(scope="module")
def adapter(tiny_model_folder, tmp_path_factory):
    """An adapter that changes what the model says."""
    folder = tmp_path_factory.mktemp("adapter")
    trained = load_policy(ModelConfig(path=str(tiny_model_folder("qwen2_5_vl")), lora=CONTINUED)).model
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(len(name)))
    trained.save_pretrained(folder)
    return folder


@pytest.fixture
def make(plain, first_logprobs, tiny_model_folder, adapter):
    """Overrides -> a scripted trainer with its witness."""

    def made(*overrides, size=0.0):
        overrides = [override.replace("ADAPTER", str(adapter)) for override in overrides]
        config = scripted_config(tiny_model_folder("qwen2_5_vl"), *overrides)
        loaded = load_policy(config.model)

        def logprobs_of(prompt, ids):
            exact = first_logprobs(config.rollout.temperature, prompt.problem.id, tuple(ids))
            return (exact + noise(ids, size)).tolist()

        trainer = scripted_trainer(config, loaded, logprobs_of)
        return trainer, Witness(trainer, plain, loaded)

    return made


@pytest.mark.parametrize("case", CASES)
def test_what_is_configured_is_trained(make, case):
    corrects = any("correction" in override for override in CASES[case])
    trainer, witness = make(*CASES[case], size=ENGINE_NOISE if corrects else 0.0)
    metrics = []
    for _ in range(trainer.config.train.steps):
        numbers, rollouts = trainer.step()
        witness.end_step(numbers)
        metrics.append(numbers)
        witness.compare_records(rollouts)
        witness.compare_engine()
    for name in REACHED.get(case, ()):
        assert max(numbers[name] for numbers in metrics) > 0, name


def test_an_engine_that_does_not_follow_is_stopped_at_the_second_step(make):
    """The scripted engine claims the first weights' log-probs for ever: right once, stale from then on."""
    trainer, witness = make("rollout.guard.every=1")
    numbers, step = trainer.step()
    assert 1 <= numbers["engine/probability_error_worst"] < 1.0001
    assert step.worst_problem is None
    before = {name: p.detach().clone() for name, p in witness.trained().items()}
    with pytest.raises(Misaligned, match=r"rollout.guard.stop_above \(1.001\); worst is problem p"):
        trainer.step()
    assert all(torch.equal(before[name], p) for name, p in witness.trained().items())
