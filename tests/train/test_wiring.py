"""Every field of the configuration arrives where it works: each is set to a value of its own and found again.

`SCENES` lists what a run is assembled from. What a step, the loop or the reading of data takes from the configuration
itself has a test of its own, in the file that `ELSEWHERE` names. A new field has to stand in one of the two.
"""

import json
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from pydantic import BaseModel
from short_runs import TINY

from mmhicra.config import RunConfig
from mmhicra.config.loading import load_config
from mmhicra.core.errors import ConfigError
from mmhicra.core.run_folder import RunFolder
from mmhicra.data.digest import digest_problems
from mmhicra.data.generated.visual_math import generate
from mmhicra.evaluate.scoring.score import TIME_LIMIT
from mmhicra.hicra.grams import GramLibrary
from mmhicra.rollout.vllm.loading import arguments_of
from mmhicra.train.loop.assembly import assemble, refuse_idle_processes
from mmhicra.train.loop.terminal import Terminal
from mmhicra.vlm.family import unwrap
from mmhicra.vlm.loading import load_policy

TESTS = Path(__file__).parents[1]


def half(problem, completion, record):
    """A custom reward."""
    return 0.5


def rewards(run):
    """Of a right answer in the wrong form and a wrong one in the right form, of 28 tokens."""
    problem = run.collector.stream.problems[0]
    texts = (rf"\boxed{{{problem.answer}}}", r"<think>so</think>\boxed{nothing}")
    return [run.collector.rewarder.score_one(problem, text, tokens=28).total for text in texts]


REWARDS = [2.0 + 0.0 - 8.0 * 0.75 + 4.0 * 0.5, 0.0 + 0.5 - 8.0 * 0.75 + 4.0 * 0.5]
"""Accuracy, form, 12 of the last 16 tokens before the limit, and `half`, each by its weight."""


def adapter(run):
    return run.model.peft_config["default"]


def stops(run):
    tokens = run.tokenizer.convert_ids_to_tokens(list(run.collector.sampling.stop_token_ids))
    return "." in tokens


def released(run):
    return run.grams <= {gram.text for gram in GramLibrary.load("released_193").grams}


