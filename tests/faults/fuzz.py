"""Seeded fuzzing: every input is fine, or refused with one line. All else is a fault, and its input is kept.

A target makes the files of a case from a random generator and tries them in this process. Cases run in a forked child
that tells its parent what came of each; the parent sees hangs and crashes, and forks the next child behind them.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from mmhicra.core.errors import UserError

HANG = 10.0
"""Processor seconds that one input may take; by the clock twelve times as many, for busy machines."""
LONGEST_REFUSAL = 4000
MOST_LINES = 25
"""Of a refusal: a configuration gets a line for each of its faults."""
ADDRESS_SPACE = 24 * 2**30
GOOD = ("fine", "refused")


class Nonsense(Exception):
    """An input was accepted that should not have been, or what came of it is wrong."""


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
        name: of the kind.
        write: makes the files of one case in an empty folder.
        attempt: feeds them to mmhicra. Raises UserError for a refused input and Nonsense for a wrong acceptance.
        warm: loads what all cases share, before the first fork.
    """

    name: str
    write: Callable[[random.Random, Path], None]
    attempt: Callable[[Path], None]
    warm: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Verdict:
    """What came of one case; `outcome` is fine, refused, nonsense, traceback, hang or died."""

    case: int
    outcome: str
    detail: str = ""
    seconds: float = 0.0


@dataclass
class Report:
    """The verdicts on one target."""

    target: str
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[Verdict] = field(default_factory=list)
    slowest: Verdict | None = None

    def add(self, verdict: Verdict) -> None:
        """Count one verdict."""
        self.outcomes[verdict.outcome] += 1
        if verdict.outcome not in GOOD:
            self.faults.append(verdict)
        if self.slowest is None or verdict.seconds > self.slowest.seconds:
            self.slowest = verdict

    def line(self) -> str:
        """For a person."""
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        slowest = f"; slowest {self.slowest.seconds:.1f} s" if self.slowest else ""
        return f"{self.target}: {self.outcomes.total()} inputs: {counts}{slowest}"


def fuzz(target: Target, count: int, seed: int, out: Path, first: int = 0) -> Report:
    """Try `count` cases of a target; the input of each fault is kept in `out`, with what was said."""
    target.warm()
    report, following = Report(target.name), first
    scratch = out / f"scratch_{target.name}_{os.getpid()}"
    while following < first + count:
        for verdict in _batch(target, range(following, first + count), seed, scratch):
            report.add(verdict)
            following = verdict.case + 1
            if verdict.outcome not in GOOD:
                keep(target, verdict, seed, scratch / str(verdict.case), out)
            shutil.rmtree(scratch / str(verdict.case), ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)
    return report


def keep(target: Target, verdict: Verdict, seed: int, case: Path, out: Path) -> Path:
    """Copy the input of a fault beside its verdict; `python -m faults fuzz --replay FOLDER` tries it again."""
    kept = out / f"{target.name}_{seed}_{verdict.case}"
    shutil.rmtree(kept, ignore_errors=True)
    if case.exists():
        shutil.copytree(case, kept / "input", symlinks=True)
    kept.mkdir(parents=True, exist_ok=True)
    facts = {"target": target.name, "seed": seed, **asdict(verdict)}
    (kept / "verdict.json").write_text(json.dumps(facts, indent=1) + "\n")
    return kept


def replay(target: Target, kept: Path, scratch: Path) -> Verdict:
    """Try a kept input again, as it is."""

    def restore(rng: random.Random, folder: Path) -> None:
        shutil.copytree(kept / "input", folder, symlinks=True, dirs_exist_ok=True)

    again = Target(target.name, restore, target.attempt, target.warm)
    target.warm()
    (verdict,) = _batch(again, range(1), 0, scratch)
    shutil.rmtree(scratch, ignore_errors=True)
    return verdict


