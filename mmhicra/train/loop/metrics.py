"""Numbers of a step: gathered over micro-batches and ranks, timed by phase, sent to where people look."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import socket
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from mmhicra.config import LogConfig
from mmhicra.core.errors import ConfigError
from mmhicra.core.files import writing
from mmhicra.core.run_folder import RunFolder
from mmhicra.train.loop.memory import MemoryGauge

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


class TensorBoardSink:
    """TensorBoard event files under the run folder, written when they are told: a kill loses no step.

    Args:
        folder: where they go.
        after: a resumed run's last step that stays; what earlier files say beyond it is hidden. None in a new run.
    """

    def __init__(self, folder: Path, after: int | None) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        # Readers take the files of a folder in the order of their names: two starts may lie within one second.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / name
        with writing(self.path):
            folder.mkdir(exist_ok=True)
            self.file = self.path.open("wb")
        self.writer = RecordWriter(self.file)
        self.events: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")
        self._add(file_version="brain.Event:2")
        if after is not None:
            start = self.events.SessionLog(status=self.events.SessionLog.START)
            self._add(step=after + 1, session_log=start)

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        """Write one scalar per numeric field."""
        values = [{"tag": name, "simple_value": value} for name, value in _numbers(record).items()]
        self._add(step=step, summary={"value": values})

    def _add(self, **fields: Any) -> None:
        with writing(self.path):
            self.writer.write(self.events.Event(wall_time=time.time(), **fields).SerializeToString())
            self.file.flush()

    def close(self) -> None:
        """Close the event file."""
        with writing(self.path):
            self.file.close()


class TrackerSink:
    """Weights & Biases or trackio, which share `init`, `log` and `finish`.

    Args:
        package: `wandb` or `trackio`.
        project: of the tracker.
        name: of the run.
        config: shown beside the curves.
        identity: what the run is known by there; the same one after a resume continues its curves.
        sent: steps before this one are there already; a resumed run takes them again, to the same numbers.
    """

    def __init__(
        self, package: str, project: str, name: str, config: Mapping[str, Any], identity: str, sent: int
    ) -> None:
        self.module: Any = importlib.import_module(package)
        self.sent = sent
        if package == "wandb":
            known: dict[str, Any] = {"name": name, "id": identity}
        else:  # trackio knows a run by its name
            known = {"name": f"{name}-{identity}"}
        self.module.init(project=project, config=dict(config), resume="allow", **known)

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        """Send the numeric fields."""
        if step >= self.sent:
            self.module.log(_numbers(record), step=step)

    def close(self) -> None:
        """Finish the tracked run."""
        self.module.finish()


def refuse_missing_trackers(log: LogConfig) -> None:
    """Raise ConfigError for a tracker that is wanted but not installed; cheap, so that it can come first."""
    for package in TRACKERS:
        if getattr(log, package) and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"log.{package} is on but {package} is not installed: pip install mmhicra[{package}], "
                f"or --set log.{package}=false"
            )


def open_sinks(
    log: LogConfig, folder: RunFolder, config: Mapping[str, Any], after: int | None, sent: int
) -> list[Sink]:
    """The sinks that the configuration asks for.

    Args:
        log: the section `log` of the configuration.
        folder: of the run; it keeps the identities that trackers know the run by.
        config: shown by trackers.
        after: the last step that a resumed run keeps; None in a new run.
        sent: the last step that was logged before a resume.
    """
    sinks: list[Sink] = [TensorBoardSink(folder.tensorboard, after)] if log.tensorboard else []
    wanted = [package for package in TRACKERS if getattr(log, package)]
    identities = folder.tracker_identities(wanted)
    for package in wanted:
        sinks.append(TrackerSink(package, log.project, folder.path.name, config, identities[package], sent))
    return sinks


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
    }
