"""A long run, watched from outside: memory, descriptors, threads, processes and disk, step by step.

What must not grow is compared between two stretches of the run: from a fifth to two fifths of its steps, and its last
fifth. Growth above the bounds below fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

import psutil

MEGABYTE = 2**20
SETTINGS = [
    "train.prompts_per_step=4",
    "rollout.n=4",
    "rollout.max_new_tokens=32",
    "data.max_refused_share=0.5",
    "eval.problems=8",
    "eval.every=50",
    "log.checkpoint_every=25",
    "log.keep_checkpoints=2",
    "threads=1",
]
ENGINES = {
    "embedded": ["rollout.engine=hf"],
    "vllm": ["rollout.engine=vllm", "rollout.vllm.kv_cache_gib=0.25"],
}
GROWTH = {"memory": 48.0, "worker_memory": 32.0, "descriptors": 2.0, "threads": 2.0, "processes": 0.0}
"""How much more the last fifth may hold than the second: megabytes for memory, else pieces."""
CHECKPOINTS = 4
"""At most, at any time: the two newest, the best, and one that is being written."""
DISK_A_STEP = 0.25
"""Megabytes that a step may leave behind (rollouts, metrics, TensorBoard) beside the checkpoints kept."""


@dataclass(frozen=True)
class Sample:
    """What the operating system says at one moment; sizes in megabytes."""

    seconds: float
    step: int
    memory: float
    worker_memory: float
    descriptors: float
    threads: float
    processes: float
    disk: float
    checkpoints: float


def soak(out: Path, steps: int, engine: str, every: float = 2.0) -> list[str]:
    """Run, watch, and write `soak.jsonl`, `soak.md` and `soak.png` into `out`; returns what grew too much."""
    out.mkdir(parents=True, exist_ok=True)
    folder = out / "run"
    command = [sys.executable, "-m", "mmhicra", "train", "--config", str(tiny()), "--overwrite"]
    own = [f"train.steps={steps}", f"run_folder={folder}", f"data.source={write_problems(out / 'problems', 256)}"]
    for setting in [*SETTINGS, *ENGINES[engine], *own]:
        command += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    samples: list[Sample] = []
    with (out / "run.log").open("w") as log, (out / "soak.jsonl").open("w") as record:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        started, watched = time.monotonic(), psutil.Process(process.pid)
        while process.poll() is None:
            sample = observe(watched, folder, time.monotonic() - started)
            if sample and sample.step:
                samples.append(sample)
                record.write(json.dumps(asdict(sample)) + "\n")
                record.flush()
            time.sleep(every)
    if process.returncode:
        last = (out / "run.log").read_text().strip().splitlines()[-1:]
        return [f"the run ended with status {process.returncode}: {last}"]
    (out / "soak.md").write_text(table(samples, steps))
    draw(samples, out / "soak.png")
    newest = max(path for path in (folder / "checkpoints").glob("step_*") if path.is_dir())
    return grown(samples, steps, size(newest))


def write_problems(folder: Path, count: int, every: int = 4) -> Path:
    """Problems of visual maths as a file; some have golds that only algebra, so a worker, can compare with."""
    from mmhicra.data.generated.visual_math import generate

    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, problem in enumerate(generate("train", count, 0)):
        problem.images[0].open().save(folder / "images" / f"{number}.png")
        answer = f"x^2 + {number + 2}x" if number % every == 0 else problem.answer
        question = problem.question if "<image>" in problem.question else f"<image>{problem.question}"
        rows.append({"id": str(number), "images": [f"images/{number}.png"], "problem": question, "answer": answer})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "train.jsonl"


def tiny() -> Path:
    """The configuration that the soak is a small form of."""
    return Path(__file__).parents[2] / "configs" / "tiny.yaml"


def observe(process: psutil.Process, folder: Path, seconds: float) -> Sample | None:
    """One sample of a running process, its children and its run folder; None when it has just ended."""
    try:
        children = process.children(recursive=True)
        memory = process.memory_info().rss / MEGABYTE
        worker_memory = sum(resident(child) for child in children) / MEGABYTE
        descriptors, threads = process.num_fds(), process.num_threads()
    except psutil.NoSuchProcess:
        return None
    metrics = folder / "metrics.jsonl"
    step = metrics.read_bytes().count(b"\n") - 1 if metrics.exists() else 0
    checkpoints = size(folder / "checkpoints")
    return Sample(
        seconds,
        max(step, 0),
        memory,
        worker_memory,
        descriptors,
        threads,
        len(children),
        size(folder) - checkpoints,
        checkpoints,
    )


def resident(process: psutil.Process) -> int:
    """Bytes of a process; 0 when it has just ended."""
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def size(folder: Path) -> float:
    """Megabytes of the files in a folder; those that vanish meanwhile count nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue
    return total / MEGABYTE


def stretch(samples: list[Sample], steps: int, start: float, end: float) -> list[Sample]:
    """The samples from one share of the steps to another."""
    return [sample for sample in samples if start * steps <= sample.step <= end * steps]


def grown(samples: list[Sample], steps: int, checkpoint: float) -> list[str]:
    """What the last fifth holds more than the second by more than its bound; `checkpoint` is the size of one, in MB."""
    early, late = stretch(samples, steps, 0.2, 0.4), stretch(samples, steps, 0.8, 1.0)
    if len(early) < 3 or len(late) < 3:
        return [f"too few samples to compare ({len(early)} and {len(late)}): watch more often"]
    complaints = []
    for name, bound in GROWTH.items():
        before, after = (median(getattr(sample, name) for sample in part) for part in (early, late))
        if after - before > bound:
            complaints.append(f"{name} grew from {before:.1f} to {after:.1f}, more than {bound:g}")
    each = (late[-1].disk - early[0].disk) / max(late[-1].step - early[0].step, 1)
    if each > DISK_A_STEP:
        complaints.append(f"a step leaves {each:.3f} MB on the disk, more than {DISK_A_STEP}")
    largest = max(sample.checkpoints for sample in samples)
    if largest > CHECKPOINTS * checkpoint + 1:
        complaints.append(f"checkpoints take up to {largest:.1f} MB, more than {CHECKPOINTS} of {checkpoint:.1f}")
    return complaints


def table(samples: list[Sample], steps: int, rows: int = 10) -> str:
    """The samples nearest to tenths of the run, as Markdown."""
    names = [field.name for field in fields(Sample)]
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|" + "---:|" * len(names)]
    for tenth in range(1, rows + 1):
        nearest = min(samples, key=lambda sample: abs(sample.step - tenth * steps / rows))
        lines.append("| " + " | ".join(f"{getattr(nearest, name):.0f}" for name in names) + " |")
    return "\n".join(lines) + "\n"


def draw(samples: list[Sample], path: Path) -> None:
    """Five small pictures over the steps."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 5, figsize=(18, 3.2))
    steps = [sample.step for sample in samples]
    panels = (("memory", "worker_memory"), ("descriptors",), ("threads",), ("processes",), ("disk", "checkpoints"))
    for axis, names in zip(axes, panels, strict=True):
        for name in names:
            axis.plot(steps, [getattr(sample, name) for sample in samples], label=name.replace("_", " "))
        axis.set_ylim(bottom=0)
        axis.set_xlabel("step")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
