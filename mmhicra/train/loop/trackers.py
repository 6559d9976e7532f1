"""Where the numbers of a run are shown as curves: TensorBoard, and services through accelerate's tracker classes.

A resumed run continues its curves: a service knows it by an identity that is kept in `trackers.json`, steps that were
sent before are not sent again, and TensorBoard hides what is taken again. A service that fails is told of, and the run
goes on without it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from mmhicra.config import LogConfig
from mmhicra.core.errors import ConfigError, UserError, one_line
from mmhicra.core.files import writing
from mmhicra.core.names import TRACKER_PACKAGES, TrackerName
from mmhicra.core.run_folder import RunFolder
from mmhicra.core.secrets import without_secrets
from mmhicra.train.loop.metrics import Sink

CHOSEN: dict[TrackerName, int] = {"wandb": 12, "trackio": 12, "swanlab": 21, "comet": 32}
"""Characters of the identity that a new run gets: SwanLab takes just 21, Comet 32 to 50. MLflow chooses one itself."""


class TensorBoard(GeneralTracker):
    """TensorBoard event files under the run folder, written when they are told: a kill loses no step.

    Accelerate's `TensorBoardTracker` cannot do this: its files are called by the second, so that two starts within one
    are read in the wrong order and the purge of a resumed run hides the wrong steps; it writes in a thread, so that a
    full disk is noticed steps later or never; and it adds a run of its own for the configuration at every start.

    Args:
        folder: where they go.
        after: a resumed run's last step that stays; what earlier files say beyond it is hidden. None in a new run.
    """

    name = "tensorboard"
    requires_logging_directory = True

    def __init__(self, folder: Path, after: int | None) -> None:
        super().__init__()
        self.folder = folder
        self.after = after

    def start(self) -> None:
        """Begin an event file."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        # Readers take the files of a folder in the order of their names: two starts may lie within one second.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.path = self.folder / name
        with writing(self.path):
            self.folder.mkdir(exist_ok=True)
            self.file = self.path.open("wb")
        self.writer = RecordWriter(self.file)
        self.events: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")
        self._add(file_version="brain.Event:2")
        if self.after is not None:
            start = self.events.SessionLog(status=self.events.SessionLog.START)
            self._add(step=self.after + 1, session_log=start)

    @property
    def tracker(self) -> Any:
        """The writer of records."""
        return self.writer

    def log(self, values: dict[str, float], step: int | None = None, **kwargs: Any) -> None:
        """Write one scalar per value."""
        scalars = [{"tag": name, "simple_value": value} for name, value in values.items()]
        self._add(step=step, summary={"value": scalars})

    def _add(self, **fields: Any) -> None:
        with writing(self.path):
            self.writer.write(self.events.Event(wall_time=time.time(), **fields).SerializeToString())
            self.file.flush()

    def finish(self) -> None:
        """Close the event file."""
        with writing(self.path):
            self.file.close()


class Service(GeneralTracker):
    """A tracker of accelerate's, under an identity that outlives the process; accelerate leaves that to its caller.

    Args:
        name: as in `log.trackers`.
        project: where the run is put.
        run: the run's name there.
        identity: what it is known by; None lets the service choose.
        config: shown beside the curves, without secrets.
        sent: steps before this one are there already; a resumed run takes them again, to the same numbers.
    """

    requires_logging_directory = False

    def __init__(
        self, name: TrackerName, project: str, run: str, identity: str | None, config: Mapping[str, Any], sent: int
    ) -> None:
        self.name = name
        super().__init__()
        self.run = run
        self.identity = identity
        self.config = without_secrets(dict(config))
        self.sent = sent
        known: dict[TrackerName, dict[str, Any]] = {
            "wandb": {"name": run, "id": identity, "resume": "allow", "config": self.config},
            # It knows a run by its name. Its `config` is a plain dict, which accelerate's way of storing one spoils.
            "trackio": {"name": f"{run}-{identity}", "resume": "allow", "config": self.config},
            "mlflow": {"run_name": run, "run_id": identity},
            "swanlab": {"experiment_name": run, "id": identity, "resume": "allow", "config": self.config},
            "comet": {"experiment_key": identity},
        }
        self.inner: Any = LOGGER_TYPE_TO_CLASS[TRACKER_PACKAGES[name]](project, **known[name])

    @property
    def tracker(self) -> Any:
        """What the service's own package calls the run."""
        return self.inner.tracker

    def start(self) -> None:
        """Begin the run there, or go on with it."""
        self.inner.start()
        if self.name == "comet":
            self.tracker.set_name(self.run)
            self.inner.store_init_configuration(dict(flat(self.config)))
        if self.name == "mlflow":
            if self.identity is None:  # its parameters cannot be changed, so a resumed run keeps those it began with
                self.inner.store_init_configuration({plain(key): value for key, value in flat(self.config)})
            self.identity = self.tracker.info.run_id

    def log(self, values: dict[str, float], step: int | None = None, **kwargs: Any) -> None:
        """Send the numbers of a step, unless they are there."""
        if step is not None and step >= self.sent:
            self.inner.log({plain(name): value for name, value in values.items()}, step=step)

    def finish(self) -> None:
        """Send what still waits, and end the run there."""
        self.inner.finish()


