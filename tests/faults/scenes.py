"""Single disasters: one rank of two, both reward workers, a disk that is full during a checkpoint."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from faults.compare import differences
from faults.kills import Reference, Tried, finish, make_reference
from faults.sessions import LIMIT, Ended, arguments, session
from faults.soak import write_problems
from faults.spawner import ENVIRONMENT, fork
from faults.watch import Watch

MEGABYTE = 2**20
TWO_RANKS = ("train.prompts_per_step=2", "eval.problems=2")


def kill_one_rank(out: Path, rng: random.Random) -> list[Tried]:
    """kill -9 of rank 1 in the middle; resumed with two ranks it is equal to the bit, with one to rounding."""
    whole = out / "two_whole"
    status, said = on_two(arguments(whole), out / "two_whole.log")
    assert status == 0, said[-3000:]
    folder, log = out / "two_killed", out / "two_killed.log"
    until = rng.randint(2, 4)
    status, said = on_two(arguments(folder), log, until)
    faults = ["the launcher ended with 0 although a rank was killed"] if status == 0 else []
    copy = out / "one_resumed"
    shutil.copytree(folder, copy)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace(str(folder), str(copy)))
    status, said = on_two(arguments(folder, "--resume"), log)
    faults += [] if status == 0 else [f"resumed with two: {status}: {said[-300:]}"]
    faults += faults or differences(whole, folder)
    tried = [Tried(f"rank 1 of 2 killed after step {until}, resumed with two", faults)]
    _, faults = finish(copy, out / "one_resumed.log")
    faults = faults or differences(whole, copy, rounding=True)
    return [*tried, Tried(f"rank 1 of 2 killed after step {until}, resumed with one", faults)]


def on_two(command: Sequence[str], log: Path, kill_after: int | None = None) -> tuple[int, str]:
    """Two ranks of torchrun; rank 1 is killed once `kill_after` steps stand in the metrics."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mmhicra"]
    folder = Path(next(part for part in command if part.startswith("run_folder=")).removeprefix("run_folder="))
    environment = {**os.environ, **ENVIRONMENT}
    with log.open("ab") as file:
        process = subprocess.Popen([*launcher, *command], stdout=file, stderr=file, env=environment)
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < LIMIT:
        if kill_after is not None and lines(folder / "metrics.jsonl") > kill_after:
            rank = next(
                (each for each in psutil.Process(process.pid).children() if each.environ().get("RANK") == "1"), None
            )
            if rank is not None:
                rank.kill()
                kill_after = None
        time.sleep(0.01)
    if process.poll() is None:
        process.kill()
        process.wait()
        return -1, "a hang: the launcher did not end"
    return process.returncode, log.read_text(errors="replace")


def lines(path: Path) -> int:
    """Whole lines of a file that may not be there yet."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def algebra(out: Path) -> tuple[str, ...]:
    """Settings of a run in which every verdict takes a worker."""
    source = write_problems(out / "algebra", 16, every=1)
    return (f"data.source={source}", "eval.problems=0", "data.max_refused_share=0.5", "reward.workers=2")


def kill_workers(out: Path, rng: random.Random, times: int = 3) -> list[Tried]:
    """kill -9 of both reward workers while they judge or start: no verdict changes."""
    settings = algebra(out)
    reference = make_reference(out / "algebra_run", settings) if (out / "algebra_run").mkdir() is None else None
    assert reference is not None
    folder, log = out / "workers_killed", out / "workers_killed.log"
    child = fork(arguments(folder, settings=settings), log)
    process, killed, began = psutil.Process(child.pid), 0, time.monotonic()
    while (status := child.poll()) is None:
        workers = process.children() if killed < times else []
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
        killed += bool(workers)
        time.sleep(rng.uniform(0.0, 2.0) if workers else 0.02)
        if time.monotonic() - began > LIMIT:
            process.kill()
    said = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
    faults = [] if status == 0 else [f"ended with {status}: {said[:400]}"]
    faults += [] if killed == times else [f"workers could be killed {killed} times only"]
    return [
        Tried(
            f"reward workers killed {killed} times",
            faults or without_counts(differences(reference.folder, folder), folder),
        )
    ]


def without_counts(found: list[str], folder: Path) -> list[str]:
    """Differences, but for those of metrics and summary: there, killed workers are counted, as they must be."""
    counted = "worker" in (folder / "metrics.jsonl").read_text()
    allowed = ("metrics.jsonl", "summary.json", "tensorboard", "state.json") if counted else ()
    return [each for each in found if not any(name in each for name in allowed)]


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """A tmpfs on a folder; False where none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def enlarge(folder: Path, megabytes: int) -> None:
    """Make room on a mounted tmpfs."""
    subprocess.run(["mount", "-o", f"remount,size={megabytes}m", str(folder)], check=True)


