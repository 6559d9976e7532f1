"""One session of `mmhicra train` on a run folder, which can be stopped at a moment or at a file operation.

Sessions are forked from an interpreter that has imported everything (two seconds each), or start the console command.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
SETTINGS = (
    "train.steps=6",
    "train.prompts_per_step=2",
    "train.optimizer.warmup_steps=0",
    "rollout.n=3",
    "rollout.max_new_tokens=24",
    "reward.length_weight=1",
    "reward.length_buffer=20",  # so that every group has a signal and every step an update
    "data.count=16",
    "eval.problems=2",
    "eval.every=3",
    "log.checkpoint_every=2",
    "log.keep_checkpoints=2",
    "threads=1",
)
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "TOKENIZERS_PARALLELISM": "false"}
LIMIT = 600.0
"""Seconds after which a session counts as hanging; the machine may be busy."""
NOTHING_THERE = "holds no run to resume"


@dataclass(frozen=True)
class Operation:
    """One file operation inside the run folder: its audit event, its path there, its flags, and how often before."""

    event: str
    path: str
    mode: str = ""


@dataclass(frozen=True)
class Ended:
    """How a session ended.

    Attributes:
        status: as the shell has it, negative for a signal, None for a hang.
        said: everything it printed.
        operations: those it was asked to record.
        hit: whether the signal or the operation came before the end.
    """

    status: int | None
    said: str
    operations: list[Operation] = field(default_factory=list)
    hit: bool = False

    @property
    def last(self) -> str:
        """The last line it printed."""
        return (self.said.strip().splitlines() or [""])[-1]


def arguments(folder: Path, *more: str, settings: Sequence[str] = ()) -> list[str]:
    """Of the console command."""
    sets = [part for each in (*SETTINGS, *settings, f"run_folder={folder}") for part in ("--set", each)]
    return ["train", "--config", str(TINY), *sets, *more]


def warm() -> None:
    """Import what a run needs, before forking."""
    import peft  # noqa: F401
    import torch
    import torch.utils.tensorboard
    import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl  # noqa: F401

    import mmhicra.commands.train
    import mmhicra.rewards.verify
    import mmhicra.train.assembly
    import mmhicra.train.run  # noqa: F401

    torch.set_num_threads(1)
    os.environ.update(ENVIRONMENT)


def fork(command: Sequence[str], log: Path, watch: Watch | None = None) -> int:
    """Run the command in a forked child; returns its process id at once."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(written, 1)
        os.dup2(written, 2)
        # Under pytest these are files of its own, not the descriptors.
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(caught, signal.default_int_handler if caught == signal.SIGINT else signal.SIG_DFL)
        if watch is not None:
            watch.install()
        from mmhicra.cli import main

        code = main(list(command))
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:  # noqa: BLE001 - what escapes is a finding; the log has it
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start the console command in a session of its own."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "mmhicra", *command],
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,
        )


def session(
    command: Sequence[str],
    log: Path,
    *,
    at: float | None = None,
    by: int = signal.SIGKILL,
    forked: bool = True,
    watch: Watch | None = None,
) -> Ended:
    """Run one session to its end, or until a signal `by` at a moment `at` in seconds, or where `watch` says."""
    before = log.stat().st_size if log.exists() else 0
    child = fork(command, log, watch) if forked else start(command, log).pid
    began, hit, status = time.monotonic(), False, None
    while status is None:
        done, raw = os.waitpid(child, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(raw)
            break
        passed = time.monotonic() - began
        if at is not None and passed >= at and not hit:
            os.kill(child, by)
            hit = True
        if passed > LIMIT:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.004)
    said = log.read_bytes()[before:].decode("utf-8", "replace")
    operations = watch.recorded() if watch else []
    return Ended(status, said, operations, hit or (watch is not None and status == -signal.SIGKILL))


@dataclass(frozen=True)
class Watch:
    """Records the file operations in a folder, and dies at one of them.

    Attributes:
        folder: whose operations count.
        record: where they are written down, one JSON line each.
        place: of the operation to die at; None records them all.
        torn: die with the file just emptied, or a line half appended, not before.
        errno: fail with this error there instead of dying, and at every later write (a disk that is full or gone).
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
