"""All checks of `mmhicra doctor` in order. A check builds on what earlier ones found; one that cannot be made says why.

Nothing is imported from torch here before the versions have been checked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mmhicra
from mmhicra.config import RunConfig
from mmhicra.config.loading import load_config
from mmhicra.core.errors import ConfigError, UserError
from mmhicra.doctor.findings import CheckResult, Remedy, Report
from mmhicra.doctor.lines import named_field
from mmhicra.doctor.versions import check_versions
from mmhicra.train.distributed.launch import number_of

if TYPE_CHECKING:
    from mmhicra.core.records import Prompt
    from mmhicra.doctor.problems import Reader
    from mmhicra.rewards.reward import Rewarder
    from mmhicra.rewards.workers import Verifier
    from mmhicra.rollout.engine import Engine, Sampling
    from mmhicra.train.update.load import Device, Load
    from mmhicra.train.update.policy import Policy
    from mmhicra.vlm.loading import LoadedModel, LoadedProcessor
    from mmhicra.vlm.processing import PromptBuilder

Progress = Callable[[str, int, int], None]
"""A function that is told the title of a check, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Check:
    """One check that can be made: its name, its title, the names of the checks it builds on, and what makes it."""

    name: str
    title: str
    needs: tuple[str, ...]
    make: Callable[[], CheckResult]


