"""One training at a time in a run folder: `RUN/.lock` is locked by the kernel and names who holds it.

The kernel drops the lock with the process, however that ends, so a lock of a dead process holds nobody up. Two things
the kernel's lock cannot say, and what is done then:

* The record names a process on another host. Some network file systems lock within one host only, so the file is
  watched: a holder touches it every `TOUCH_SECONDS`, and a record that nobody touches for `WATCH_SECONDS` is stale.
* The file system has no locks at all. Then the record alone counts: of a process on this host it is asked whether it
  lives, one on another host is watched.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from mmhicra.core.errors import RunFolderError
from mmhicra.core.files import writing

TOUCH_SECONDS = 5.0
WATCH_SECONDS = 30.0
SETTLE_SECONDS = 1.0
FORK_SECONDS = 10.0
"""How long a dead holder's lock is waited for: its youngest child has it too, until that comes to run and closes it."""

Say = Callable[[str], None]


class RunLock:
    """The lock of one run folder, held from `acquire` to `release`; children made by a fork do not hold it."""

    def __init__(self, folder: Path, say: Say = lambda line: None) -> None:
        self.folder = folder
        self.path = folder / ".lock"
        self.say = say
        self._descriptor: int | None = None
        self._released = threading.Event()

    def acquire(self) -> None:
        """Take the lock and write down who has it.

        Raises:
            RunFolderError: another training has it, or the folder cannot be written.
        """
        with writing(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            locked = self._try(descriptor)
            holder = read_holder(self.path)
            if holder and self._holds(holder, locked):
                raise RunFolderError(self._taken_by(holder))
            record = own_record()
            with writing(self.path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(record).encode(), 0)
            if not locked:  # two may have come this far at once, and the last one to write has it
                time.sleep(SETTLE_SECONDS)
                holder = read_holder(self.path)
                if holder is not None and holder != record:
                    raise RunFolderError(self._taken_by(holder))
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._touch, args=(descriptor,), daemon=True, name="run lock").start()

    def release(self) -> None:
        """Give the lock back; the file stays, empty, for removing it would race with whoever opens it."""
        descriptor, self._descriptor = self._descriptor, None
        self._released.set()
        if descriptor is not None:
            with suppress(OSError):  # the folder may be gone, or its disk
                os.ftruncate(descriptor, 0)
            os.close(descriptor)

    def _try(self, descriptor: int) -> bool:
        """Whether the kernel gave the lock; False where the file system has none."""
        end = time.monotonic() + FORK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = read_holder(self.path)
                if holder is None or holder["host"] != socket.gethostname() or lives(holder) or time.monotonic() > end:
                    raise RunFolderError(self._taken_by(holder)) from None
                time.sleep(0.05)
            except OSError:
                return False
            else:
                return True

    def _holds(self, holder: dict[str, Any], locked: bool) -> bool:
        """Whether the process of a record still trains, as far as the kernel's lock does not say."""
        if holder["host"] == socket.gethostname():
            return not locked and lives(holder)
        self.say(
            f"{self.path} names process {holder['process']} on {holder['host']}: "
            f"watching for {WATCH_SECONDS:.0f} s whether it still runs"
        )
        before, end = touched(self.path), time.monotonic() + WATCH_SECONDS
        while time.monotonic() < end:
            time.sleep(min(1.0, WATCH_SECONDS / 10))
            if touched(self.path) != before:
                return True
        return False

    def _taken_by(self, holder: dict[str, Any] | None) -> str:
        who = f"process {holder['process']} on {holder['host']}" if holder else "another process"
        since = f" since {holder['since']}" if holder else ""
        return (
            f"{self.folder} is being trained in by {who}{since}: wait for it or stop it, "
            "or choose another --set run_folder=..."
        )

    def _touch(self, descriptor: int) -> None:
        while not self._released.wait(TOUCH_SECONDS):
            with suppress(OSError):  # a full or lost disk is told by whoever writes
                if self._descriptor == descriptor:
                    os.utime(descriptor)

    def _forget(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def own_record() -> dict[str, Any]:
    """What this process writes into the file."""
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started": psutil.Process().create_time(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def read_holder(path: Path) -> dict[str, Any] | None:
    """The record in a lock file; None if it is empty or cannot be read."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return holder if isinstance(holder, dict) and own_record().keys() <= holder.keys() else None


def lives(holder: dict[str, Any]) -> bool:
    """Whether the process of a record runs on this host; another one may have got its number since."""
    try:
        return abs(psutil.Process(holder["process"]).create_time() - holder["started"]) < 1.0
    except (psutil.NoSuchProcess, TypeError, ValueError):
        return False


def touched(path: Path) -> tuple[int, bytes]:
    """What changes when a holder lives. The file is opened for it: network file systems cache times of closed files."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns, file.read()
    except OSError:
        return 0, b""
