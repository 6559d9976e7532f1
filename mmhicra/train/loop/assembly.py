"""Put a trainer together: data is checked first, then model, engine, rewards and optimizer are made."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from mmhicra.config import RunConfig
from mmhicra.core.errors import ConfigError
from mmhicra.core.manifest import refuse_damaged_model
from mmhicra.core.memory import MemoryGauge
from mmhicra.core.records import Problem
from mmhicra.core.run_folder import RunFolder
from mmhicra.data.dataset import Loaded
from mmhicra.evaluate.questions import QuestionSet
from mmhicra.evaluate.runner import make_runner
from mmhicra.evaluate.scoring.score import TIME_LIMIT
from mmhicra.hicra.grams import GramLibrary
from mmhicra.hicra.own_method import try_method
from mmhicra.hicra.planning import PlanningMatcher
from mmhicra.rewards.by_source import make_rewarder
from mmhicra.rewards.reward import Rewarder
from mmhicra.rewards.workers import Verifier
from mmhicra.rollout import engines
from mmhicra.rollout.engine import Engine, Sampling, sampling_of
from mmhicra.rollout.engines import check_engine
from mmhicra.train.collector import Collector
from mmhicra.train.credit import CreditAssigner, credit_options
from mmhicra.train.distributed.balance import Work
from mmhicra.train.distributed.group_sharing import GroupSharing
from mmhicra.train.distributed.mesh import refuse_layout
from mmhicra.train.distributed.placing import split_policy
from mmhicra.train.distributed.processes import sharded
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.train.distributed.sequence import SequenceGroup
from mmhicra.train.distributed.sharding import GatheringEngine
from mmhicra.train.guard import AlignmentGuard
from mmhicra.train.loop.benchmarks import Benchmarks, load_benchmarks
from mmhicra.train.loop.callbacks import Callbacks
from mmhicra.train.loop.metrics import Timers
from mmhicra.train.loop.problems import load_checked_problems, make_stream
from mmhicra.train.loop.terminal import Terminal
from mmhicra.train.trainer import Trainer
from mmhicra.train.update.attention import choose
from mmhicra.train.update.fitting import checkpointing_that_fits
from mmhicra.train.update.logprob import choose_kernel
from mmhicra.train.update.optimizer import describe_optimizer, make_optimizer, refuse_optimizer, warmup_and_decay
from mmhicra.train.update.policy import Policy
from mmhicra.train.update.reference import Reference
from mmhicra.train.update.rows import refuse_unfit_sequence
from mmhicra.train.update.updates import UpdateCount
from mmhicra.vlm.decoder_kernels import compile_layers, use_kernels
from mmhicra.vlm.features import FrozenVision
from mmhicra.vlm.half_weights import Masters, round_weights
from mmhicra.vlm.loading import LoadedModel, LoadedProcessor, load_policy, load_processor
from mmhicra.vlm.processing import PromptBuilder


@dataclass(frozen=True)
class Assembly:
    """A trainer and what the run around it needs."""

    trainer: Trainer
    processor: Any
    gram_library: GramLibrary
    held_out: list[Problem]
    evaluation_sampling: Sampling
    benchmarks: Benchmarks
    callbacks: Callbacks
    refused: int
    parameters: dict[str, int]


@dataclass(frozen=True)
class Inputs:
    """What was checked before any weight is loaded, where a mistake costs seconds."""

    gram_library: GramLibrary
    rewarder: Rewarder
    prompts: PromptBuilder
    problems: Loaded
    question_sets: list[QuestionSet]
    verifier: Verifier
    callbacks: Callbacks


def assemble(
    config: RunConfig, folder: RunFolder, accelerator: Accelerator, terminal: Terminal, stack: ExitStack
) -> Assembly:
    """Everything a run needs, made in the order in which a mistake is cheapest to find.

    Args:
        config: a checked configuration.
        folder: where `refused.jsonl` goes.
        accelerator: of this process.
        terminal: where progress is shown.
        stack: closes the reward workers and the engine when the run ends.

    Raises:
        UserError: the grams, the data or the model cannot be used.
    """
    with Ranks(accelerator).refusing_together():  # what one node lacks, e.g. the model's folder, ends the others too
        inputs = check_inputs(config, folder, accelerator, terminal, stack)
    options = checkpointing_that_fits(config, inputs.prompts, accelerator, terminal.say)
    with Ranks(accelerator).refusing_together():
        model = load_policy(options, config.seed)
    parameters = count_parameters(model.model)
    library = inputs.gram_library
    terminal.say(
        f"model {config.model.path}: {parameters['total']:,} parameters, {parameters['trained']:,} trained; "
        f"{len(library)} Strategic Grams ({library.name})"
    )
    trainer = make_trainer(config, inputs, model, accelerator, terminal, stack)
    runner = make_runner(config, model, trainer.collector.engine)
    return Assembly(
        trainer=trainer,
        processor=model.processor,
        gram_library=library,
        held_out=inputs.problems.held_out,
        evaluation_sampling=evaluation_sampling(config, model),
        benchmarks=Benchmarks(inputs.question_sets, runner, inputs.verifier),
        callbacks=inputs.callbacks,
        refused=len(inputs.problems.refused),
        parameters=parameters,
    )


def check_inputs(
    config: RunConfig, folder: RunFolder, accelerator: Accelerator, terminal: Terminal, stack: ExitStack
) -> Inputs:
    """Processes, grams, rewards, processor, data and benchmarks; arguments and errors as of `assemble`."""
    refuse_idle_processes(config, accelerator)
    refuse_optimizer(config, accelerator.num_processes)
    refuse_layout(config, accelerator.num_processes)
    check_engine(config)
    try_method(config.credit.method, credit_options(config.credit, config.hicra.alpha))
    callbacks = Callbacks.load(config.log.callbacks if accelerator.is_main_process else ())
    library = GramLibrary.load(config.hicra.grams).subset(min_words=config.hicra.min_words)
    refuse_damaged_model(Path(config.model.path).expanduser())
    most, rank = config.rollout.max_new_tokens, accelerator.process_index
    rewarder = stack.enter_context(make_rewarder(config.reward, config.rewards(), most, folder.replies, rank))
    processor = load_processor(config.model)
    refuse_unfit_rows(config, processor, accelerator.num_processes)
    prompts = PromptBuilder(processor.processor, processor.family, processor.config, config.data)
    rewarder.measure_by(lambda problem: prompts.measure(problem).images)
    refused_path = folder.refused if accelerator.is_main_process else None
    problems = load_checked_problems(config, prompts, rewarder, terminal, refused_path)
    for first in {problem.dataset: problem for problem in reversed(problems.train)}.values():
        rewarder.try_custom(first)
    return Inputs(
        gram_library=library,
        rewarder=rewarder,
        prompts=prompts,
        problems=problems,
        question_sets=load_benchmarks(config, processor, terminal),
        verifier=stack.enter_context(Verifier(config.reward.workers, TIME_LIMIT)),  # the limit of `mmhicra eval`
        callbacks=callbacks,
    )


def refuse_unfit_rows(config: RunConfig, loaded: LoadedProcessor, processes: int | None = None) -> None:
    """Raise ConfigError if the model cannot be trained in rows as they are configured.

    Args:
        config: a checked configuration.
        loaded: of the model.
        processes: of the run; None for as many as compute a row.
    """
    family = loaded.family
    if config.train.rows == "shared" and not family.shares_prompts:
        raise ConfigError(
            f"train.rows: shared lets the responses of a group share their prompt in a row, which models of the family "
            f"{family.name} cannot do: set train.rows: plain"
        )
    together = config.parallel.sequence
    refuse_unfit_sequence(together, processes or together, family, loaded.config)
    patches = 0 if config.model.vision_frozen else family.patches_per_token(loaded.config)
    if too_small := config.too_few_tokens(patches):
        raise ConfigError(too_small)


def make_trainer(
    config: RunConfig,
    inputs: Inputs,
    model: LoadedModel,
    accelerator: Accelerator,
    terminal: Terminal,
    stack: ExitStack,
) -> Trainer:
    """The trainer around a loaded model; says which engine and attention it has."""
    sampling = sampling_of(config.rollout, model, n=config.rollout.n, temperature=config.rollout.temperature)
    work = Work.of(model.model, model.family)  # while its layers have their whole shapes
    masters = hold_weights(config, model, accelerator)
    sequence = SequenceGroup.of(config.parallel.sequence, accelerator.process_index, accelerator.num_processes)
    policy, reference = make_policy(config, model, sampling, accelerator, sequence)
    vision = make_vision(config, model)
    engine = make_engine(config, model, policy, accelerator, stack)
    terminal.say(f"engine: {engine.name}")
    terminal.say(f"attention: {policy.attention}")
    ranks, memory = Ranks(accelerator), MemoryGauge()
    time = Timers(memory)
    prepared = policy if sharded(config, accelerator) else accelerator.prepare_model(policy)
    collector = Collector(
        engine=engine,
        sampling=sampling,
        rewarder=inputs.rewarder,
        stream=make_stream(config, inputs.problems.train),
        prompts=inputs.prompts,
        vision=vision,
        policy=prepared,
        ranks=ranks,
        time=time,
        seed=config.seed,
        prompts_per_step=config.train.prompts_per_step,
    )
    optimizer = make_optimizer(policy, config.train.optimizer, masters)
    if line := describe_optimizer(optimizer):
        terminal.say(line)
    matcher = make_matcher(config, inputs.gram_library, model, sampling)
    return Trainer(
        config=config,
        accelerator=accelerator,
        policy=prepared,
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_and_decay(config)),
        reference=reference,
        collector=collector,
        credit_assigner=CreditAssigner(config.credit, config.hicra, matcher, model.tokenizer, config.seed),
        guard=make_guard(config, terminal),
        ranks=ranks,
        work=work,
        updates=UpdateCount(config.train.max_skipped_updates),
        memory=memory,
        time=time,
        sharing=GroupSharing(sequence),
        say=terminal.say,
    )


def refuse_idle_processes(config: RunConfig, accelerator: Accelerator) -> None:
    """Raise ConfigError if a step has fewer prompts than there are processes."""
    if config.train.prompts_per_step < accelerator.num_processes:
        raise ConfigError(
            f"train.prompts_per_step ({config.train.prompts_per_step}) leaves some of the {accelerator.num_processes} "
            "processes without a prompt: raise it, or start fewer"
        )


def make_matcher(config: RunConfig, library: GramLibrary, model: LoadedModel, sampling: Sampling) -> PlanningMatcher:
    """What finds planning tokens."""
    return PlanningMatcher(
        library,
        model.tokenizer,
        skip_math=config.hicra.skip_math,
        parts=config.hicra.parts,
        stop_ids=sampling.stop_token_ids,
    )


def make_vision(config: RunConfig, model: LoadedModel) -> FrozenVision | None:
    """What computes image features ahead of training, if the vision side stays as it is."""
    if not config.model.vision_frozen:
        return None
    return FrozenVision(model.model, model.family, config.model.precision, config.model.vision_cache)


def hold_weights(config: RunConfig, model: LoadedModel, accelerator: Accelerator) -> Masters:
    """Hold weights as `model.weights` says; returns the float32 masters of those that are trained in bfloat16.

    Adapters are few, and the shards of a split model are cast as they are gathered: both stay float32, their own
    masters.
    """
    if config.model.weights == "fp32":
        return {}
    return round_weights(model.model, trained=not (config.model.has_adapters or sharded(config, accelerator)))


def make_policy(
    config: RunConfig,
    model: LoadedModel,
    sampling: Sampling,
    accelerator: Accelerator,
    sequence: SequenceGroup | None = None,
) -> tuple[Policy, Reference | None]:
    """The policy on its device, and its reference if the loss has a KL term."""
    policy = Policy(
        model.model,
        model.family,
        temperature=sampling.temperature,
        banned_ids=list(sampling.banned_token_ids),
        chunk=config.train.logprob_chunk,
        precision=config.model.precision,
        attention=choose(config.model.attention, accelerator.device, config.model.precision),
        nucleus=config.train.loss.siren.top_p if config.train.loss.siren else None,
        always_runs_vision=accelerator.num_processes > 1 and not config.model.vision_frozen,
        logprob_kernel=choose_kernel(config.train.logprob_kernel, accelerator.device, bool(config.train.loss.siren)),
        plain=config.train.rows == "plain",
        sequence=sequence,
    )
    if not sharded(config, accelerator):
        policy.to(accelerator.device)
    use_kernels(model.model, model.family, config.model, accelerator.device)
    scores, adapted = config.train.loss.kl_coefficient > 0, config.model.has_adapters
    reference = Reference(policy) if scores and not adapted else None
    if reference and config.model.weights == "bf16":
        round_weights(reference.policy, trained=False)  # all of it is frozen
    if config.model.compile:
        compile_layers(model.model, model.family)
    if sharded(config, accelerator):
        split_policy(config, model, policy, reference.policy if reference else None, Ranks(accelerator))
    if scores and adapted:  # it has to keep adapters as they are when they have values
        keeps = config.model.continues_adapter and config.train.loss.kl_reference == "start"
        reference = Reference(policy, keeps)
    return policy, reference


def make_engine(
    config: RunConfig, model: LoadedModel, policy: Policy, accelerator: Accelerator, stack: ExitStack
) -> Engine:
    """The configured engine, sampling from the model as it is; `stack` closes it.

    Raises:
        UserError: it cannot run here.
    """
    engine = engines.make_engine(config, model, stack)
    return GatheringEngine(engine, policy) if engine.name == "hf" and sharded(config, accelerator) else engine


def make_guard(config: RunConfig, terminal: Terminal) -> AlignmentGuard:
    """The alignment guard; says so if the run goes without."""
    precision = "bf16" if config.rollout.hf.weights == "bf16" else config.model.precision
    precision = "float8" if config.model.float8 else precision
    guard = AlignmentGuard(config.rollout.guard, precision, config.rollout.cuts, terminal.say)
    if config.rollout.cuts and config.rollout.guard.every:
        terminal.say("alignment guard: off, because rollout.top_p or top_k cuts what the engine samples from")
    return guard


def evaluation_sampling(config: RunConfig, model: LoadedModel) -> Sampling:
    """How held-out problems are answered: from the whole vocabulary, at the evaluation's temperature."""
    sampling = sampling_of(config.rollout, model, n=config.eval.n, temperature=config.eval.temperature)
    return replace(sampling, top_p=1.0, top_k=0)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """How many parameters there are, and how many are trained."""
    return {
        "total": sum(p.numel() for p in model.parameters()),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
