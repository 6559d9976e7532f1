"""Numbers of a step: gathered over micro-batches and ranks, timed by phase, sent to where people look."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from mmhicra.core.memory import MemoryGauge


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

    def restart(self) -> None:
        """Forget the phases so far: another step begins."""
        self.seconds.clear()
        self.memory.clear()

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

    def add(self, other: Tally) -> None:
        """Take everything that `other` has into this one."""
        for name, value in other.sums.items():
            self.sums[name] += value
            self.weights[name] += other.weights[name]
        for name, value in other.maxima.items():
            self.maxima[name] = larger(self.maxima.get(name, -math.inf), value)

    def merge(self, others: Sequence[Tally]) -> Tally:
        """The tally of this and `others` together."""
        merged = Tally()
        for tally in (self, *others):
            merged.add(tally)
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
