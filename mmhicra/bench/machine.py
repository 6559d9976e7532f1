"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

import mmhicra


def machine() -> dict[str, Any]:
    """Versions, processor and thread count, to stand beside every figure."""
    return {
        "mmhicra": mmhicra.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