SCENES = {
    "adapters": {
        "seed": (11, lambda run: run.collector.stream.seed),
        "model.precision": ("bf16", lambda run: run.trainer.unwrapped.precision),
        "model.weights": (
            "bf16",
            lambda run: {str(p.dtype) for name, p in run.model.named_parameters() if "base_layer.weight" in name},
            {"torch.bfloat16"},
        ),
        "model.compile": (
            True,
            lambda run: "_compiled_forward" in vars(unwrap(run.model).model.language_model.layers[0]),
        ),
        "train.logprob_kernel": ("chunks", lambda run: run.trainer.unwrapped.logprob_kernel),
        "model.attention": ("dense", lambda run: run.trainer.unwrapped.attention),
        "model.vision_cache": ("FOLDER", lambda run: str(run.collector.vision.folder)),
        "model.checkpointing": ("full", lambda run: ["none", "full"][unwrap(run.model).is_gradient_checkpointing]),
        "model.checkpointing_layers": (
            2,
            lambda run: sum(
                getattr(m, "gradient_checkpointing", False) for m in run.model.modules() if "Layer" in type(m).__name__
            ),
        ),
        "model.lora.rank": (3, lambda run: adapter(run).r),
        "model.lora.alpha": (12, lambda run: adapter(run).lora_alpha),
        "model.lora.dropout": (0.125, lambda run: adapter(run).lora_dropout),
        "model.lora.targets": (
            ["q_proj"],
            lambda run: sorted({name.split(".lora_")[0].rpartition(".")[2] for name in run.trained}),
        ),
        "data.count": (6, lambda run: len(run.collector.stream.problems)),
        "data.tasks": (["count"], lambda run: sorted({p.task for p in run.collector.stream.problems})),
        "data.shuffle": (False, lambda run: run.collector.stream.shuffle),
        "data.system_prompt": ("Be brief.", lambda run: run.prompt.count("Be brief."), 1),
        "data.instruction": ("In a box.", lambda run: run.prompt.count("In a box."), 1),
        "data.min_pixels": (3000, lambda run: run.collector.prompts.limits["min_pixels"]),
        "data.max_pixels": (90_000, lambda run: run.runner.prompts.limits["max_pixels"]),
        "data.max_prompt_tokens": (333, lambda run: run.collector.prompts.data.max_prompt_tokens),
        "rollout.n": (3, lambda run: run.collector.sampling.n),
        "rollout.temperature": (0.7, lambda run: run.trainer.unwrapped.temperature),
        "rollout.max_new_tokens": (32, lambda run: run.collector.sampling.max_new_tokens),
        "rollout.max_sequences": (9, lambda run: run.collector.engine.max_sequences),
        "rollout.stop_tokens": (["."], stops, True),
        "rollout.stop_strings": (["</answer>"], lambda run: list(run.runner.sampling.stop_strings)),
        "rollout.guard.every": (
            3,
            lambda run: [run.trainer.guard.scheduled(n) for n in (1, 2, 4)],
            [True, False, True],
        ),
        "rollout.guard.warn_above": (1.11, lambda run: run.trainer.guard.limits.warn),
        "rollout.guard.sample_above": (1.77, lambda run: run.trainer.guard.limits.sample),
        "reward.accuracy_weight": (2.0, rewards, REWARDS),
        "reward.format_weight": (0.5, rewards, REWARDS),
        "reward.format_style": ("think_boxed", rewards, REWARDS),
        "reward.length_weight": (8.0, rewards, REWARDS),
        "reward.length_buffer": (16, rewards, REWARDS),
        "reward.custom.path": (f"{__file__}:half", rewards, REWARDS),
        "reward.custom.weight": (4.0, rewards, REWARDS),
        "reward.custom.name": ("half", lambda run: run.collector.rewarder._custom[0].name),
        "reward.custom_attempts": (5, lambda run: run.collector.rewarder._custom[0].patience.attempts),
        "reward.custom_wait": (0.25, lambda run: run.collector.rewarder._custom[0].patience.wait),
        "reward.custom_time_limit": (44.5, lambda run: run.collector.rewarder._custom[0].patience.limit),
        "reward.custom_threads": (2, lambda run: run.collector.rewarder.settings.custom_threads),
        "reward.workers": (1, lambda run: run.collector.rewarder.verifier.workers),
        "reward.time_limit": (7.5, lambda run: run.collector.rewarder.verifier.time_limit),
        "hicra.alpha": (0.4, lambda run: run.trainer.credit_assigner.controller.at(1)),
        "hicra.schedule.end": (0.8, lambda run: run.trainer.credit_assigner.controller.at(99)),
        "hicra.schedule.steps": (5, lambda run: run.trainer.credit_assigner.controller.at(3), pytest.approx(0.6)),
        "hicra.grams": ("released_193", released, True),
        "hicra.min_words": (2, lambda run: min(len(text.split()) for text in run.grams)),
        "hicra.skip_math": (True, lambda run: run.trainer.credit_assigner.matcher.skip_math),
        "hicra.parts": ("answer", lambda run: run.trainer.credit_assigner.matcher.parts),
        "train.logprob_chunk": (9, lambda run: run.trainer.unwrapped.chunk),
        "train.loss.siren.top_p": (0.65, lambda run: run.trainer.unwrapped.nucleus),
        "train.optimizer.offload": (True, lambda run: run.trainer.optimizer.offload),
        "train.optimizer.learning_rate": (3e-5, lambda run: run.trainer.schedule.base_lrs[0]),
        "train.optimizer.betas": ([0.8, 0.95], lambda run: list(run.trainer.optimizer.param_groups[0]["betas"])),
        "train.optimizer.weight_decay": (0.3, lambda run: run.trainer.optimizer.param_groups[0]["weight_decay"]),
        "train.max_skipped_updates": (7, lambda run: run.trainer.updates.limit),
        "eval.problems": (2, lambda run: len(run.parts.held_out)),
        "eval.n": (4, lambda run: run.evaluation.n),
        "eval.temperature": (0.3, lambda run: run.evaluation.temperature),
        "eval.max_new_tokens": (44, lambda run: run.runner.sampling.max_new_tokens),
    },
    "whole model": {
        "model.freeze.vision_tower": (False, lambda run: any("visual.blocks" in name for name in run.trained), True),
        "model.freeze.merger": (False, lambda run: any("visual.merger" in name for name in run.trained), True),
        "model.freeze.language_model": (True, lambda run: any("language_model" in name for name in run.trained), False),
        "data.limit": (5, lambda run: len(run.collector.stream.problems)),
        "rollout.top_p": (0.9, lambda run: run.collector.sampling.top_p),
        "rollout.top_k": (5, lambda run: run.collector.sampling.top_k),
        "rollout.guard.stop_above": (1.33, lambda run: run.trainer.guard.limits.stop),
        "hicra.adaptive.signal": ("kl", lambda run: run.trainer.credit_assigner.controller.signal),
        "hicra.adaptive.target": (0.07, lambda run: run.trainer.credit_assigner.controller.target),
        "hicra.adaptive.minimum": (0.15, lambda run: run.trainer.credit_assigner.controller.minimum),
        "hicra.adaptive.maximum": (0.55, lambda run: run.trainer.credit_assigner.controller.maximum),
        "hicra.adaptive.rate": (0.03, lambda run: run.trainer.credit_assigner.controller.rate),
        "train.optimizer.kind": ("adamw_8bit", lambda run: run.trainer.optimizer.eight_bits, True),
        "train.loss.kl_coefficient": (0.2, lambda run: run.trainer.reference is not None, True),
    },
}
"""Scene -> field -> its value, what is found, and what that should be if it is not the value itself."""