def _batch(target: Target, cases: range, seed: int, scratch: Path) -> Iterator[Verdict]:
    """The verdicts of one child, up to the first that ended it."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work(target, cases, seed, scratch, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        yield from _listen(target, cases, child, pipe.fileno())


def _listen(target: Target, cases: range, child: int, pipe: int) -> Iterator[Verdict]:
    process, pending = psutil.Process(child), b""
    waiting = iter(cases)
    case, began, spent = next(waiting), time.monotonic(), 0.0
    while True:
        ready, _, _ = select.select([pipe], [], [], 0.5)
        if ready and not (part := os.read(pipe, 65536)):
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            yield Verdict(case, "died", f"the process ended with status {status}", time.monotonic() - began)
            return
        pending += part if ready else b""
        while b"\n" in pending:
            line, pending = pending.split(b"\n", 1)
            verdict = Verdict(**json.loads(line))
            yield verdict
            following = next(waiting, None)
            if following is None:
                os.waitpid(child, 0)
                return
            case, began, spent = following, time.monotonic(), processor_seconds(process)
        if processor_seconds(process) - spent > HANG or time.monotonic() - began > 12 * HANG:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            yield Verdict(case, "hang", f"more than {HANG:g} s", time.monotonic() - began)
            return


def processor_seconds(process: psutil.Process) -> float:
    """Of a process alone; a child that has ended has used none."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def _work(target: Target, cases: range, seed: int, scratch: Path, pipe: int) -> None:
    """The child: never returns."""
    code = 0
    try:
        faulthandler.disable()  # a crash is reported by the parent, without pages of modules
        _quieten()
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        for case in cases:
            folder = scratch / str(case)
            folder.mkdir(parents=True)
            target.write(random.Random(f"{target.name}/{seed}/{case}"), folder)
            spent = time.process_time()
            outcome, detail = judge(target, folder)
            verdict = Verdict(case, outcome, detail[-4000:], time.process_time() - spent)
            os.write(pipe, (json.dumps(asdict(verdict)) + "\n").encode())
    except BaseException:  # noqa: BLE001 - a fault of the harness itself must be seen, too
        os.write(pipe, (json.dumps(asdict(Verdict(case, "harness", traceback.format_exc()))) + "\n").encode())
        code = 70
    finally:
        os._exit(code)


def _quieten() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def judge(target: Target, folder: Path) -> tuple[str, str]:
    """Try one case: its outcome and what was said."""
    try:
        with untouched_working_folder(folder):
            target.attempt(folder)
    except UserError as refusal:
        return judge_refusal(str(refusal))
    except Nonsense as nonsense:
        return "nonsense", str(nonsense)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - whatever else escapes is what we look for
        return "traceback", traceback.format_exc()
    return "fine", ""


@contextmanager
def untouched_working_folder(folder: Path) -> Iterator[None]:
    """Be in the case's folder, so that nothing is written elsewhere by a relative path."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def judge_refusal(said: str) -> tuple[str, str]:
    """A refusal is a short line, or one for each fault of a configuration."""
    lines = said.split("\n")
    if len(said) > LONGEST_REFUSAL or len(lines) > MOST_LINES:
        return "nonsense", f"a refusal of {len(lines)} lines and {len(said)} characters: {said[:300]}"
    if not said.strip() or any(not line.strip() for line in lines):
        return "nonsense", f"a refusal with an empty line: {said!r}"
    if len(lines) > 1 and not all(line.startswith("configuration: ") for line in lines):
        return "nonsense", f"a refusal of {len(lines)} lines: {said!r}"
    return "refused", said


def command(arguments: list[str]) -> tuple[int, str]:
    """Run a console command in this process; its exit status and what it wrote to standard error.

    Raises:
        UserError: it ended with status 2 and one line.
        Nonsense: it ended otherwise than with 0, or 2 and one line.
    """
    import contextlib
    import io

    from mmhicra.cli import main

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = main(arguments)
    said = errors.getvalue()
    refusals = [line for line in said.splitlines() if line.startswith("mmhicra: ")]
    if status == 2 and refusals:
        start = said.index(refusals[0])
        raise UserError(said[start:].removeprefix("mmhicra: ").rstrip("\n"))
    if status != 0:
        raise Nonsense(f"exit status {status}, {said[-1000:]!r}")
    return status, said


def scalars(tree: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Every leaf of a tree of mappings and lists, with its dotted name."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from scalars(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, list | tuple):
        for place, value in enumerate(tree):
            yield from scalars(value, f"{name}.{place}")
    else:
        yield name, tree
