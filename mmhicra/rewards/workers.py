"""Verification under a hard time limit, in processes that the kernel ends when one takes too long.

The limit counts processor time (`ITIMER_PROF`, whose signal nothing in the process handles): it holds inside long C
calls, it ends a worker whose parent is gone, and a busy machine does not turn right answers into wrong ones.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Any, Literal, Self

from mmhicra.core.errors import UserError
from mmhicra.rewards.verify import Outcome, Query, decide, verify

_START_LIMIT = 120.0
"""Seconds that a worker may take to import sympy; far more than it needs, so that a slow disk is no verdict."""
_PATIENCE = 20.0
"""The wall-clock time that a worker may take, as a multiple of its limit, should the kernel not have ended it."""
_MEMORY = 2 * 2**30
"""Bytes of address space that a worker may take."""
_MOST_STARTS = 3
"""Times that every worker may end before it is ready, none of them ready in between."""
_MOST_DEATHS = 2
"""Workers that may die over one query; the second death is its verdict."""


class Verifier:
    """Decides queries in order, those that need algebra in worker processes.

    Workers are fresh interpreters that import `rewards` and nothing else: no fork of a process with torch threads, no
    second import of the main program as `multiprocessing` would do. They start when first needed, so numbers, options
    and texts cost no process. Usable from any thread; one batch at a time.

    A worker that something else than its limit ends (`kill -9`, the kernel short of memory) is no verdict: its query
    goes to a fresh worker. Only a second death over the same query counts against it.

    Args:
        workers: processes at most. With 0 a query that needs algebra is refused, since nothing could stop it.
        time_limit: processor seconds for the gold and again for the answer. A slower answer is wrong; to a slower gold
            every answer is wrong that `decide` does not find equal, so that only its own writing is right.

    Attributes:
        lost: how many workers something else than their limit has ended, over the life of this verifier.
    """

    def __init__(self, workers: int = 2, time_limit: float = 5.0) -> None:
        self.workers = workers
        self.time_limit = time_limit
        self.lost = 0
        self._slow_golds: set[str] = set()
        self._failed_starts = 0
        self._idle: list[_Worker] = []
        self._alive: set[_Worker] = set()
        self._lock = threading.Lock()
        weakref.finalize(self, _kill_all, self._alive)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers. A closed verifier starts new ones if it is used again."""
        with self._lock:
            self._idle.clear()
            _kill_all(self._alive)

    def verify_all(self, queries: Sequence[Query]) -> list[Outcome]:
        """One outcome per query, in order; equal queries are decided once.

        Raises:
            UserError: a query needs algebra and there are no workers, or several in a row could not start.
        """
        outcomes: dict[Query, Outcome] = {}
        hard: list[Query] = []
        for query in dict.fromkeys(queries):
            if (outcome := decide(query)) is None:
                hard.append(query)
            else:
                outcomes[query] = outcome
        if hard and self.workers < 1:
            raise UserError(
                f"the gold {hard[0].gold!r} takes algebra to compare with, which workers = 0 rules out: "
                "set workers to 1 or more, or give the problem kind number, choice or text"
            )
        if hard:
            with self._lock:
                outcomes |= self._work(hard)
        return [outcomes[query] for query in queries]

    def _work(self, queries: list[Query]) -> dict[Query, Outcome]:
        outcomes: dict[Query, Outcome] = {}
        waiting = deque(queries)
        deaths: Counter[Query] = Counter()
        busy: dict[Connection, _Worker] = {}
        try:
            while waiting or busy:
                while waiting and len(busy) < self.workers:
                    if waiting[0].kind != "choice" and waiting[0].gold in self._slow_golds:
                        query = waiting.popleft()
                        outcomes[query] = _too_slow(self.time_limit, gold_is_at_fault=True)
                        continue
                    worker = self._worker()
                    busy[worker.connection] = worker
                    worker.take(waiting.popleft())
                if not busy:
                    break
                patience = min(worker.deadline for worker in busy.values()) - time.monotonic()
                heard = wait(list(busy), max(0.0, patience))
                for worker in list(busy.values()):
                    outcome = worker.listen() if worker.connection in heard else worker.overdue()
                    if outcome is None and not worker.is_gone:
                        continue
                    del busy[worker.connection]
                    if worker.is_gone:
                        outcome = self._after_death(worker, deaths)
                    if outcome is None:
                        waiting.appendleft(worker.query)
                    else:
                        outcomes[worker.query] = outcome
                    if worker.gold_was_slow:
                        self._slow_golds.add(worker.query.gold)
                    if worker.stage == "idle":
                        self._failed_starts = 0
                        self._idle.append(worker)
                    else:
                        self._discard(worker)
        finally:
            for worker in busy.values():  # interrupted: nobody waits for their verdicts any more
                self._discard(worker)
        return outcomes

    def _after_death(self, worker: _Worker, deaths: Counter[Query]) -> Outcome | None:
        """What the death of a worker that its limit did not end says of its query; None if it is to be tried again.

        Raises:
            UserError: so many workers in a row ended before they were ready.
        """
        self.lost += 1
        if worker.stage == "starting":
            self._failed_starts += 1
            if self._failed_starts < _MOST_STARTS * self.workers:
                return None
            self._failed_starts = 0
            self._discard(worker)
            raise UserError(
                f"the reward workers end before they are ready, the last {worker.ended}: "
                f'run {sys.executable} -c "import mmhicra.rewards.workers, math_verify" to see why; if memory is '
                "short, set reward.workers to fewer"
            )
        self._failed_starts = 0
        deaths[worker.query] += 1
        if deaths[worker.query] < _MOST_DEATHS:
            return None
        return _blame(
            worker.stage == "gold", f"crashed the verifier {_MOST_DEATHS} times, the last time {worker.ended}"
        )

    def _worker(self) -> _Worker:
        """An idle worker that is still alive, else a new one."""
        while self._idle:
            worker = self._idle.pop()
            if worker.process.poll() is None:
                return worker
            self.lost += 1
            self._discard(worker)
        worker = _Worker(self.time_limit)
        self._alive.add(worker)
        return worker

    def _discard(self, worker: _Worker) -> None:
        worker.kill()
        self._alive.discard(worker)


