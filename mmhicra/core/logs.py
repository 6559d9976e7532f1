"""Logging under the logger `mmhicra`: a file per process beside the run folder; libraries' lines kept off the bars.

mmhicra.train.loop.loop ---> mmhicra --+--> Terminal (rank 0 only, from its level on)
                                       +--> LogFile: RUN.logs/rank_N.log (everything, with tracebacks)
transformers, vllm, warnings --> root -+    (warnings; errors are shown as well)

Logging never ends a run: what cannot be written is counted, and the count is written once there is space again.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from mmhicra.core.errors import UserError

PACKAGE = logging.getLogger("mmhicra")
"""The logger above those of all modules; it takes records of every level while a command runs."""
PACKAGE.addHandler(logging.NullHandler())  # without it Python itself would print warnings on the standard error

RESULT = 25
"""The level of the lines that a command was asked for, between INFO and WARNING: `--quiet` shows it."""
logging.addLevelName(RESULT, "RESULT")

LIBRARIES = ("transformers", "vllm", "torch", "datasets", "huggingface_hub", "accelerate", "peft")
"""Loggers that print by themselves, once their library is imported, into the middle of a bar."""

NATIVE_ENUMS = ("KernelPreference", "ScaleCalculationMode")
"""Of torchao: at its import torch warns of how it registers them, whoever imports it (transformers does)."""

LINE = "%(asctime)s %(levelname)-8s %(name)s: %(message)s"
HELD = 10_000
"""The most records that wait for the file to be opened; older ones are dropped and counted."""

_active: LogFile | None = None


class LogFile(logging.Handler):
    """The log file of one process; records wait in memory until `open`.

    Lines are written past Python's buffers: a kill loses none, and a signal handler may log.

    Attributes:
        path: of the open file; None before.
        candidate: where a traceback goes if the command fails before `open`; None is nowhere.
        wanted: whether the command keeps a log file.
        lost: lines that could not be written since the last one that could.
    """

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        formatter = logging.Formatter(LINE)
        formatter.default_msec_format = "%s.%03d"
        self.setFormatter(formatter)
        self.path: Path | None = None
        self.candidate: Path | None = None
        self.wanted = False
        self.lost = 0
        self._reason = ""
        self._descriptor: int | None = None
        self._waiting: deque[logging.LogRecord] = deque(maxlen=HELD)
        self._faults = self._torn = False

    def open(self, path: Path) -> str | None:
        """Append to `path` from now on, beginning with what waits; why it cannot be, None if it can."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            self._torn = not _ends_with_newline(path)  # a kill
        except OSError as error:
            self._waiting.clear()
            return error.strerror or str(error)
        self.path = path
        if not faulthandler.is_enabled():  # of crashes in C, e.g. a segmentation fault, which no handler here gets
            faulthandler.enable(self._descriptor)
            self._faults = True
        while self._waiting:
            self.emit(self._waiting.popleft())
        return None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or let it wait; never raises."""
        if self._descriptor is None:
            if len(self._waiting) == HELD:
                self.lost, self._reason = self.lost + 1, "too many before the run folder was this run's"
            self._waiting.append(record)
            return
        text = text_of(self, record)
        if self.lost and self._write(f"{self.lost} lines are missing here: {self._reason}"):
            self.lost = 0
        if not self._write(text):
            self.lost += 1

    def _write(self, line: str) -> bool:
        data = f"{chr(10) if self._torn else ''}{line}\n".encode("utf-8", "backslashreplace")
        try:
            while data and self._descriptor is not None:
                data = data[os.write(self._descriptor, data) :]
                self._torn = bool(data)
        except OSError as error:
            self._reason = error.strerror or str(error)
            return False
        return True

    def dump_threads(self) -> None:
        """Write where every thread stands, for a run that hangs."""
        if self._descriptor is not None:
            faulthandler.dump_traceback(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        if self._faults:
            faulthandler.disable()
            self._faults = False
        if self._descriptor is not None:
            with suppress(OSError):  # a full disk
                os.close(self._descriptor)
            self._descriptor = None
        super().close()


def text_of(handler: logging.Handler, record: logging.LogRecord) -> str:
    """A record as text; a library's arguments that do not fit its message end nothing."""
    try:
        return handler.format(record)
    except Exception as error:  # noqa: BLE001 - whatever is raised by what somebody hands to a logger
        return f"{record.levelname} {record.name}: a message that cannot be formatted ({type(error).__name__})"


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


class _Forward(logging.Handler):
    """Hands records from a level of its own on to another handler."""

    def __init__(self, handler: logging.Handler, level: int) -> None:
        super().__init__(level)
        self.handler = handler

    def emit(self, record: logging.LogRecord) -> None:
        self.handler.emit(record)


def log_file() -> LogFile | None:
    """The log file of the command at work."""
    return _active


def keeps_log() -> bool:
    """Whether the command at work keeps a log file."""
    return _active is not None and _active.wanted