class Doctor:
    """The checks of one configuration.

    Args:
        path: of the YAML file.
        overrides: `--set` of the command line.
        processes: that training will be started with; None is one for each GPU.
        progress: told which check is being made.
    """

    config: RunConfig
    devices: list[Device]
    processor: LoadedProcessor
    empty: Any
    reader: Reader
    load: Load
    model: LoadedModel
    prompts: list[Prompt]
    sampling: Sampling
    policy: Policy
    engine: Engine

    def __init__(
        self,
        path: str,
        overrides: Sequence[str] = (),
        processes: int | None = None,
        progress: Progress = lambda title, done, total: None,
    ) -> None:
        self.path = path
        self.overrides = overrides
        self.processes = processes
        self.progress = progress
        self.builder: PromptBuilder | None = None
        self.made: dict[str, CheckResult] = {}
        self.rewarder: Rewarder | None = None

    def run(self) -> Report:
        """Make every check that can be made."""
        checks = (
            Check("configuration", "Configuration", (), self.check_configuration),
            Check("versions", "Versions", ("configuration",), lambda: check_versions(self.config)),
            Check("devices", "Devices", ("versions",), self.check_devices),
            Check("grams", "Strategic Grams", ("versions",), self.check_grams),
            Check("model", "Model folder", ("versions",), self.check_model),
            Check("template", "Chat template", ("model",), self.check_template),
            Check("data", "Data", ("versions",), self.check_data),
            Check("golds", "Reward on the gold answers", ("data",), self.check_golds),
            Check("images", "Images", ("model", "data"), self.check_images),
            Check("samples", "Trainer and engine on real samples", ("template", "data"), self.check_samples),
            Check("disk", "Disk", ("model",), self.check_disk),
            Check("memory", "Memory plan", ("devices", "model", "data"), self.check_memory),
            Check("weights", "Weights", ("memory",), self.check_weights),
            Check("engine", "Rollout engine", ("weights",), self.check_engine),
            Check("gap", "Log-probs of 8 rollouts", ("samples", "engine"), self.check_gap),
            Check("pace", "Longest step to expect", ("gap",), self.check_step_time),
        )
        with ExitStack() as self.stack:
            for check in checks:
                self.progress(check.title, 0, 0)
                self.made[check.name] = self.make(check)
        return Report(self.path, mmhicra.__version__, list(self.made.values()))

    def make(self, check: Check) -> CheckResult:
        """One check, or why it cannot be made."""
        blocked = [self.made[name] for name in check.needs if not self.made[name].passable]
        if blocked:
            reasons = [f"{c.title}: " + ("has a fault" if c.faults else "was not checked") for c in blocked]
            return CheckResult(check.name, check.title, because="; ".join(reasons), passable=False)
        try:
            return check.make()
        except UserError as refusal:
            result = CheckResult(check.name, check.title, passable=False)
            words = str(refusal).rpartition(": ")[2]
            result.blame(check.title.lower(), str(refusal), Remedy(named_field(str(refusal)), words=words))
            return result

    def check_configuration(self) -> CheckResult:
        """Read the YAML file."""
        check = CheckResult("configuration", "Configuration")
        try:
            self.config = load_config(self.path, self.overrides)
        except ConfigError as refusal:
            check.passable = False
            for line in str(refusal).splitlines():
                text = line.removeprefix("configuration: ")
                remedy = Remedy(named_field(text), words=text.rpartition(": ")[2])
                check.blame("configuration", text, remedy)
            return check
        changed = f" with {len(self.overrides)} fields set by --set" if self.overrides else ""
        check.summary = f"{self.path}{changed} is whole and free of contradictions"
        return check

    def check_devices(self) -> CheckResult:
        """Find the devices."""
        from mmhicra.doctor.devices import check_devices, find_devices

        self.devices = find_devices()
        gpus = len(self.devices) if self.devices[0].kind == "cuda" else 1
        self.processes = self.processes or number_of(os.environ, "WORLD_SIZE", gpus)
        return check_devices(self.config, self.devices, self.processes)

    def check_grams(self) -> CheckResult:
        """Load the gram library."""
        from mmhicra.hicra.grams import GramLibrary

        check = CheckResult("grams", "Strategic Grams")
        try:
            library = GramLibrary.load(self.config.hicra.grams).subset(min_words=self.config.hicra.min_words)
        except UserError as refusal:
            check.blame("strategic grams", str(refusal), Remedy("hicra.grams", "published_249"))
            return check
        check.facts = {"name": library.name, "count": len(library), "hash": library.content_hash}
        check.summary = f"{len(library)} of {library.name}"
        return check

    def check_model(self) -> CheckResult:
        """Load everything of the model but its weights."""
        from mmhicra.vlm.loading import load_processor
        from mmhicra.vlm.processing import PromptBuilder
        from mmhicra.vlm.shape import empty_model

        check, options = CheckResult("model", "Model folder"), self.config.model
        try:
            self.processor = load_processor(options)
            self.empty = empty_model(self.processor.config, self.processor.family)
        except ConfigError as refusal:
            check.passable = False
            path = Remedy("model.path", words="a checkpoint of the family that is wanted")
            family = [Remedy("model.family", "auto")] if str(refusal).startswith("model.family") else []
            check.blame("checkpoint of another family", str(refusal), *family, path)
            return check
        except UserError as refusal:
            check.passable = False
            check.blame("model that cannot be loaded", str(refusal), Remedy("model.path", words="a whole model folder"))
            return check
        loaded = self.processor
        check.facts = {
            "path": loaded.path,
            "family": loaded.family.name,
            "architecture": loaded.family.architecture,
            "pixels_per_token": loaded.family.image_factor(loaded.config) ** 2,
        }
        side = loaded.family.image_factor(loaded.config)
        check.summary = (
            f"{options.path}: {loaded.family.architecture}, family {loaded.family.name}, {side}x{side} pixels a token"
        )
        try:
            self.builder = PromptBuilder(loaded.processor, loaded.family, loaded.config, self.config.data)
        except ConfigError as refusal:
            check.passable = False
            if "chat_template_kwargs" in str(refusal):
                remedy = Remedy("data.chat_template_kwargs", words="only what the template reads")
                check.blame("chat template", str(refusal), remedy)
                return check
            field = "data.instruction" if "instruction" in str(refusal) else "data.system_prompt"
            check.blame("special token in a prompt", str(refusal), Remedy(field, words="without the control token"))
            return check
        self._check_rows(check, loaded)
        return check

    def _check_rows(self, check: CheckResult, loaded: LoadedProcessor) -> None:
        """Blame rows that the model's family cannot be trained in."""
        from mmhicra.train.loop.assembly import refuse_unfit_rows

        try:
            refuse_unfit_rows(self.config, loaded)
        except ConfigError as refusal:
            check.passable = False
            shares = loaded.family.shares_prompts or self.config.train.rows == "plain"
            remedy = Remedy("train.tokens_per_micro_batch", words="more") if shares else Remedy("train.rows", "plain")
            check.blame("rows that the model cannot be trained in", str(refusal), remedy)

    def check_template(self) -> CheckResult:
        """Render by every template."""
        from mmhicra.doctor.template import check_template

        return check_template(self.config, self.processor)

    def check_data(self) -> CheckResult:
        """Read every row."""
        from mmhicra.doctor.problems import Reader, check_data

        self.reader = Reader(self.config, self.builder, self.verifier())
        return check_data(self.reader, lambda done, total: self.progress("Data", done, total))

    def verifier(self) -> Verifier:
        """A verifier that is closed when the last check is made."""
        from mmhicra.rewards.workers import Verifier

        return self.stack.enter_context(Verifier(self.config.reward.workers, self.config.reward.time_limit))

    def check_golds(self) -> CheckResult:
        """Score every gold."""
        from mmhicra.doctor.golds import check_golds
        from mmhicra.rewards.by_source import make_rewarder

        config = self.config
        quiet = {"judges": []}  # one question for every gold would cost
        rewards = {name: reward.model_copy(update=quiet) for name, reward in config.rewards().items()}
        try:
            made = make_rewarder(config.reward.model_copy(update=quiet), rewards, config.rollout.max_new_tokens)
            self.rewarder = self.stack.enter_context(made)
        except ConfigError as refusal:
            check = CheckResult("golds", "Reward on the gold answers")
            check.blame("custom reward", str(refusal), Remedy("reward.custom", words="mend the path, or leave it out"))
            return check
        if (builder := self.builder) is not None:
            self.rewarder.measure_by(lambda problem: builder.measure(problem).images)
        return check_golds(self.reader, self.rewarder, lambda done, total: self.progress("Gold answers", done, total))

    def check_images(self) -> CheckResult:
        """Count sizes."""
        from mmhicra.doctor.pictures import check_images

        return check_images(self.reader)

    def check_samples(self) -> CheckResult:
        """Compare both sides."""
        from mmhicra.doctor.samples import check_samples

        assert self.builder is not None
        check, self.prompts = check_samples(self.reader, self.builder, self.processor, self.empty)
        return check

    def check_disk(self) -> CheckResult:
        """Compare what is written with what is free."""
        from mmhicra.doctor.disk import check_disk
        from mmhicra.vlm.shape import shape_of

        return check_disk(self.config, shape_of(self.empty, self.processor.family, self.config.model))

    def check_memory(self) -> CheckResult:
        """Plan a step."""
        from mmhicra.doctor.capacity import check_memory
        from mmhicra.train.update.load import load_of
        from mmhicra.vlm.shape import shape_of

        assert self.processes is not None
        shape = shape_of(self.empty, self.processor.family, self.config.model)
        self.load = load_of(self.config, shape, self.reader, self.devices[0], self.processes)
        return check_memory(self.config, shape, self.load, self.devices)

    def check_weights(self) -> CheckResult:
        """Load the model."""
        from transformers.utils import logging

        from mmhicra.rollout.engine import sampling_of
        from mmhicra.train.loop.assembly import count_parameters, evaluation_sampling
        from mmhicra.vlm.loading import load_policy

        check, config = CheckResult("weights", "Weights"), self.config
        logging.disable_progress_bar()  # it breaks ours
        try:
            self.model = load_policy(config.model, config.seed)
        except ConfigError as refusal:
            check.passable = False
            check.blame("configuration", str(refusal), Remedy("model.lora.targets", words="layers that are there"))
            return check
        except UserError as refusal:
            check.passable = False
            check.blame("model that cannot be loaded", str(refusal), Remedy("model.path", words="a whole model folder"))
            return check
        check.facts = count_parameters(self.model.model)
        check.summary = f"{check.facts['total']:,} parameters loaded, {check.facts['trained']:,} trained"
        try:
            self.sampling = sampling_of(
                config.rollout, self.model, n=config.rollout.n, temperature=config.rollout.temperature
            )
            evaluation_sampling(config, self.model)
        except ConfigError as refusal:
            check.passable = False
            remedy = Remedy(named_field(str(refusal)), words=str(refusal).rpartition(": ")[2])
            check.blame("configuration", str(refusal), remedy)
        return check

    def check_engine(self) -> CheckResult:
        """Put the model on its device, and start the engine that the configuration names."""
        from mmhicra.train.distributed.processes import make_accelerator
        from mmhicra.train.loop.assembly import make_engine, make_policy

        check = CheckResult("engine", "Rollout engine")
        faults = [fault for name in ("versions", "devices") for fault in self.made[name].faults]
        stopping = [f for f in faults if any(remedy.field in STOPPING for remedy in f.remedies)]
        if stopping:
            check.because, check.passable = f"it cannot run: {stopping[0].what}", False
            return check
        accelerator = make_accelerator()
        self.policy, _ = make_policy(self.config, self.model, self.sampling, accelerator)
        self.engine = make_engine(self.config, self.model, self.policy, accelerator, self.stack)
        check.facts = {"engine": self.engine.name, "attention": self.policy.attention}
        check.summary = f"{self.engine.name} samples, attention of the trainer is {self.policy.attention}"
        return check

    def check_gap(self) -> CheckResult:
        """Roll out and score again."""
        from mmhicra.doctor.gap import check_gap
        from mmhicra.train.loop.assembly import make_vision

        # Nothing is written here, to the cache of features neither.
        unkept = self.config.model.model_copy(update={"vision_cache": None})
        vision = make_vision(self.config.model_copy(update={"model": unkept}), self.model)
        if vision is not None:
            self.prompts = vision.add_features(self.prompts)
        tokenizer = self.model.tokenizer
        sound = "golds" in self.made and not any(f.kind == "custom reward" for f in self.made["golds"].faults)
        judge = self.rewarder.score if self.rewarder and sound else None
        return check_gap(self.config, self.policy, self.engine, self.sampling, self.prompts, tokenizer, judge)

    def check_step_time(self) -> CheckResult:
        """Time the longest step."""
        from mmhicra.doctor.step_time import check_step_time

        return check_step_time(self.config, self.load, self.policy, self.engine, self.sampling, self.prompts)


STOPPING = ("rollout.engine", "model.attention")
"""Fields whose faults leave nothing to roll out with."""
