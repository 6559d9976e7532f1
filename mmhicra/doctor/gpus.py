"""Kinds of GPUs that a run can be planned for without having one: `mmhicra doctor --gpus 8xH100-80`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmhicra.core.errors import UserError
from mmhicra.train.update.load import Device

MIB = 2**20
CONTEXT = 700 * MIB
"""Bytes that CUDA and its libraries take of a GPU before anything is loaded."""
NODE = 8
"""GPUs of a node, which are joined more closely than nodes are."""
NETWORK = 50e9
"""Bytes a second between two nodes of 8 GPUs, for a GPU: a network of 400 Gbit/s for each."""


@dataclass(frozen=True)
class Gpu:
    """One kind.

    Attributes:
        name: as `--gpus` has it.
        memory: MiB, as `nvidia-smi` shows it.
        flops: FLOP/s in bf16 without sparsity.
        bandwidth: of its memory, bytes a second.
        link: to the other GPUs of a node, bytes a second in both directions together.
        source: the maker's page.
    """

    name: str
    memory: int
    flops: float
    bandwidth: float
    link: float
    source: str

    @property
    def device(self) -> Device:
        """As memory plans know it."""
        total = self.memory * MIB
        return Device("cuda", self.name, total, total - CONTEXT)


_PAGES = "https://www.nvidia.com/en-us/data-center"
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-40", 40_960, 312e12, 1.555e12, 600e9, f"{_PAGES}/a100/"),
        Gpu("A100-80", 81_920, 312e12, 2.039e12, 600e9, f"{_PAGES}/a100/"),
        Gpu("H100-80", 81_559, 989e12, 3.35e12, 900e9, f"{_PAGES}/h100/"),
        Gpu("H200-141", 143_771, 989e12, 4.8e12, 900e9, f"{_PAGES}/h200/"),
        Gpu("B200-180", 183_359, 2250e12, 7.7e12, 1800e9, f"{_PAGES}/dgx-b200/"),
        Gpu("L40S-48", 46_068, 362e12, 0.864e12, 64e9, f"{_PAGES}/l40s/"),
        Gpu("L4-24", 23_034, 121e12, 0.3e12, 64e9, f"{_PAGES}/l4/"),
    )
}
"""SXM cards where there are some; data sheets of the makers."""
_WANTED = re.compile(r"(?:([0-9]+)x)?([A-Za-z0-9-]+)")


def parse_gpus(text: str) -> tuple[int, Gpu]:
    """`8xH100-80`: how many, and of which kind; `H100` alone is the kind of that name with most memory.

    Raises:
        UserError: no such kind, or a count that is none.
    """
    wanted = _WANTED.fullmatch(text)
    name = wanted[2].upper() if wanted else ""
    found = [gpu for gpu in GPUS.values() if name in (gpu.name, gpu.name.partition("-")[0])]
    count = int(wanted[1] or 1) if wanted else 0
    if not found or not 0 < count <= 1024:
        raise UserError(f"--gpus {text}: write COUNTxKIND, e.g. 8xH100-80, of the kinds {', '.join(GPUS)}")
    return count, max(found, key=lambda gpu: gpu.memory)
