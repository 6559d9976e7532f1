"""Signals: how a run is asked to stop, and what it does then."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmhicra.train.loop import Run


@contextmanager
def stopping_softly(run: Run) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM lets the step end and saves; a second one stops at once."""

    def request(number: int, frame: Any) -> None:
        if run.stop_requested:
            raise KeyboardInterrupt
        run.stop_requested = True
        run.terminal.say("stopping after this step; once more to stop at once")

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