def plain(name: str) -> str:
    """A name of a metric as MLflow, the strictest, takes it."""
    return re.sub(r"[^\w\-. /]", "_", name)


def flat(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every leaf of a configuration; a list is one."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


class TrackerSink:
    """Sends the numbers of a record to a tracker; what it does not take is told of and counted, and ends no run.

    Args:
        tracker: a started one.
        say: prints a line.
    """

    def __init__(self, tracker: TensorBoard | Service, say: Callable[[str], None]) -> None:
        self.tracker = tracker
        self.say = say
        self.missing: list[int] = []

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        """Send the numeric fields.

        Raises:
            RunFolderError: TensorBoard's file cannot be written.
        """
        try:
            self.tracker.log(numbers(record), step=step)
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - of the network, of the service, of its package
            if not self.missing:
                self.say(f"warning: {self.tracker.name} did not take step {step}: {one_line(repr(error), 200)}")
            self.missing.append(step)
            return
        self._tell_missing()

    def _tell_missing(self) -> None:
        if len(self.missing) > 1:
            first, last = self.missing[0], self.missing[-1]
            self.say(f"warning: {self.tracker.name} lacks {len(self.missing)} steps ({first} to {last})")
        self.missing.clear()

    def close(self) -> None:
        """End the tracked run.

        Raises:
            RunFolderError: TensorBoard's file cannot be written.
        """
        self._tell_missing()
        try:
            self.tracker.finish()
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - as in `log`
            self.say(f"warning: {self.tracker.name} could not be ended: {one_line(repr(error), 200)}")


def refuse_missing_trackers(log: LogConfig) -> None:
    """Raise ConfigError for a tracker that is wanted but not installed; cheap, so that it can come first."""
    for name in log.trackers:
        package = TRACKER_PACKAGES[name]
        if importlib.util.find_spec(package) is None:
            rest = ", ".join(other for other in log.trackers if other != name)
            raise ConfigError(
                f"log.trackers names {name}, but the package {package} is not installed: pip install "
                f"'mmhicra[{name}]', or --set log.trackers=[{rest}]"
            )


def open_trackers(
    log: LogConfig,
    folder: RunFolder,
    config: Mapping[str, Any],
    after: int | None,
    sent: int,
    say: Callable[[str], None],
) -> list[Sink]:
    """The trackers that the configuration names, started.

    Args:
        log: the section `log` of the configuration.
        folder: of the run; it keeps the identities that services know the run by.
        config: shown by services.
        after: the last step that a resumed run keeps; None in a new run.
        sent: the last step that was logged before a resume.
        say: prints a line.

    Raises:
        ConfigError: a service cannot be reached, or does not let us in.
        RunFolderError: TensorBoard's file cannot be written.
    """
    sinks: list[Sink] = []
    for name in log.trackers:
        if name == "tensorboard":
            tracker: TensorBoard | Service = TensorBoard(folder.tensorboard, after)
            tracker.start()
        else:
            tracker = start_service(name, log.project, folder, config, sent)
        sinks.append(TrackerSink(tracker, say))
    return sinks


def start_service(name: TrackerName, project: str, folder: RunFolder, config: Mapping[str, Any], sent: int) -> Service:
    """A service with this run in it; its identity is in the run folder before, or as soon as it is known."""
    identity = folder.tracker_identity(name)
    if identity is None and name in CHOSEN:
        identity = folder.keep_tracker_identity(name, uuid.uuid4().hex[: CHOSEN[name]])
    try:
        service = Service(name, project, folder.path.name, identity, config, sent)
        service.start()
    except Exception as error:
        raise ConfigError(
            f"log.trackers: {name} cannot be started ({one_line(str(error) or repr(error), 300)}): mend that, or take "
            "it out of log.trackers"
        ) from error
    if service.identity is not None and service.identity != identity:
        folder.keep_tracker_identity(name, service.identity)
    return service


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numeric fields of a record, but for its step."""
    return {
        name: float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
    }