PROBLEMS = {"adapters": 6, "whole model": 5}
"""How many a scene has, and a step takes: just enough."""

VLLM = {
    "memory_fraction": (0.35, "gpu_memory_utilization"),
    "kv_cache_gib": (1.5, "kv_cache_memory_bytes", 3 * 2**29),
    "tensor_parallel": (2, "tensor_parallel_size"),
    "data_parallel": (3, "distributed_executor_backend", "external_launcher"),
    "prefix_caching": (False, "enable_prefix_caching"),
    "chunked_prefill": (False, "enable_chunked_prefill"),
    "batched_tokens": (7777, "max_num_batched_tokens"),
    "execution": ("eager", "enforce_eager", True),
    "quantization": ("fp8", "quantization"),
    "image_cache_gib": (2.5, "mm_processor_cache_gb"),
    "sleep": (True, "enable_sleep_mode"),
}
"""Field of `rollout.vllm` -> its value, the argument of vLLM, and what that should be if it is not the value itself."""

ELSEWHERE = {
    "train/test_trainer_exact.py": "credit.method credit.scale credit.top_share credit.entropy_weight"
    " credit.entropy_divisor train.mask_truncated train.minibatches train.epochs train.tokens_per_micro_batch"
    " train.loss.clip_low train.loss.clip_high train.loss.ratio train.loss.aggregation train.loss.entropy_coefficient"
    " train.loss.correction.kind train.loss.correction.level train.loss.correction.limit train.loss.siren.coefficient"
    " train.loss.siren.quantile train.optimizer.max_grad_norm train.optimizer.schedule train.optimizer.warmup_steps"
    " model.lora.rank_pattern model.lora.alpha_pattern model.lora.dora model.lora.rslora model.lora.full_merger"
    " train.loss.kl_reference",
    "train/test_trainer_steps.py": "train.steps train.prompts_per_step train.dynamic_sampling.max_rounds"
    " rollout.prefetch",
    "train/test_decoder_kernels.py": "model.kernels model.float8",
    "end_to_end/test_options.py": "train.rows rollout.hf.weights",
    "rewards/test_called_at_once.py": "reward.custom_concurrency reward.custom_batch",
    "rewards/test_grounding.py": "reward.terms.name reward.terms.weight reward.terms.coordinates"
    " reward.terms.gold_coordinates",
    "rewards/test_judge.py": "reward.judges.name reward.judges.weight reward.judges.url reward.judges.model"
    " reward.judges.prompt reward.judges.scale reward.judges.api_key_env reward.judges.temperature"
    " reward.judges.timeout reward.judges.retries reward.judges.concurrency reward.judges.requests_per_minute"
    " reward.judges.images reward.judges.price_in reward.judges.price_out",
    "train/test_loop.py": "eval.every eval.keep_best log.checkpoint_every log.checkpoint_async log.weights_every"
    " log.rollouts_every log.rollouts_keep reward.custom_failures",
    "train/test_rollout_files.py": "log.rollouts_share",
    "train/test_checkpoints.py": "log.keep_checkpoints log.checkpoint_gib log.keep_weights",
    "train/test_best.py": "eval.best_by",
    "test_examples.py": "log.callbacks",
    "train/test_run.py": "threads train.rank_timeout train.deterministic",
    "train/test_sinks.py": "log.trackers log.project",
    "end_to_end/test_run_folder.py": "run_folder train.grace_seconds",
    "end_to_end/test_ranks.py": "model.shard",
    "train/test_sharding.py": "parallel.replicate parallel.reshard",
    "train/test_sequence.py": "parallel.sequence",
    "end_to_end/test_benchmarks.py": "eval.benchmarks.name eval.benchmarks.source eval.benchmarks.prompt",
    "evaluate/test_questions.py": "eval.benchmarks.split eval.benchmarks.images eval.benchmarks.subset"
    " eval.benchmarks.limit",
    "rollout/test_vllm_engine.py": "rollout.engine",
    "vlm/test_loading.py": "model.path model.family",
    "vlm/test_adapters.py": "model.adapter model.adapter_mode model.quantize",
    "end_to_end/test_adapters.py": "log.checkpoint_model",
    "data/test_presets.py": "data.columns.question data.columns.answer data.columns.images data.columns.choices"
    " data.columns.kind data.columns.id data.columns.task data.preset",
    "data/test_curriculum.py": "data.curriculum.easy_threshold data.curriculum.hard_threshold data.curriculum.visits"
    " data.curriculum.skip_epochs",
    "vlm/test_processing.py": "data.chat_template_kwargs",
    "data/test_columns.py": "data.columns.unused data.columns.facts",
    "data/test_golds.py": "data.choice_answer",
    "data/test_mixture.py": "data.sources.source data.sources.weight data.sources.name data.sources.preset"
    " data.sources.choice_answer data.sources.split data.sources.eval_source data.sources.eval_split"
    " data.sources.held_out_share data.sources.image_folder data.sources.limit data.sources.instruction"
    " data.sources.reward data.sources.columns.question data.sources.columns.answer data.sources.columns.images"
    " data.sources.columns.choices data.sources.columns.id data.sources.columns.task data.sources.columns.kind"
    " data.sources.columns.facts data.sources.columns.unused",
    "data/test_dataset.py": "data.source data.split data.eval_source data.eval_split data.held_out_share"
    " data.image_folder data.max_refused_share",
}
"""File of tests -> the fields that it shows the effect of; it names each of them."""


