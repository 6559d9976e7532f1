"""What there is to compute on, and how much memory of it is free."""

from __future__ import annotations

import os

import torch

from mmhicra.config import RunConfig
from mmhicra.core.errors import ConfigError
from mmhicra.core.memory import GIB, gpu_memory, machine_memory
from mmhicra.doctor.findings import CheckResult, Grid, Remedy
from mmhicra.train.update.attention import choose
from mmhicra.train.update.load import Device

BF16_SINCE = (8, 0)
"""CUDA compute capability; older cards only emulate bfloat16."""


def find_devices() -> list[Device]:
    """The GPUs, else the CPU."""
    if torch.cuda.is_available():
        return [_gpu(index) for index in range(torch.cuda.device_count())]
    return [cpu()]


def cpu() -> Device:
    """The machine's memory, or the smaller share of it that its control group allows."""
    return Device("cpu", f"CPU, {os.cpu_count()} cores", *machine_memory())


def check_devices(config: RunConfig, devices: list[Device], processes: int) -> CheckResult:
    """Say what there is, and whether the configuration can compute on it."""
    check = CheckResult("devices", "Devices")
    check.facts = {
        "devices": [vars(device) for device in devices],
        "processes": processes,
        "threads": config.threads or torch.get_num_threads(),
    }
    kinds = {device.name: [d for d in devices if d.name == device.name] for device in devices}
    rows = [
        [name, str(len(same)), f"{same[0].total / GIB:.1f} GiB", f"{min(d.free for d in same) / GIB:.1f} GiB"]
        for name, same in kinds.items()
    ]
    check.grids = [Grid("", ("device", "count", "memory", "free"), rows)]
    plural = "processes" if processes > 1 else "process"
    check.summary = f"{', '.join(f'{len(same)} x {name}' for name, same in kinds.items())}; {processes} {plural}"
    kind = devices[0].kind
    try:
        attention = choose(config.model.attention, torch.device(kind), config.model.precision)
        check.facts["attention"] = attention
    except ConfigError as refusal:
        check.blame("attention that cannot run here", str(refusal), Remedy("model.attention", "auto"))
    if kind == "cuda" and config.model.precision == "bf16":
        for index, device in enumerate(devices):
            if torch.cuda.get_device_capability(index) < BF16_SINCE:
                check.blame("precision", f"{device.name} has no bfloat16 of its own", Remedy("model.precision", "fp32"))
    if config.train.prompts_per_step < processes:
        check.blame(
            "idle processes",
            f"train.prompts_per_step ({config.train.prompts_per_step}) leaves some of the {processes} processes idle",
            Remedy("train.prompts_per_step", processes),
        )
    cores = os.cpu_count() or 1
    if config.threads > cores:
        check.notes.append(f"threads is {config.threads} on {cores} cores: more threads than cores are slower")
    return check


def _gpu(index: int) -> Device:
    return Device("cuda", torch.cuda.get_device_name(index), *gpu_memory(index))
