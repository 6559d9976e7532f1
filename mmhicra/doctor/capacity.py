"""Whether a configuration fits the devices there are, and what would."""

from __future__ import annotations

from dataclasses import replace

from mmhicra.config import RunConfig
from mmhicra.core.memory import GIB
from mmhicra.doctor.findings import CheckResult, Grid, Remedy
from mmhicra.train.update.load import Device, Load, capacity_on
from mmhicra.train.update.memory_plan import (
    Phase,
    Plan,
    checkpointing_text,
    choose_checkpointing,
    largest_budget,
    most_sequences,
    plan_memory,
)
from mmhicra.vlm.activation_checkpointing import KINDS
from mmhicra.vlm.shape import ModelShape


def check_memory(config: RunConfig, shape: ModelShape, load: Load, devices: list[Device]) -> CheckResult:
    """Plan a step, and compare it with what is free."""
    check = CheckResult("memory", "Memory plan")
    capacity = capacity_on(devices, load.processes)
    if config.model.checkpointing == "auto":
        load = choose_checkpointing(shape, load, capacity)
        check.notes.append(f"model.checkpointing: auto is {checkpointing_text(load)}")
    plan = plan_memory(shape, load)
    budget = largest_budget(shape, load, capacity)
    check.facts = {
        "parameters": shape.parameters,
        "trained": shape.trained,
        "held": plan.held,
        "phases": plan.phases,
        "totals": {phase: plan.total(phase) for phase in plan.phases},
        "peak": plan.peak,
        "room": capacity,
        "micro_batch": load.micro_batch,
        "largest_budget": budget,
        "longest_prompt": load.prompt,
    }
    check.grids = [_show(plan)]
    check.summary = (
        f"{shape.parameters:,} parameters, {shape.trained:,} trained; {size_text(plan.peak)} at the peak "
        f"({plan.fullest}) of {size_text(capacity)} that can be used"
    )
    if budget is not None:
        whole = ", a whole optimizer step" if budget >= load.whole else ""
        check.notes.append(f"the largest train.tokens_per_micro_batch that fits is {budget:,}{whole}")
    for phase in plan.phases:
        if plan.total(phase) > capacity:
            _blame(check, config, shape, load, plan, phase, capacity)
    check.passable = not check.faults
    return check


def _blame(
    check: CheckResult, config: RunConfig, shape: ModelShape, load: Load, plan: Plan, phase: Phase, capacity: int
) -> None:
    what = (
        f"{phase}: {size_text(plan.total(phase))} are needed and {size_text(capacity)} can be used; the largest part "
        f"is {_largest_part(plan, phase)}"
    )
    check.blame("too small memory", what, *_ways_out(config, shape, load, phase, capacity))


def _ways_out(config: RunConfig, shape: ModelShape, load: Load, phase: Phase, capacity: int) -> list[Remedy]:
    """What would fit: first what costs nothing but time."""
    remedies = []
    least = config.data.max_prompt_tokens + load.response
    if phase == "update":
        budget = largest_budget(shape, load, capacity)
        if budget is not None and budget >= least:
            remedies.append(Remedy("train.tokens_per_micro_batch", budget))
        saving = _keeping_less(load)
        all_layers = "" if load.checkpointed is None else "and model.checkpointing_layers: null"
        if fitting := next((each for each in saving if _fits(shape, each, phase, capacity)), None):
            remedies.append(Remedy("model.checkpointing", fitting.checkpointing, words=all_layers))
        elif saving and not remedies:
            budget = largest_budget(shape, saving[-1], capacity)
            if budget is not None and budget >= least:
                words = f"{all_layers} and train.tokens_per_micro_batch: {budget}".strip()
                remedies.append(Remedy("model.checkpointing", saving[-1].checkpointing, words=words))
    elif phase in ("rollout", "evaluation"):
        sequences = most_sequences(shape, load, capacity, phase)
        if sequences is not None:
            remedies.append(Remedy("rollout.max_sequences", sequences))
    if remedies:
        return remedies
    if load.processes > 1 and not load.shard and _fits(shape, replace(load, shard=True), phase, capacity):
        remedies.append(Remedy("model.shard", True))
    if not config.model.has_adapters:
        remedies.append(Remedy("model.lora", words="{rank: 64, alpha: 128}, which trains little of the model"))
    remedies.append(
        Remedy(words=f"a device with {size_text(plan_memory(shape, load).peak)} of free memory, or more of them")
    )
    remedies.append(Remedy("model.path", words="a smaller model"))
    return remedies


def _keeping_less(load: Load) -> list[Load]:
    """With more checkpointing than `load` has, in all layers, the quickest first."""
    kinds = KINDS[KINDS.index(load.checkpointing) :]
    return [
        replace(load, checkpointing=kind, checkpointed=None)
        for kind in kinds
        if kind != "none" and (kind != load.checkpointing or load.checkpointed is not None)
    ]


def _fits(shape: ModelShape, load: Load, phase: Phase, capacity: int) -> bool:
    return plan_memory(shape, load).total(phase) <= capacity


def _largest_part(plan: Plan, phase: Phase) -> str:
    parts = {**plan.held, **plan.phases[phase]}
    name = max(parts, key=lambda part: parts[part])
    return f"{name} ({size_text(parts[name])})"


def _show(plan: Plan) -> Grid:
    """Parts by phase."""
    phases = list(plan.phases)
    names = dict.fromkeys([*plan.held, *(name for phase in phases for name in plan.phases[phase])])
    rows = [
        [name, *(size_text({**plan.held, **plan.phases[phase]}.get(name, 0)) for phase in phases)] for name in names
    ]
    rows.append(["together", *(size_text(plan.total(phase)) for phase in phases)])
    return Grid("", ("", *phases), rows)


def size_text(size: int) -> str:
    """Bytes for a person; nothing for none."""
    if size == 0:
        return ""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"
