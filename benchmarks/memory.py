"""How much memory a piece of work takes at its peak, above what was held before it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mmhicra.core.errors import UserError

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
"""For the environment of a process that is measured: glibc then gives freed tensors back at once."""


def peak_above(work: Callable[[], Any]) -> int:
    """Bytes: on CUDA what torch allocated, else resident memory of the process (Linux; run it under `ALLOCATOR`).

    Raises:
        UserError: the system does not tell.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    except OSError as error:
        raise UserError(f"bench: peak memory cannot be measured on this system ({error}): add --no-memory") from None
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def peak_in_a_process(module: str, function: str, arguments: Sequence[Any]) -> int:
    """`peak_above` of what `module.function(*arguments)` returns, in a fresh process under `ALLOCATOR`.

    Args:
        module: its dotted name.
        function: prepares, and returns the work.
        arguments: JSON-able.

    Raises:
        UserError: the process failed.
    """
    command = [sys.executable, "-m", "benchmarks.memory", module, function, json.dumps(arguments)]
    done = subprocess.run(command, env={**os.environ, **ALLOCATOR}, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"bench: peak memory was not measured: {done.stderr.strip()[-500:]}")
    return int(done.stdout.split()[-1])


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(peak_above(getattr(importlib.import_module(sys.argv[1]), sys.argv[2])(*json.loads(sys.argv[3]))))
