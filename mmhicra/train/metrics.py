"""Numbers of a step: gathered over micro-batches and ranks, timed by phase, sent to where people look."""

from __future__ import annotations

import importlib
import importlib.util
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from mmhicra.config import LogConfig
from mmhicra.refusals import ConfigRefusal
from mmhicra.train.memory import MemoryGauge

TRACKERS = ("wandb", "trackio")
"""Optional packages, by their switches in the `log` section."""


class Timers:
    """Wall seconds, and the most memory held in GiB, by phase name; phases may repeat, which adds up, and nest.

    Memory is empty where the system does not tell it by phase.
    """

    def __init__(self, gauge: MemoryGauge) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.memory: dict[str, float] = defaultdict(float)
        self._gauge = gauge
        self._open: list[str] = []

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a `with` block under `phase`."""
        self._look()
        self._open.append(phase)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start
            self._look()
            self._open.pop()

    def _look(self) -> None:
        """Every phase that is open held what was held since the last look."""
        held = self._gauge.since_last()
        if held is not None:
            self.memory |= {phase: max(self.memory[phase], held) for phase in self._open}


def larger(one: float, other: float) -> float:
    """The larger of two numbers; NaN if either is, which `max` would lose."""
    return other if other > one or math.isnan(other) else one


class Tally:
    """Weighted means and maxima that add up over micro-batches, and over ranks by `merge`."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.weights: dict[str, float] = defaultdict(float)
        self.maxima: dict[str, float] = {}

    def mean(self, name: str, values: Tensor) -> None:
        """Take every element of `values` into the mean called `name`."""
        if values.numel():
            self.sums[name] += float(values.double().sum())
            self.weights[name] += values.numel()

    def maximum(self, name: str, values: Tensor) -> None:
        """Take every element of `values` into the maximum called `name`."""
        if values.numel():
            self.maxima[name] = larger(self.maxima.get(name, -math.inf), float(values.max()))

    def merge(self, others: Sequence[Tally]) -> Tally:
        """The tally of this and `others` together."""
        merged = Tally()
        for tally in (self, *others):
            for name, value in tally.sums.items():
                merged.sums[name] += value
                merged.weights[name] += tally.weights[name]
            for name, value in tally.maxima.items():
                merged.maxima[name] = larger(merged.maxima.get(name, -math.inf), value)
        return merged

    def result(self) -> dict[str, float]:
        """Name -> mean or maximum."""
        means = {name: self.sums[name] / self.weights[name] for name in self.sums}
        return {**means, **self.maxima}


def nonfinite_numbers(record: Mapping[str, Any]) -> list[str]:
    """Names of the numbers of `record` that are NaN or infinite, which JSON cannot say."""
    return [name for name, value in record.items() if isinstance(value, float) and not math.isfinite(value)]


class Sink(Protocol):
    """Somewhere numbers are shown."""

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        """Send the numeric fields of `record`."""
        ...

    def close(self) -> None:
        """Flush and finish."""
        ...


class TensorBoardSink:
    """TensorBoard event files under the run folder."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # purge_step hides what a killed run logged beyond its last checkpoint.
        self.writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        """Write one scalar per numeric field."""
        for name, value in _numbers(record).items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the event file."""
        self.writer.close()


class TrackerSink:
    """Weights & Biases or trackio, which share `init`, `log` and `finish`."""

    def __init__(self, package: str, project: str, name: str, config: Mapping[str, Any]) -> None:
        self.module: Any = importlib.import_module(package)
        self.module.init(project=project, name=name, config=dict(config))

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        """Send the numeric fields."""
        self.module.log(_numbers(record), step=step)

    def close(self) -> None:
        """Finish the tracked run."""
        self.module.finish()


def refuse_missing_trackers(log: LogConfig) -> None:
    """Raise ConfigRefusal for a tracker that is wanted but not installed; cheap, so that it can come first."""
    for package in TRACKERS:
        if getattr(log, package) and importlib.util.find_spec(package) is None:
            raise ConfigRefusal(
                f"log.{package} is on but {package} is not installed: pip install mmhicra[{package}], "
                f"or --set log.{package}=false"
            )


def open_sinks(log: LogConfig, folder: Path, name: str, config: Mapping[str, Any], first_step: int) -> list[Sink]:
    """The sinks that the configuration asks for."""
    sinks: list[Sink] = [TensorBoardSink(folder / "tensorboard", first_step)] if log.tensorboard else []
    for package in TRACKERS:
        if getattr(log, package):
            sinks.append(TrackerSink(package, log.project, name, config))
    return sinks


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
    }
