"""Signals: how a run is asked to stop, and how long it may take. Imports no torch: it is there before set-up begins."""

from __future__ import annotations

import logging
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

from mmhicra.core.logs import note

INTERRUPTED = 130
"""Exit status of a run that was stopped, as shells have it after Ctrl-C."""

TO_STOP = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What schedulers and closed terminals send; SIGUSR1 is what Slurm is told to announce the end of a job with."""

AT_ONCE_AFTER = 1.0
"""Seconds after which a second Ctrl-C counts: a launcher passes the first one on once more."""


class Stopped(KeyboardInterrupt):
    """A signal came while nothing was trained yet."""


class GraceOver(BaseException):
    """The time is over within which a step had to end; no `Exception`, so that nothing on the way catches it."""


class Stopping:
    """Takes SIGINT and `TO_STOP` for a run, and gives them back at the end of a `with` block.

    Before `begin` they raise `Stopped`. After it the first one sets `requested`, so that the step under way ends and is
    saved; after those of `TO_STOP` `GraceOver` is raised in the main thread if that takes longer than the grace time. A
    second Ctrl-C stops at once. A signal that is ignored, as under nohup, stays so.

    Attributes:
        requested: the name of the signal, None before.
        grace: seconds after those of `TO_STOP`; 0 is no limit.
        on_grace_over: called instead of raising `GraceOver`, from another thread: with several processes the main
            thread may wait for another one for ever.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.requested: str | None = None
        self.grace = 0.0
        self.on_grace_over: Callable[[], None] | None = None
        self._training = self._saving = self._armed = False
        self._since = 0.0
        self._timer: threading.Timer | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *TO_STOP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._disarm()
        for number, handler in self._before.items():
            if handler is not None:  # not one of Python's
                signal.signal(number, handler)

    def begin(self, grace: float, on_grace_over: Callable[[], None] | None = None) -> None:
        """From now on there is something to save."""
        self.grace, self.on_grace_over = grace, on_grace_over
        self._training = True

    @contextmanager
    def unlimited(self) -> Iterator[None]:
        """The step has ended and is being saved: in a `with` block nothing ends that."""
        self._disarm()
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._armed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._armed = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            leave_terminal()
        if not self._training:
            raise Stopped(signal.Signals(number).name)
        if self.requested is not None:
            if number == signal.SIGINT and time.monotonic() - self._since > AT_ONCE_AFTER:
                raise KeyboardInterrupt
            return
        self.requested, self._since = signal.Signals(number).name, time.monotonic()
        if number == signal.SIGINT:
            self._say("stopping after this step; once more to stop at once")
            return
        limit = f", within {self.grace:g} s" if self.grace else ""
        self._say(f"{self.requested}: stopping after this step{limit}")
        if self.grace and not self._saving:
            self._arm()

    def _arm(self) -> None:
        if self.on_grace_over is not None:
            self._timer = threading.Timer(self.grace, self.on_grace_over)
            self._timer.daemon = True
            self._timer.start()
            return
        self._armed = True
        self._before.setdefault(signal.SIGALRM, signal.signal(signal.SIGALRM, _end_grace))
        signal.setitimer(signal.ITIMER_REAL, self.grace)

    def _say(self, line: str) -> None:
        """One line, past Python's buffers: the signal may have come while they were written."""
        note(logging.INFO, line)
        if not self.quiet:
            with suppress(OSError):  # nobody may be there to read it
                os.write(2, f"mmhicra: {line}\n".encode())


def _end_grace(number: int, frame: FrameType | None) -> None:
    raise GraceOver


def leave_terminal() -> None:
    """Write to nowhere where a terminal is gone: a failed print would end the run before it is saved."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)
    os.close(nowhere)