def fill_disk(reference: Reference, out: Path, rng: random.Random) -> list[Tried]:
    """A disk that is full during a checkpoint: one line and status 2; killed there; then room, and equal to the bit.

    Where none can be mounted, files are limited instead.
    """
    need = sum(path.stat().st_size for path in (reference.folder / "checkpoints" / "step_000006").rglob("*")) / MEGABYTE
    tried = []
    for share, killed in (
        (rng.uniform(0.1, 0.5), False),
        (rng.uniform(0.5, 0.95), False),
        (rng.uniform(0.1, 0.9), True),
    ):
        size = int(need * (2 + share)) + 2  # the first two fit, the third does not
        disk = out / f"disk_{size}_{killed}"
        with small_disk(disk, size) as mounted:
            if not mounted:
                return [*tried, *limit_files(reference, out, rng)]
            folder, log = disk / "run", out / f"{disk.name}.log"
            what = f"{size} MB disk{', killed in the checkpoint' if killed else ''}"
            ended = first_on_small_disk(folder, log, reference, rng if killed else None)
            faults = bad_ending(ended, killed)
            enlarge(disk, 4 * size)
            _, more = finish(folder, log)
            faults += more or differences(reference.folder, folder)
            tried.append(Tried(what, faults))
    return tried


def first_on_small_disk(folder: Path, log: Path, reference: Reference, rng: random.Random | None) -> Ended:
    """The session that meets the full disk; with `rng` it dies at one of the checkpoint's operations."""
    if rng is None:
        return session(arguments(folder), log)
    inside = [
        n for n, each in enumerate(reference.operations) if "step_000006" in each.path and "checkpoints" in each.path
    ]
    watch = Watch(folder, log.with_suffix(".operations"), rng.choice(inside))
    return session(arguments(folder), log, watch=watch)


def bad_ending(ended: Ended, killed: bool) -> list[str]:
    """What is wrong with how a session on a full disk ended."""
    if ended.status == 2 and ended.last.startswith("mmhicra: ") and "Traceback" not in ended.said:
        return []
    if killed and ended.status == -signal.SIGKILL:
        return []
    return [f"a full disk ends with {ended.status}: {ended.last[:300]}"]


def limit_files(reference: Reference, out: Path, rng: random.Random) -> list[Tried]:
    """No file may exceed a size: as a full disk, for whom no disk can be mounted."""
    checkpoint = reference.folder / "checkpoints" / "step_000006"
    sizes = sorted({path.stat().st_size for path in checkpoint.rglob("*") if path.stat().st_size > 100_000})
    tried = []
    for size in (int(sizes[-1] * rng.uniform(0.2, 0.95)), int(sizes[0] * rng.uniform(0.5, 0.95))):
        folder, log = out / f"limited_{size}", out / f"limited_{size}.log"
        ended = session(arguments(folder), log, largest_file=size)
        faults = bad_ending(ended, False)
        _, more = finish(folder, log)
        faults += more or differences(reference.folder, folder)
        tried.append(Tried(f"files of at most {size} bytes", faults))
    return tried