@contextmanager
def logged(
    shown: logging.Handler,
    *,
    to_file: bool = False,
    libraries: int = logging.WARNING,
    expected: tuple[type[BaseException], ...] = (),
) -> Iterator[LogFile]:
    """Log a command: all of `mmhicra`'s records, and what libraries warn of.

    One inside another one, as training inside `mmhicra train`, is part of it.

    Args:
        shown: the terminal, which shows records that did not come from it, from its level on.
        to_file: whether the command opens a log file.
        libraries: level from which on the terminal shows what libraries say.
        expected: exceptions beside UserError and KeyboardInterrupt that are no fault of the program.
    """
    global _active
    if _active is not None:
        yield _active
        return
    file = LogFile()
    level, propagate = PACKAGE.level, PACKAGE.propagate
    PACKAGE.setLevel(logging.DEBUG)
    PACKAGE.propagate = False
    file.wanted = to_file
    attached = [(PACKAGE, shown), (logging.getLogger(), _Forward(shown, libraries))]
    if to_file:
        attached += [(PACKAGE, file), (logging.getLogger(), file)]
    for logger, handler in attached:
        logger.addHandler(handler)
    _active = file
    try:
        with _libraries_silenced(), _threads_logged(), _ending_logged(file, expected):
            yield file
    finally:
        _active = None
        for logger, handler in attached:
            logger.removeHandler(handler)
        if file.lost:
            lines = f"warning: {file.lost} lines could not be written to {file.path}"
            shown.handle(make_record(lines, logging.WARNING, sys._getframe()))
        PACKAGE.setLevel(level)
        PACKAGE.propagate = propagate
        file.close()


@contextmanager
def _ending_logged(file: LogFile, expected: tuple[type[BaseException], ...]) -> Iterator[None]:
    """Note how the command ends, with the traceback of what nothing has foreseen."""
    try:
        yield
    except UserError as refusal:
        note(logging.ERROR, str(refusal))
        note(logging.DEBUG, "raised here", trace=True)
        raise
    except (KeyboardInterrupt, *expected) as stop:
        note(logging.INFO, f"stopped: {stop}" if str(stop) else f"stopped by {type(stop).__name__}")
        raise
    except BaseException as error:
        note(logging.CRITICAL, f"ended by {type(error).__name__}, which is a fault of the program", trace=True)
        if file.path is None and file.candidate is not None:
            file.open(file.candidate)
        raise


def note(level: int, text: str, trace: bool = False) -> None:
    """Log what is shown elsewhere, or not at all: it goes to the log file and not to the terminal."""
    pass_on(make_record(text, level, sys._getframe(1), trace))


def make_record(text: str, level: int, caller: FrameType, trace: bool = False) -> logging.LogRecord:
    """A record as the logger of the caller's module makes it; one of an outsider is the package's own."""
    name = caller.f_globals.get("__name__", "")
    logger = logging.getLogger(name if name.partition(".")[0] == PACKAGE.name else PACKAGE.name)
    place = (caller.f_code.co_filename, caller.f_lineno)
    return logger.makeRecord(
        logger.name, level, *place, "%s", (text,), sys.exc_info() if trace else None, caller.f_code.co_name
    )


def pass_on(record: logging.LogRecord) -> None:
    """Hand a record that the terminal is not to show (again) to the log file, and to handlers of others."""
    record.__dict__["shown"] = True
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def drop_import_warnings() -> None:
    """Leave out what torch says of `NATIVE_ENUMS` when torchao is imported: nobody but torchao can mend it."""
    logging.getLogger("torch.utils._pytree").addFilter(_is_of_use)


def _is_of_use(record: logging.LogRecord) -> bool:
    about = record.args[0] if isinstance(record.args, tuple) and record.args else None
    said = str(record.msg).startswith("%s is an Enum subclass and is now natively supported")
    return not (said and getattr(about, "__name__", "") in NATIVE_ENUMS)


@contextmanager
def _libraries_silenced() -> Iterator[None]:
    """Their own handlers are off, and their records go to the root logger; `warnings` too."""
    changed: list[tuple[logging.Logger, Sequence[logging.Handler], bool]] = []
    for logger in map(logging.getLogger, LIBRARIES):
        own = [handler for handler in logger.handlers if isinstance(handler, logging.StreamHandler)]
        changed.append((logger, own, logger.propagate))
        for handler in own:
            logger.removeHandler(handler)
        logger.propagate = True
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, own, propagate in changed:
            for handler in own:
                logger.addHandler(handler)
            logger.propagate = propagate


@contextmanager
def _threads_logged() -> Iterator[None]:
    """Exceptions that end a thread, or that nobody can catch, are logged as well; Python prints them as ever."""
    of_threads, unraisable = threading.excepthook, sys.unraisablehook

    def log_thread(about: Any) -> None:
        PACKAGE.error(
            "the thread %s ended by an exception",
            about.thread.name if about.thread else "?",
            exc_info=(about.exc_type, about.exc_value, about.exc_traceback),
            extra={"shown": True},
        )
        of_threads(about)

    def log_unraisable(about: Any) -> None:
        PACKAGE.error(
            "%s in %r",
            about.err_msg or "an exception that cannot be raised",
            about.object,
            exc_info=(about.exc_type, about.exc_value, about.exc_traceback),
            extra={"shown": True},
        )
        unraisable(about)

    threading.excepthook, sys.unraisablehook = log_thread, log_unraisable
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = of_threads, unraisable