def leaves(section, path=""):
    """The dotted names of all fields."""
    for name, field in section.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        kinds += [part for kind in kinds for part in getattr(kind, "__args__", ())]
        parts = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        yield from leaves(parts[0], f"{path}{name}.") if parts else [path + name]


def overrides_of(scene, folder):
    """The scene's fields as a command line has them."""
    values = {name: str(folder / "seen") if value == "FOLDER" else value for name, (value, *_) in SCENES[scene].items()}
    custom = {name.rpartition(".")[2]: values.pop(name) for name in list(values) if name.startswith("reward.custom.")}
    if custom:
        values["reward.custom"] = [custom]
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Scene -> all that a run of it is assembled from."""
    accelerator, terminal = Accelerator(cpu=True), Terminal(quiet=True)
    with ExitStack() as stack:

        @cache
        def assembled(scene):
            folder = tmp_path_factory.mktemp("wiring")
            config = load_config(TINY, [f"train.prompts_per_step={PROBLEMS[scene]}", *overrides_of(scene, folder)])
            parts = assemble(config, RunFolder(folder), accelerator, terminal, stack)
            trainer = parts.trainer
            model, collector = trainer.unwrapped.model, trainer.collector
            return SimpleNamespace(
                folder=folder,
                config=config,
                parts=parts,
                model=model,
                trainer=trainer,
                collector=collector,
                runner=parts.benchmarks.runner,
                evaluation=parts.evaluation_sampling,
                tokenizer=parts.processor.tokenizer,
                prompt=parts.processor.tokenizer.decode(collector.prompts.build(collector.stream.problems[0]).ids),
                trained=[name for name, p in model.named_parameters() if p.requires_grad],
                grams={gram.text for gram in trainer.credit_assigner.matcher.gram_library.grams},
            )

        yield assembled


@pytest.mark.parametrize(("scene", "field"), [(scene, field) for scene, fields in SCENES.items() for field in fields])
def test_a_field_arrives(scenes, scene, field):
    run = scenes(scene)
    value, find, *other = SCENES[scene][field]
    wanted = other[0] if other else str(run.folder / "seen") if value == "FOLDER" else value
    assert find(run) == wanted


def test_one_field_may_work_in_several_places(scenes):
    run = scenes("adapters")
    trainer, guard = run.trainer, run.trainer.guard.limits
    assert run.runner.seed == 11
    assert (run.collector.engine.precision, run.collector.vision.precision) == ("bf16", "bf16")
    assert guard.stop == 1.05, "that of bf16"
    assert run.parts.benchmarks.verifier.workers == 1
    assert run.parts.benchmarks.verifier.time_limit == TIME_LIMIT, "benchmarks are scored as `mmhicra eval` does"
    assert run.runner.prompts.data.instruction == "", "benchmarks have prompts of their own"
    assert run.runner.prompts.data.system_prompt == "Be brief."
    assert run.runner.prompts.limits == run.collector.prompts.limits
    assert run.runner.sampling.stop_token_ids == run.collector.sampling.stop_token_ids
    assert run.evaluation.stop_strings == run.collector.sampling.stop_strings == ("</answer>",)
    assert (run.runner.sampling.n, run.runner.sampling.temperature) == (4, 0.3)
    assert run.runner.at_a_time == 9 // 4
    assert run.evaluation.max_new_tokens == 32
    assert run.collector.policy is trainer.policy


def test_problems_are_drawn_by_the_seed(scenes):
    run = scenes("adapters")
    assert digest_problems(run.collector.stream.problems) == digest_problems(generate("train", 6, 11, ["count"]))
    assert {problem.id for problem in run.parts.held_out} == {p.id for p in generate("held_out", 2, 11, ["count"])}


def test_the_placebo_is_drawn_by_the_seed(scenes, monkeypatch):
    seeds = []

    def drawn(samples, matcher, tokenizer, seed):
        seeds.append(seed)
        return matcher.gram_library

    monkeypatch.setattr("mmhicra.train.credit.placebo_library", drawn)
    scenes("adapters").trainer.credit_assigner.draw_placebo([])
    assert seeds == [11]


def test_what_is_evaluated_is_sampled_from_the_whole_vocabulary(scenes):
    run = scenes("whole model")
    assert [(each.top_p, each.top_k) for each in (run.evaluation, run.runner.sampling)] == [(1.0, 0)] * 2


def test_adapters_begin_as_the_seed_says(scenes):
    run = scenes("adapters")
    own, same, other = (
        [p for name, p in model.named_parameters() if ".lora_A." in name]
        for model in (run.model, *(load_policy(run.config.model, seed).model for seed in (11, 0)))
    )
    assert all(torch.equal(a, b) for a, b in zip(own, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(own, other, strict=True))


def test_what_is_told_of_the_parts_is_what_they_are(scenes):
    run = scenes("adapters")
    counted = {"total": sum(p.numel() for p in run.model.parameters())}
    counted["trained"] = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    assert run.parts.parameters == counted
    assert 0 < counted["trained"] < counted["total"]
    assert run.parts.gram_library is run.trainer.credit_assigner.matcher.gram_library
    assert {problem.id.split("/")[1] for problem in run.parts.held_out} == {"held_out"}
    assert run.parts.refused == 0


def test_every_process_needs_a_prompt():
    config = load_config(TINY, ["train.prompts_per_step=3"])
    refuse_idle_processes(config, SimpleNamespace(num_processes=3))
    with pytest.raises(ConfigError, match=r"prompts_per_step \(3\) leaves some of the 4 processes without a prompt"):
        refuse_idle_processes(config, SimpleNamespace(num_processes=4))


def test_vllm_is_told_everything(tiny_model, monkeypatch):
    """On a machine with a GPU, in six processes."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    options = {name: value for name, (value, *_) in VLLM.items()}
    sizes = ("data={min_pixels: 3000, max_pixels: 90000, max_prompt_tokens: 300}", "rollout.max_sequences=19")
    longest = ("rollout.max_new_tokens=50", "eval.max_new_tokens=70")
    config = load_config(
        None,
        [*sizes, "rollout.engine=vllm", f"rollout.vllm={json.dumps(options)}", *longest],
    )
    found = arguments_of(config, tiny_model("qwen2_5_vl"), 6)
    for name, (value, argument, *other) in VLLM.items():
        assert found[argument] == (other[0] if other else value), name
    assert (found["max_num_seqs"], found["max_model_len"]) == (19, 370), "benchmarks have the longest responses"
    assert found["mm_processor_kwargs"] == {"size": {"shortest_edge": 3000, "longest_edge": 90000}}
    assert found["dtype"] == torch.float32
    with pytest.raises(ConfigError, match=r"tensor_parallel \(2\) x data_parallel \(3\) must be the 4 processes"):
        arguments_of(config, tiny_model("qwen2_5_vl"), 4)


def test_every_field_is_in_one_of_the_lists():
    listed = [name for fields in SCENES.values() for name in fields]
    listed += [f"rollout.vllm.{name}" for name in VLLM]
    for file, names in ELSEWHERE.items():
        text = (TESTS / file).read_text(encoding="utf-8")
        assert [name for name in names.split() if name.rpartition(".")[2] not in text] == [], file
        listed += names.split()
    assert sorted(listed) == sorted(leaves(RunConfig))
