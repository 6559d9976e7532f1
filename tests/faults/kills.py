"""Kill a run at random moments and at exact file operations, resume it, and compare it with an undisturbed one."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.compare import differences
from faults.sessions import NOTHING_THERE, Ended, arguments, session
from faults.watch import Operation, Watch

SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT, "HUP": signal.SIGHUP}
RESUMABLE = (0, 2, 130)
"""Statuses with which a session may end by itself after a signal: done, one line, stopped after saving."""


@dataclass(frozen=True)
class Reference:
    """An undisturbed run, how long it took, and its file operations."""

    folder: Path
    seconds: float
    operations: list[Operation]


@dataclass(frozen=True)
class Tried:
    """One disturbed run: what was done to it, and what is wrong with it afterwards (nothing, it is hoped)."""

    what: str
    faults: list[str]

    def line(self) -> str:
        """JSON for a log."""
        return json.dumps({"ok": not self.faults, "what": self.what, "faults": self.faults[:6]})


def make_reference(out: Path, settings: Sequence[str] = ()) -> Reference:
    """Run once undisturbed. Raises AssertionError if that fails."""
    folder, log = out / "reference", out / "reference.log"
    began = time.monotonic()
    watch = Watch(folder, out / "reference.operations")
    ended = session(arguments(folder, settings=settings), log, watch=watch)
    assert ended.status == 0, ended.said[-3000:]
    return Reference(folder, time.monotonic() - began, ended.operations)


def finish(folder: Path, log: Path, settings: Sequence[str] = ()) -> tuple[Ended, list[str]]:
    """Resume until the end, or start if nothing was there yet; the last session and what went wrong on the way."""
    ended = session(arguments(folder, "--resume", settings=settings), log)
    if ended.status == 2 and NOTHING_THERE in ended.last:
        ended = session(arguments(folder, settings=settings), log)
    if ended.status != 0:
        return ended, [f"the resumed session ended with {ended.status}: {ended.last[:400]}"]
    return ended, ["a traceback"] if "Traceback (most recent call last)" in ended.said else []


def judge(
    reference: Reference, folder: Path, log: Path, settings: Sequence[str] = (), saved: bool = False
) -> list[str]:
    """Finish a disturbed run and compare; its folder goes if all is well.

    A signal that lets the run save (`saved`) leaves a checkpoint of its own among the newest that are kept, so that an
    earlier one may be missing; the last must be there.
    """
    _, faults = finish(folder, log, settings)
    faults = faults or differences(reference.folder, folder)
    if saved:
        extra = re.compile(r"(missing|left over) checkpoints/step_(?!000006)\d+/")
        faults = [fault for fault in faults if not extra.match(fault)]
    if not faults:
        shutil.rmtree(folder)
    return faults


def kill_at_random(
    reference: Reference,
    out: Path,
    rng: random.Random,
    by: str = "KILL",
    forked: bool = True,
    settings: Sequence[str] = (),
) -> Tried:
    """One to three signals at random moments of as many sessions, then the rest in peace."""
    name = f"{by.lower()}_{rng.randrange(10**9)}"
    folder, log, moments, faults = out / name, out / f"{name}.log", [], []
    more: tuple[str, ...] = ()
    span = reference.seconds * (1.0 if forked else 1.5)
    for _ in range(rng.choice([1, 1, 2, 3])):
        at = rng.uniform(0.0, span)
        ended = session(arguments(folder, *more, settings=settings), log, at=at, by=SIGNALS[by], forked=forked)
        if ended.status == 2 and NOTHING_THERE in ended.last:
            more = ()
            continue
        moments.append(f"{at:.2f} s ({ended.status})")
        if ended.status is None or (ended.status > 0 and ended.status not in RESUMABLE):
            faults.append(f"ended with {ended.status}: {ended.last[:300]}")
        if ended.status == 0:
            break
        more = ("--resume",)
    faults += judge(reference, folder, log, settings, saved=by != "KILL")
    return Tried(f"SIG{by} at {', '.join(moments)}{'' if forked else ', console'}: {name}", faults)


@dataclass(frozen=True)
class Point:
    """A file operation to die at: of the first session or of a resumed one, before it or with the file torn."""

    resumed: bool
    place: int
    operation: Operation
    torn: bool


class Points:
    """Every file operation of a first and of a resumed session."""

    def __init__(self, reference: Reference, out: Path, settings: Sequence[str] = ()) -> None:
        self.reference, self.out, self.settings = reference, out, settings
        self.base = out / "half"
        middle = next(n for n, each in enumerate(reference.operations) if "step_000005" in each.path)
        self.die(self.base, middle, False, False, out / "half.log")
        again = self.copy(out / "half_again")
        watch = Watch(again, out / "resumed.operations")
        ended = session(arguments(again, "--resume", settings=settings), out / "half_again.log", watch=watch)
        assert ended.status == 0, ended.said[-3000:]
        self.resumed_operations = ended.operations
        assert not differences(reference.folder, again), differences(reference.folder, again)
        shutil.rmtree(again)

    def all(self) -> list[Point]:
        """First and resumed, whole and torn."""
        found = []
        for resumed, operations in ((False, self.reference.operations), (True, self.resumed_operations)):
            for place, operation in enumerate(operations):
                torn = [False, True] if operation.event == "open" else [False]
                found += [Point(resumed, place, operation, each) for each in torn]
        return found

    def choose(self, count: int, rng: random.Random) -> list[Point]:
        """One of each kind of operation first, in random order, then any others."""
        points = self.all()
        rng.shuffle(points)
        kinds: dict[tuple[object, ...], Point] = {}
        for point in points:
            name = re.sub(r"\d+", "#", point.operation.path)
            kinds.setdefault((point.resumed, point.operation.event, name, point.torn), point)
        first = list(kinds.values())
        return [*first, *(point for point in points if point not in first)][:count]

    def try_point(self, point: Point) -> Tried:
        """Die there, resume, compare."""
        name = f"{'resumed' if point.resumed else 'first'}_{point.place}{'_torn' if point.torn else ''}"
        folder, log = self.out / name, self.out / f"{name}.log"
        if point.resumed:
            self.copy(folder)
        ended = self.die(folder, point.place, point.torn, point.resumed, log)
        what = f"{name}: {point.operation.event} {point.operation.path}"
        faults = [] if ended.status == -signal.SIGKILL else [f"did not reach the operation: {ended.status}"]
        return Tried(what, faults or judge(self.reference, folder, log, self.settings))

    def die(self, folder: Path, place: int, torn: bool, resumed: bool, log: Path) -> Ended:
        """A session that dies at an operation."""
        watch = Watch(folder, log.with_suffix(".operations"), place, torn)
        more = ("--resume",) if resumed else ()
        return session(arguments(folder, *more, settings=self.settings), log, watch=watch)

    def copy(self, folder: Path) -> Path:
        """The half run under another name: its configuration then names the new folder, as a moved run's must."""
        shutil.copytree(self.base, folder)
        config = folder / "config.yaml"
        config.write_text(config.read_text().replace(str(self.base), str(folder)))
        return folder
