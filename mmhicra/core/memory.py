"""Memory as it is measured: what a machine or a GPU has left, and the most that this process or its device held."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

GIB = 2**30
"""Bytes of one GiB."""

_STATUS = Path("/proc/self/status")
_CONTROL_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Files with the limit and the use of this process's control group, in bytes: version 2, then version 1."""


class Memory(NamedTuple):
    """Bytes there are, and bytes that a process may still take."""

    total: int
    free: int


def machine_memory() -> Memory:
    """The machine's memory, or the smaller share of it that its control group allows."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit, used = _control_group()
    if limit is not None and limit < total:
        total, free = limit, min(free, limit - used)
    return Memory(total, free)


def gpu_memory(index: int) -> Memory:
    """The memory of one GPU, as its driver tells it: what other processes hold is not free."""
    free, total = torch.cuda.mem_get_info(index)
    return Memory(total, free)


def resident() -> int:
    """Bytes of this process that are in memory now.

    Raises:
        OSError: the system does not tell (only Linux does).
    """
    return _status("VmRSS")


def peak() -> int:
    """The most bytes held since `restart_peak`: what torch allocated on the GPU, else what was resident."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else most_resident()


def most_resident() -> int:
    """The most bytes of this process that were in memory at a time, since `restart_peak` where that works."""
    if _STATUS.exists():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def restart_peak() -> None:
    """Let the peak begin anew from what is held now.

    Raises:
        OSError: the system cannot do that. CUDA and Linux can.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_above(work: Callable[[], Any]) -> int:
    """The most bytes that `work` holds above what was held before it: see `peak`.

    Raises:
        OSError: the system does not tell.
    """
    restart_peak()
    before = torch.cuda.memory_allocated() if torch.cuda.is_available() else resident()
    work()
    return peak() - before


class MemoryGauge:
    """`peak` in GiB, since it was last asked for and altogether.

    Where the system cannot start a peak anew, only the whole process has one.
    """

    def __init__(self) -> None:
        self.forgets = torch.cuda.is_available() or _restarts()
        self._peak = 0.0

    def since_last(self) -> float | None:
        """The most held since this was last called; None where the system does not tell."""
        held = peak() / GIB
        self._peak = max(self._peak, held)
        return held if self.forgets and _restarts() else None

    def altogether(self) -> float:
        """The most held so far."""
        return max(self._peak, peak() / GIB)


def _restarts() -> bool:
    """Whether the peak could be started anew."""
    try:
        restart_peak()
    except OSError:
        return False
    return True


def _status(field: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _control_group() -> tuple[int | None, int]:
    """Limit and use of this process's control group in bytes; None without a limit."""
    for limit, used in _CONTROL_GROUPS:
        if Path(limit).is_file() and Path(used).is_file():
            text = Path(limit).read_text(encoding="ascii").strip()
            return (int(text) if text.isdigit() else None), int(Path(used).read_text(encoding="ascii"))
    return None, 0