class _Worker:
    """One process and the query it is busy with."""

    query: Query

    def __init__(self, time_limit: float) -> None:
        self.time_limit = time_limit
        self.is_gone = False
        self.gold_was_slow = False
        self.stage: Literal["starting", "gold", "answer", "idle", "lost"] = "starting"
        self.deadline = time.monotonic() + _START_LIMIT
        self.connection, theirs = Pipe()
        program = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            f"from mmhicra.rewards.workers import serve; serve({theirs.fileno()}, {time_limit!r})"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
        )
        theirs.close()

    def take(self, query: Query) -> None:
        self.query = query
        if self.stage == "idle":
            self._enter("gold")
        with suppress(OSError):  # it has just died: `listen` notices
            self.connection.send(query)

    def listen(self) -> Outcome | None:
        """What the process says: the stage it has reached, or the outcome. Sets `is_gone` if it has died."""
        try:
            said: Any = self.connection.recv()
        except (EOFError, OSError):
            if self.process.wait() == -signal.SIGPROF:
                return self._too_slow()
            self.is_gone = True
            return None
        self._enter("idle" if isinstance(said, Outcome) else said)
        return said if isinstance(said, Outcome) else None

    def overdue(self) -> Outcome | None:
        """The outcome of a query that has taken too long in wall-clock time; a start that has counts as a death."""
        if time.monotonic() < self.deadline:
            return None
        if self.stage == "starting":
            self.is_gone = True
            return None
        return self._too_slow()

    @property
    def ended(self) -> str:
        """How the process ended, in words."""
        status = self.process.poll()
        if status is None:
            return f"not ready after {_START_LIMIT:g} s"
        if status < 0:
            killed = " (out of memory?)" if status == -signal.SIGKILL else ""
            return f"by signal {signal.Signals(-status).name}{killed}"
        return f"with exit status {status}"

    def kill(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()

    def _too_slow(self) -> Outcome:
        self.gold_was_slow = self.stage == "gold"
        outcome = _too_slow(self.time_limit, self.gold_was_slow)
        self.stage = "lost"
        return outcome

    def _enter(self, stage: Literal["gold", "answer", "idle"]) -> None:
        self.stage = stage
        self.deadline = time.monotonic() + _PATIENCE * self.time_limit


def serve(descriptor: int, time_limit: float) -> None:
    """What a worker process does: answer queries from the pipe `descriptor` until it closes."""
    import resource

    import math_verify  # noqa: F401 - before the clock starts

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # from here on only parsers complaining about what models write
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    connection = Connection(descriptor)
    connection.send("gold")
    while True:
        try:
            query = connection.recv()
        except (EOFError, OSError):
            return
        signal.setitimer(signal.ITIMER_PROF, time_limit)
        outcome = _judge(query, connection, time_limit)
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(outcome)


def _judge(query: Query, connection: Connection, time_limit: float) -> Outcome:
    at_gold = True

    def at_answer() -> None:
        nonlocal at_gold
        at_gold = False
        connection.send("answer")
        signal.setitimer(signal.ITIMER_PROF, time_limit)

    try:
        return verify(query.extracted, query.gold, query.kind, query.choices, at_answer, query.question)
    except Exception as error:  # noqa: BLE001 - sympy may raise anything on what a model writes; the record names it
        return _blame(at_gold, f"made the verifier fail with {type(error).__name__}")


def _blame(gold_is_at_fault: bool, fate: str) -> Outcome:
    if gold_is_at_fault:  # an answer in its own writing was right without a worker
        return Outcome("wrong", f"only its own writing equals this gold, which {fate}")
    return Outcome("wrong", f"the answer {fate}")


def _too_slow(time_limit: float, gold_is_at_fault: bool) -> Outcome:
    return _blame(gold_is_at_fault, f"exceeded {time_limit:g} s of verification")


def _kill_all(workers: set[_Worker]) -> None:
    while workers:
        workers.pop().kill()
