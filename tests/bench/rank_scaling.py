"""One rank of `mmhicra bench scaling`, in a process of `on_ranks`."""

from pathlib import Path

from benchmarks.scaling import measure_rank, read_settings
from benchmarks.shapes import REGIMES, Regime

SMALL = Regime("small", (4, 5), 12, (3, 6, 5, 2))


def measure(accelerator, settings, scene):
    REGIMES["small"] = SMALL
    return measure_rank(read_settings(settings), accelerator.num_processes, Path(scene))
