"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

import torch

import mmhicra


def machine() -> dict[str, Any]:
    """Versions, processor and thread count, to stand beside every figure."""
    found = {
        "mmhicra": mmhicra.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    return found | {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else found


def now() -> float:
    """Seconds, when all that was asked of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
