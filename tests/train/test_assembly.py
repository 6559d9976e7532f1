"""What a configuration is turned into before the first step."""

from dataclasses import replace

import pytest
from scripted_trainer import scripted_config, scripted_trainer

from mmhicra.config.loading import load_config
from mmhicra.core.errors import ConfigError
from mmhicra.train.loop.assembly import evaluation_sampling, make_guard, refuse_unfit_rows
from mmhicra.train.loop.terminal import Terminal
from mmhicra.train.update.optimizer import warmup_and_decay
from mmhicra.vlm.loading import load_policy


@pytest.fixture(scope="module")
def folder(tiny_model_folder):
    return tiny_model_folder("qwen2_5_vl")


def test_evaluation_samples_from_the_whole_vocabulary_at_its_own_temperature(folder, tiny_model):
    config = scripted_config(
        folder,
        *("rollout.top_p=0.9", "rollout.top_k=5", "rollout.temperature=1.3", "eval.temperature=0.0", "eval.n=2"),
    )
    sampling = evaluation_sampling(config, tiny_model("qwen2_5_vl"))
    assert (sampling.top_p, sampling.top_k, sampling.temperature, sampling.n) == (1.0, 0, 0.0, 2)


def test_training_samples_as_configured(folder):
    config = scripted_config(
        folder,
        *("rollout.top_p=0.9", "rollout.top_k=5", "rollout.temperature=1.3", "eval.temperature=0.0", "eval.n=2"),
        *("rollout.max_new_tokens=33", "train.logprob_chunk=9", "model.attention=dense", "rollout.stop_tokens=['.']"),
    )
    loaded = load_policy(config.model)
    trainer = scripted_trainer(config, loaded, lambda prompt, ids: [0.0] * len(ids))
    sampling, policy = trainer.collector.sampling, trainer.unwrapped
    assert (sampling.top_p, sampling.top_k, sampling.temperature, sampling.n) == (0.9, 5, 1.3, 3)
    assert sampling.max_new_tokens == 33
    stops = {loaded.tokenizer.convert_tokens_to_ids(token) for token in (".", "<|im_end|>", "<|endoftext|>")}
    assert set(sampling.stop_token_ids) == stops
    assert sampling.banned_token_ids == tuple(loaded.banned_token_ids) == tuple(policy.banned.tolist())
    assert loaded.tokenizer.convert_tokens_to_ids("<|image_pad|>") in sampling.banned_token_ids
    assert (policy.temperature, policy.chunk, policy.attention, policy.nucleus) == (1.3, 9, "dense", None)
    assert trainer.reference is None
    stop = loaded.tokenizer.convert_tokens_to_ids(".")
    assert trainer.credit_assigner.matcher.mask([stop]).tolist() == [False]


def test_a_row_must_hold_the_patches_of_a_trained_vision_side(tiny_model):
    """100 tokens, all of them of images of four patches each, and a response of 60: 560."""
    loaded = tiny_model("qwen2_5_vl")
    sizes = ("data.max_prompt_tokens=100", "rollout.max_new_tokens=60")
    for budget, frozen in ((560, False), (160, True)):
        options = (f"model.freeze.merger={str(frozen).lower()}", f"train.tokens_per_micro_batch={budget}")
        refuse_unfit_rows(load_config(None, [*sizes, *options]), loaded)
    small = load_config(None, [*sizes, "model.freeze.merger=false", "train.tokens_per_micro_batch=559"])
    with pytest.raises(ConfigError, match=r"\(559\) .*, and 4 patches for every image token .*= 560"):
        refuse_unfit_rows(small, loaded)


def test_a_family_that_cannot_share_prompts_is_told_of_plain_rows(tiny_model):
    loaded = tiny_model("qwen2_5_vl")
    alone = replace(loaded, family=replace(loaded.family, name="alone", shares_prompts=False))
    refuse_unfit_rows(load_config(None, ["train.rows=plain"]), alone)
    with pytest.raises(ConfigError, match="models of the family alone cannot do: set train.rows: plain"):
        refuse_unfit_rows(load_config(None, []), alone)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", [0.25, 0.5, 0.75, 1, 1, 0.9330127, 0.75, 0.5, 0.25, 0.0669873]),
    ],
)
def test_the_learning_rate_of_every_update(folder, schedule, factors):
    """Warm-up and decay count updates, two a step here; after the last the rate would be 0."""
    config = scripted_config(
        folder,
        *("train.steps=5", "train.minibatches=2", "train.optimizer.warmup_steps=4"),
        f"train.optimizer.schedule={schedule}",
    )
    factor = warmup_and_decay(config)
    assert [factor(update) for update in range(10)] == pytest.approx(factors)
    assert factor(10) == pytest.approx(1.0 if schedule == "constant" else 0.0)
    assert factor(20) == pytest.approx(1.0 if schedule == "constant" else 0.0), "more updates than planned"


@pytest.mark.parametrize(
    ("overrides", "lines"), [((), 0), (("rollout.top_p=0.9",), 1), (("rollout.guard.every=0",), 0)]
)
def test_a_run_without_guard_says_why(folder, capsys, overrides, lines):
    make_guard(scripted_config(folder, "rollout.guard.every=1", *overrides), Terminal())
    assert capsys.readouterr().out.count("alignment guard: off") == lines


def test_the_smallest_kl_coefficient_loads_a_reference(folder):
    config = scripted_config(folder, "train.loss.kl_coefficient=1e-6")
    loaded = load_policy(config.model)
    reference = scripted_trainer(config, loaded, lambda prompt, ids: [0.0] * len(ids)).reference
    assert reference is not None
    assert not any(parameter.requires_grad for parameter in reference.policy.parameters())
