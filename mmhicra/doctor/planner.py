"""`mmhicra doctor --config X --gpus 8xH100-80`: a run planned by its shapes alone, for GPUs that are not there.

Nothing is fetched but a model's config.json, and nothing loaded: prompts are taken to be as long as
`data.max_prompt_tokens` allows, responses as `rollout.max_new_tokens`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mmhicra
from mmhicra.config import RunConfig
from mmhicra.config.loading import load_config
from mmhicra.core.errors import ConfigError, UserError
from mmhicra.doctor.capacity import check_memory, size_text
from mmhicra.doctor.estimate import estimate_step
from mmhicra.doctor.findings import CheckResult, Grid, Remedy, Report
from mmhicra.doctor.gpus import MIB, Gpu
from mmhicra.doctor.known_shapes import find_model, known_shapes, shape_by_config
from mmhicra.doctor.lines import named_field
from mmhicra.train.distributed.mesh import refuse_layout
from mmhicra.train.loop.disk import DiskNeed, bytes_text, disk_need
from mmhicra.train.update.load import LargestData, Load, capacity_on, load_of
from mmhicra.train.update.memory_plan import choose_checkpointing, largest_budget, most_sequences, plan_memory
from mmhicra.train.update.optimizer import refuse_optimizer
from mmhicra.vlm.family import Family
from mmhicra.vlm.shape import ModelShape, shape_of

MOST_SHARE = 0.9
"""Of a GPU's memory, at most, that is proposed for vLLM."""
MOST_SEQUENCES = 4096
"""Completions that decode at a time, at most, that are proposed."""


