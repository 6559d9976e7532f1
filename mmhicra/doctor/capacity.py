"""Whether a configuration fits the devices there are, and what would."""

from __future__ import annotations

from dataclasses import replace

from mmhicra.config import RunConfig
from mmhicra.core.memory import GIB
from mmhicra.doctor.devices import Device
from mmhicra.doctor.findings import CheckResult, Grid, Remedy
from mmhicra.doctor.memory import Load, Phase, Plan, largest_budget, most_sequences, plan_memory
from mmhicra.doctor.problems import Reader
from mmhicra.vlm.shape import ModelShape

SPARE_TOKENS = 256
"""Tokens of one more block, which vLLM's CPU build is given for every sequence (`rollout.vllm.loading`)."""
USABLE = 0.92
"""The share of the free memory that is planned with: allocators leave holes, and libraries take their own share."""


def load_of(config: RunConfig, shape: ModelShape, reader: Reader, device: Device, processes: int) -> Load:
    """What a configuration asks of one device, given its model and its data."""
    train, rollout = config.train, config.rollout
    mine = -(-train.prompts_per_step // processes)
    patches = shape.merged * reader.most_image_tokens
    # A plain row holds one prompt and one response, whatever the budget.
    one = reader.longest + rollout.max_new_tokens + (0 if config.model.vision_frozen else patches)
    tested = -(-min(config.eval.problems, len(reader.loaded.held_out) if reader.loaded else 0) // processes)
    return Load(
        half=config.model.precision == "bf16",
        checkpointing=config.model.gradient_checkpointing,
        dense=config.model.attention == "dense",
        adapters=config.model.has_adapters,
        quantized=config.model.quantize is not None,
        vision_frozen=config.model.vision_frozen,
        reference=train.loss.kl_coefficient > 0,
        processes=processes,
        shard=config.model.shard,
        cuda=device.kind == "cuda",
        embedded=rollout.engine != "vllm",
        engine=engine_bytes(config, shape, device) if rollout.engine == "vllm" else 0,
        engine_rests=rollout.vllm.sleep,
        budget=train.tokens_per_micro_batch if train.rows == "shared" else min(one, train.tokens_per_micro_batch),
        prompt=reader.longest,
        patches=patches,
        response=rollout.max_new_tokens,
        group=rollout.n,
        groups=-(-mine // train.minibatches),
        chunk=train.logprob_chunk,
        nucleus=train.loss.siren is not None,
        sequences=min(rollout.max_sequences // rollout.n, mine) * rollout.n,
        step_prompts=mine,
        evaluation_group=config.eval.n if tested else 0,
        evaluation_sequences=min(rollout.max_sequences // config.eval.n, tested) * config.eval.n,
    )


def engine_bytes(config: RunConfig, shape: ModelShape, device: Device) -> int:
    """What vLLM takes: its share of a GPU, else its own weights and its cache of keys and values."""
    options, width = config.rollout.vllm, 2 if config.model.precision == "bf16" else 4
    if device.kind == "cuda":
        return int(options.memory_fraction * device.total)
    longest = config.data.max_prompt_tokens + config.rollout.max_new_tokens
    wanted = 2 * shape.layers * shape.key * width * config.rollout.max_sequences * (longest + SPARE_TOKENS)
    cache = min(wanted, int(options.memory_fraction * device.free))
    if options.kv_cache_gib is not None:
        cache = int(options.kv_cache_gib * GIB)
    return width * shape.parameters // options.tensor_parallel + cache


def capacity_on(devices: list[Device], processes: int) -> int:
    """Bytes that a training process may take: of the fullest GPU, or its part of the machine's memory."""
    if devices[0].kind == "cuda":
        return int(USABLE * min(device.free for device in devices))
    return int(USABLE * devices[0].free / processes)


def check_memory(config: RunConfig, shape: ModelShape, load: Load, devices: list[Device]) -> CheckResult:
    """Plan a step, and compare it with what is free."""
    check = CheckResult("memory", "Memory plan")
    capacity = capacity_on(devices, load.processes)
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
        saving = replace(load, checkpointing=True)
        if not load.checkpointing and _fits(shape, saving, phase, capacity):
            remedies.append(Remedy("model.gradient_checkpointing", True))
        elif not load.checkpointing and not remedies:
            budget = largest_budget(shape, saving, capacity)
            if budget is not None and budget >= least:
                remedies.append(
                    Remedy("model.gradient_checkpointing", True, words=f"and train.tokens_per_micro_batch: {budget}")
                )
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
