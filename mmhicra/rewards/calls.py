"""Calls of a user's functions that are waited for so long and no longer.

A thread cannot be ended from outside. One that does not return in time is left behind: what it still does is not
read, and it does not keep the process from ending. A function that never gives the interpreter up cannot be bounded so.
Async functions run on one event loop in a thread of its own, where one that takes too long is cancelled.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any


class Overdue(Exception):
    """A call did not return in time."""


class CallsClosed(Exception):
    """The run ends: no call is made or waited for any more."""


class Raised(Exception):
    """A call raised.

    Attributes:
        error: what, KeyboardInterrupt and SystemExit included: those are not the run's.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


_Result = tuple[Any, BaseException | None]
_SLICE = 1.0
"""Seconds."""


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: `async def`, or an object whose `__call__` is one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _wait_for(result: SimpleQueue[_Result], limit: float) -> _Result:
    """The result, or Empty after `limit` seconds.

    It waits `_SLICE` at a time: a signal that comes between Python's last look for one and the wait itself does not
    interrupt that wait.
    """
    end = time.monotonic() + limit
    while True:
        left = end - time.monotonic()
        with suppress(Empty):
            return result.get(timeout=max(0.0, min(left, _SLICE)))
        if left <= _SLICE:
            raise Empty


class Calls:
    """Threads that functions are called in, as many as there are calls at a time; the same ones again and again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Any]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[SimpleQueue[_Result]] = set()
        self._closed = False

    def call(self, limit: float, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function(*arguments)` returns; of an async function what awaiting it gives.

        Raises:
            Raised: it raised.
            Overdue: it took more than `limit` seconds.
            CallsClosed: `close` was called, before or meanwhile.
        """
        result: SimpleQueue[_Result] = SimpleQueue()
        begin = self._begin_on_loop if is_async(function) else self._begin_in_thread
        with self._lock:
            if self._closed:
                raise CallsClosed
            self._waiting.add(result)
            end = begin(result, function, arguments)
        over = False
        try:
            value, error = _wait_for(result, limit)
            over = not isinstance(error, CallsClosed)
        except Empty:
            raise Overdue(f"no result within {limit:g} s") from None
        finally:
            with self._lock:
                self._waiting.discard(result)
                end(over and not self._closed)
        if isinstance(error, CallsClosed):
            raise error
        if error is not None:
            raise Raised(error)
        return value

    def close(self) -> None:
        """End the threads that wait for work, and every wait for a result."""
        with self._lock:
            self._closed = True
            for result in self._waiting:
                result.put((None, CallsClosed()))
            for jobs in self._idle:
                jobs.put(None)
            self._idle.clear()
            if self._loop is not None:
                self._loop.call_soon_threadsafe(_end_loop, self._loop)

    def _begin_in_thread(
        self, result: SimpleQueue[_Result], function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Callable[[bool], None]:
        """Begin a call; returns what is to be told whether it is over, and the thread free."""
        jobs = self._idle.pop() if self._idle else self._start()
        jobs.put((result, function, arguments))

        def end(over: bool) -> None:
            if over:
                self._idle.append(jobs)
            else:
                jobs.put(None)  # if the call returns after all, its thread ends

        return end

    def _begin_on_loop(
        self, result: SimpleQueue[_Result], function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Callable[[bool], None]:
        """Begin a call; returns what is to be told whether it is over, and else cancels it."""

        async def run() -> None:
            try:
                result.put((await function(*arguments), None))
            except BaseException as error:  # noqa: BLE001 - handed on to whom it concerns, whatever it is
                result.put((None, error))

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="async rewards", daemon=True).start()
        future = asyncio.run_coroutine_threadsafe(run(), self._loop)

        def end(over: bool) -> None:
            if not over:
                future.cancel()

        return end

    @staticmethod
    def _start() -> SimpleQueue[Any]:
        jobs: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=_work, args=(jobs,), name="custom reward", daemon=True).start()
        return jobs


def _work(jobs: SimpleQueue[Any]) -> None:
    while (job := jobs.get()) is not None:
        result, function, arguments = job
        try:
            result.put((function(*arguments), None))
        except BaseException as error:  # noqa: BLE001 - handed on to whom it concerns, whatever it is
            result.put((None, error))
        del job, result, function, arguments


def _end_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what runs on an event loop, and stop it when that has heard of it."""
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.call_later(0.1, loop.stop)
