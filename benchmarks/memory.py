"""How much memory a piece of work takes at its peak, measured in a fresh process."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from mmhicra.core.errors import UserError
from mmhicra.core.memory import peak_above

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
"""For the environment of a process that is measured: glibc then gives freed tensors back at once."""


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


if __name__ == "__main__":
    work = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])(*json.loads(sys.argv[3]))
    try:
        print(peak_above(work))
    except OSError as error:
        sys.exit(f"this system does not tell ({error}): add --no-memory")
