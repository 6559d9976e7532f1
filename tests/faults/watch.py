"""Records the file operations of a run in its folder, or dies at one of them."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Operation:
    """One file operation inside the run folder: its audit event, its path there, its flags, and how often before."""

    event: str
    path: str
    mode: str = ""


@dataclass(frozen=True)
class Watch:
    """Records the file operations in a folder, and dies at one of them.

    Attributes:
        folder: whose operations count.
        record: where they are written down, one JSON line each.
        place: of the operation to die at; None records them all.
        torn: die with the file just emptied, or a line half appended, not before.
    """

    folder: Path
    record: Path
    place: int | None = None
    torn: bool = False

    def recorded(self) -> list[Operation]:
        """What was recorded."""
        if not self.record.exists():
            return []
        return [Operation(*json.loads(line)) for line in self.record.read_text().splitlines()]

    def install(self) -> None:
        """Watch this process from now on; cannot be undone, so only in a child."""
        self.record.unlink(missing_ok=True)
        own, count, inside, root = os.getpid(), [0], [False], str(self.folder)
        sync = os.fsync

        def reach(event: str, path: str, mode: str, flags: int) -> None:
            inside[0] = True
            if self.place is None:
                with self.record.open("a") as file:
                    file.write(json.dumps([event, path.removeprefix(root), mode]) + "\n")
            elif count[0] == self.place:
                if self.torn and event == "open":
                    tear(path, flags)
                os.kill(own, signal.SIGKILL)
            count[0] += 1
            inside[0] = False

        def hook(event: str, args: tuple[Any, ...]) -> None:
            if event not in EVENTS or inside[0] or os.getpid() != own or not args:
                return
            if not isinstance(args[0], str | bytes | os.PathLike):
                return
            path = os.fsdecode(args[0])
            flags = (args[2] or 0) if event == "open" else 0
            if path.startswith(root) and (event != "open" or flags & (os.O_WRONLY | os.O_RDWR)):
                reach(event, path, str(args[1]) if event == "open" else "", flags)

        def watched_sync(descriptor: Any) -> None:
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            path = os.readlink(f"/proc/self/fd/{number}")
            if path.startswith(root) and not inside[0] and os.getpid() == own:
                reach("os.fsync", path, "", 0)
            sync(descriptor)

        os.fsync = watched_sync
        sys.addaudithook(hook)


EVENTS = frozenset(
    {
        "open",
        "os.rename",
        "os.remove",
        "os.mkdir",
        "os.rmdir",
        "os.link",
        "os.symlink",
        "os.truncate",
        "shutil.rmtree",
        "shutil.copyfile",
        "shutil.move",
    }
)
"""Python's audit events of operations on files; `os.fsync` has none and is wrapped."""


def tear(path: str, flags: int) -> None:
    """Leave the file as a kill in the middle of a write would."""
    if flags & os.O_APPEND:
        with open(path, "ab") as file:
            file.write(b'{"step": 3, "reward/mean": 0.')
    elif not os.path.isdir(path):
        open(path, "wb").close()
