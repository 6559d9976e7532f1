"""One session of `mmhicra train` on a run folder, which can be stopped at a moment or at a file operation.

Sessions are forked from a process that has imported everything (two seconds each), or start the console command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults.spawner import ENVIRONMENT, fork
from faults.watch import Operation, Watch

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
LIMIT = 600.0
"""Seconds after which a session counts as hanging; the machine may be busy."""
NOTHING_THERE = "holds no run to resume"


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
    largest_file: int | None = None,
) -> Ended:
    """Run one session to its end, or until a signal `by` at a moment `at` in seconds, or where `watch` says.

    A forked one can be kept from writing files of more bytes than `largest_file`.
    """
    before = log.stat().st_size if log.exists() else 0
    child = fork(command, log, watch, largest_file=largest_file) if forked else start(command, log)
    began, hit = time.monotonic(), False
    while (status := child.poll()) is None:
        passed = time.monotonic() - began
        if at is not None and passed >= at and not hit:
            os.kill(child.pid, by)
            hit = True
        if passed > LIMIT:
            os.killpg(child.pid, signal.SIGKILL)
            while child.poll() is None:
                time.sleep(0.1)
            break
        time.sleep(0.004)
    said = log.read_bytes()[before:].decode("utf-8", "replace")
    operations = watch.recorded() if watch else []
    return Ended(status, said, operations, hit or (watch is not None and status == -signal.SIGKILL))