class Planner:
    """A plan for one configuration.

    Args:
        path: of the YAML file.
        overrides: `--set` of the command line.
        count: of GPUs, one process each.
        gpu: their kind.
    """

    config: RunConfig
    empty: Any
    family: Family
    shape: ModelShape
    load: Load
    disk: DiskNeed

    def __init__(self, path: str, overrides: Sequence[str], count: int, gpu: Gpu) -> None:
        self.path, self.overrides, self.count, self.gpu = path, overrides, count, gpu

    def run(self) -> Report:
        """Plan as far as there is something to plan by."""
        checks: list[CheckResult] = []
        for name, title, make in (
            ("configuration", "Configuration", self.check_configuration),
            ("model", "Model shape", self.check_model),
            ("memory", "Memory plan", self.check_memory),
            ("disk", "Disk", self.check_disk),
            ("pace", "Longest step, estimated", self.check_pace),
            ("fits", "What fits", self.check_fits),
        ):
            blocked = next((check for check in checks[:2] if not check.passable), None)
            if blocked is not None:
                checks.append(CheckResult(name, title, because=f"{blocked.title}: has a fault", passable=False))
                continue
            checks.append(self._made(name, title, make))
        nodes = -(-self.count // 8)
        launcher = f"torchrun --nnodes {nodes} --nproc-per-node {min(8, self.count)} -m mmhicra"
        flags = "".join(f" --set '{override}'" for override in self.overrides)
        start = f"{launcher if self.count > 1 else 'mmhicra'} train --config {self.path}{flags}"
        return Report(f"{self.path} on {self.count} x {self.gpu.name}", mmhicra.__version__, checks, start)

    def _made(self, name: str, title: str, make: Callable[[CheckResult], None]) -> CheckResult:
        check = CheckResult(name, title)
        try:
            make(check)
        except UserError as refusal:
            check.passable = False
            words = str(refusal).rpartition(": ")[2]
            check.blame(title.lower(), str(refusal), Remedy(named_field(str(refusal)), words=words))
        return check

    def check_configuration(self, check: CheckResult) -> None:
        """Read it, and refuse what so many processes cannot do."""
        self.config = load_config(self.path, self.overrides)
        refuse_layout(self.config, self.count)
        refuse_optimizer(self.config, self.count)
        if self.config.train.prompts_per_step < self.count:
            raise ConfigError(
                f"train.prompts_per_step ({self.config.train.prompts_per_step}) leaves some of the {self.count} "
                f"processes idle: set it to {self.count} or more"
            )
        gpu = self.gpu
        check.facts = {"gpus": self.count, **vars(gpu)}
        check.summary = (
            f"{self.path}; {self.count} x {gpu.name}, {gpu.memory / 1024:.1f} GiB each, {gpu.flops / 1e12:.0f} TFLOP/s "
            f"in bf16, {gpu.bandwidth / 1e12:.2f} TB/s ({gpu.source})"
        )

    def check_model(self, check: CheckResult) -> None:
        """Its shape."""
        self.empty, self.family, source = find_model(self.config.model)
        self.shape = shape_of(self.empty, self.family, self.config.model)
        self.load = self.load_for(self.shape)
        check.facts = {"source": source, "family": self.family.name, **vars(self.shape)}
        check.summary = (
            f"{self.config.model.path}: {self.shape.parameters:,} parameters, {self.shape.trained:,} trained; {source}"
        )
        check.notes.append(
            f"prompts are planned with data.max_prompt_tokens ({self.load.prompt:,}), responses with "
            f"rollout.max_new_tokens ({self.load.response:,})"
        )

    def load_for(self, shape: ModelShape, config: RunConfig | None = None) -> Load:
        """What a configuration, this one by default, asks of one GPU, with the checkpointing that `auto` chooses."""
        config = config or self.config
        load = load_of(config, shape, LargestData.of(config), self.gpu.device, self.count)
        return choose_checkpointing(shape, load, self.room) if config.model.checkpointing == "auto" else load

    @property
    def room(self) -> int:
        """Bytes of a GPU that are planned with."""
        return capacity_on([self.gpu.device], self.count)

    def check_memory(self, check: CheckResult) -> None:
        """Of every phase."""
        planned = check_memory(self.config, self.shape, self.load, [self.gpu.device])
        check.__dict__.update(planned.__dict__)
        if fault := self.vllm_fault(self.config):
            check.blame("too small memory", fault, Remedy("rollout.vllm.memory_fraction", words="more, or a larger "
                        "rollout.vllm.tensor_parallel"))  # fmt: skip

    def check_disk(self, check: CheckResult) -> None:
        """What the run writes."""
        self.disk = disk_need(self.config, self.shape.parameters, self.shape.trained)
        check.facts = {**vars(self.disk), "total": self.disk.total}
        check.summary = f"{self.disk}: {bytes_text(self.disk.total)} together"

    def check_pace(self, check: CheckResult) -> None:
        """The phases of a step, by formulas."""
        parts = estimate_step(self.config, self.shape, self.load, self.gpu, self.disk)
        step = sum(part.seconds for part in parts if part.name != "checkpoint")
        whole = step * self.config.train.steps
        check.facts = {"estimate": True, "step": step, "parts": {p.name: p.seconds for p in parts}}
        check.grids = [Grid("", ("phase", "seconds", "how"), [[p.name, f"{p.seconds:.1f}", p.formula] for p in parts])]
        check.summary = (
            f"about {step:.0f} s a step if every prompt and response is as long as it may be, "
            f"{whole / 3600:.1f} h for {self.config.train.steps} steps; estimates, not measured"
        )

    def check_fits(self, check: CheckResult) -> None:
        """The largest batch, and the largest model that ships as a shape, with the lines that say so."""
        rows: list[list[str]] = []
        budget = largest_budget(self.shape, self.load, self.room)
        sequences = self.most_rows()
        if budget is not None:
            words = "a whole optimizer step" if budget >= self.load.whole else "tokens"
            rows.append(
                [f"largest micro-batch ({words})", f"{budget:,}", f"--set train.tokens_per_micro_batch={budget}"]
            )
        if sequences:
            name = "completions that decode at a time"
            rows.append([name, f"{sequences:,}", f"--set rollout.max_sequences={sequences}"])
        fitting = self.largest_model()
        if fitting is not None:
            name, peak = fitting
            family = "" if self.config.model.family == "auto" else " --set model.family=auto"
            rows.append(["largest model", f"{name}, {size_text(peak)}", f"--set model.path={name}{family}"])
        changes = [] if self.fits(()) else self.changes_that_fit()
        for change in changes:
            lines = " ".join(f"--set {shlex.quote(each)}" for each in change)
            rows.append(["this configuration, changed", size_text(self.peak_with(self.changed(change))), lines])
        check.facts = {
            "budget": budget,
            "sequences": sequences,
            "model": fitting and fitting[0],
            "changes": [list(change) for change in changes],
        }
        check.notes = [f"{what}: {fits}: {lines}" for what, fits, lines in rows]  # not a table: it would cut lines up
        check.summary = f"in {size_text(self.room)} of each GPU" if rows else "nothing of this on such GPUs"

    def changes_that_fit(self) -> list[tuple[str, ...]]:
        """Single changes with which every phase fits, the smallest of each field; else several together."""
        steps = self.steps_down()
        alone: dict[str, tuple[str, ...]] = {}
        for step in steps:
            field = step.partition("=")[0]
            if field not in alone and self.fits((step,)):
                alone[field] = (step,)
        if alone:
            return list(alone.values())
        together = [tuple(steps[:count]) for count in range(2, len(steps) + 1)]
        whole = next((change for change in together if self.fits(change)), None)
        if whole is None:
            return []
        needed = list(whole)
        for step in whole:  # those that change nothing are left out again
            fewer = tuple(each for each in needed if each != step)
            if self.fits(fewer):
                needed = list(fewer)
        return [tuple(needed)]

    def steps_down(self) -> list[str]:
        """What takes less memory: first what costs nothing but time, then what changes how the run computes."""
        config, steps = self.config, list[str]()
        least = self.config.data.max_prompt_tokens + self.config.rollout.max_new_tokens
        rows = config.rollout.max_sequences
        while self.load.embedded and (rows := rows // 2) >= max(config.rollout.n, config.eval.n):
            steps.append(f"rollout.max_sequences={rows}")
        if config.model.vision_frozen and config.train.tokens_per_micro_batch > least:
            steps.append(f"train.tokens_per_micro_batch={least}")
        steps += ["model.checkpointing=full"] * (self.load.checkpointing != "full")
        steps += ["model.shard=true"] * (self.count > 1 and not config.model.shard)
        steps += self.vllm_steps()
        steps += ["train.optimizer.kind=adamw_8bit", "train.optimizer.offload=true"]
        return [*steps, "model.weights=bf16", "model.lora={rank: 64, alpha: 128}"]

    def vllm_steps(self) -> list[str]:
        """vLLM with as few GPUs an engine, and as little of their memory, as holds the weights and a group's keys."""
        if self.config.rollout.engine not in ("hf", "vllm"):
            return []
        for parallel in (size for size in (1, 2, 4, 8) if self.count % size == 0):
            share = -(-20 * engine_need(self.config, self.shape, parallel) // (self.gpu.memory * MIB)) / 20
            if share <= MOST_SHARE:
                options = f"vllm: {{sleep: true, memory_fraction: {share:g}, tensor_parallel: {parallel}}}"
                return [f"rollout={{engine: vllm, {options}}}"]
        return []

    def vllm_fault(self, config: RunConfig) -> str | None:
        """A line if vLLM would not get the memory for its weights and one group; None if it would, or is not used."""
        options = config.rollout.vllm
        need = engine_need(config, self.shape, options.tensor_parallel)
        if config.rollout.engine != "vllm" or need <= options.memory_fraction * self.gpu.memory * MIB:
            return None
        return (
            f"vLLM takes {size_text(need)} of each GPU for the weights and the keys of one group, and "
            f"rollout.vllm.memory_fraction {options.memory_fraction:g} gives it "
            f"{size_text(int(options.memory_fraction * self.gpu.memory * MIB))}"
        )

    def fits(self, change: Sequence[str]) -> bool:
        """Whether the configuration with a change is allowed, and every phase of it fits."""
        try:
            config = self.changed(change)
            return self.vllm_fault(config) is None and self.peak_with(config) <= self.room
        except UserError:
            return False

    def changed(self, change: Sequence[str]) -> RunConfig:
        """The configuration with a change. Raises ConfigError where it is not allowed."""
        config = load_config(self.path, [*self.overrides, *change])
        refuse_layout(config, self.count)
        refuse_optimizer(config, self.count)
        return config

    def peak_with(self, config: RunConfig) -> int:
        """Bytes of a GPU that a configuration with the same model takes."""
        shape = shape_of(self.empty, self.family, config.model)
        return plan_memory(shape, self.load_for(shape, config)).peak

    def most_rows(self) -> int | None:
        """Completions that the embedded engine can decode at a time; a vLLM server schedules by itself."""
        if not self.load.embedded:
            return None
        wanted = min(MOST_SEQUENCES, self.load.step_prompts * self.load.group)
        return most_sequences(self.shape, replace(self.load, sequences=wanted), self.room, "rollout")

    def largest_model(self) -> tuple[str, int] | None:
        """The largest of the shapes that ship with which this configuration would fit, and its peak."""
        for known in reversed(known_shapes().values()):
            options = self.config.model.model_copy(update={"path": known.model, "family": "auto"})
            try:
                shape = shape_by_config(options)
            except UserError:  # adapters that are continued fit no other model
                continue
            peak = plan_memory(shape, self.load_for(shape)).peak
            if peak <= self.room:
                return known.model, peak
        return None


def engine_need(config: RunConfig, shape: ModelShape, parallel: int) -> int:
    """Bytes of a GPU that vLLM takes at least: its part of the weights, and keys and values of one group."""
    width = 2 if config.model.precision == "bf16" else 4
    tokens = config.data.max_prompt_tokens + config.rollout.n * config.rollout.max_new_tokens
    return width * (shape.parameters + 2 * shape.layers * shape.key * tokens) // parallel
