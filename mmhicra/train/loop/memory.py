"""The most memory that this process held: since it was last asked, and altogether."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

GIB = 2**30


class MemoryGauge:
    """GiB that torch allocated on the GPU if there is one, else resident memory.

    Asking starts the peak anew. CUDA and Linux can do that; where the system cannot, only the whole process has a peak.
    """

    def __init__(self) -> None:
        self.forgets = torch.cuda.is_available() or _forget()
        self._peak = 0.0

    def since_last(self) -> float | None:
        """The most held since this was last called; None where the system does not tell."""
        held = _most_held()
        self._peak = max(self._peak, held)
        if not self.forgets:
            return None
        _forget()
        return held

    def altogether(self) -> float:
        """The most held so far."""
        return max(self._peak, _most_held())


def _most_held() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / GIB
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def _forget() -> bool:
    """Let the peak begin anew from what is held now; whether that worked."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # getrusage starts again too
    except OSError:
        return False
    return True
