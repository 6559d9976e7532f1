"""The lab's runs: one training process for each method and seed, a few at a time, resumed where they stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmhicra.config import RunConfig
from mmhicra.config.loading import dump_config, load_config, read_yaml
from mmhicra.core.errors import UserError
from mmhicra.core.files import write_whole
from mmhicra.core.run_folder import RunFolder

POLL_SECONDS = 1.0
LOG = "output.txt"

Progress = Callable[[int, int, str], None]
"""A function that is told (steps done, steps in all, what runs) while the runs work."""


class LabError(UserError):
    """The lab cannot go on as asked."""


@dataclass(frozen=True)
class LabRun:
    """One method with one seed.

    Attributes:
        folder: of the run; what the process prints goes to `output.txt` in it.
        config: where its configuration is written for the process.
    """

    method: str
    seed: int
    steps: int
    folder: RunFolder
    config: Path

    @property
    def name(self) -> str:
        """The name for people, e.g. `hicra, seed 3`."""
        return f"{self.method}, seed {self.seed}"

    def finished(self) -> bool:
        """Whether its summary is written: nothing is left to do."""
        return self.folder.summary.is_file()

    def steps_done(self) -> int:
        """How many steps its metrics tell of."""
        if not self.folder.metrics.is_file():
            return 0
        lines = self.folder.metrics.read_bytes().splitlines()
        return sum(1 for line in lines if line.endswith(b"}") and b'"time/step"' in line)


def plan_runs(
    config: str, overrides: Sequence[str], methods: Mapping[str, Sequence[str]], seeds: Sequence[int], out: Path
) -> list[LabRun]:
    """Every run of the lab, seeds first: after each seed, all methods can be compared.

    Raises:
        ConfigError: a configuration is refused.
        LabError: the folder holds a run of the same name with another configuration.
    """
    runs = []
    for seed in seeds:
        for method, settings in methods.items():
            folder = RunFolder(str(out / "runs" / method / f"seed_{seed}"))
            own = [*overrides, *settings, f"seed={seed}", f"run_folder={folder.path}"]
            checked = load_config(config, own)
            written = out / "configs" / method / f"seed_{seed}.yaml"
            run = LabRun(method, seed, checked.train.steps, folder, written)
            _refuse_other(run, checked)
            written.parent.mkdir(parents=True, exist_ok=True)
            write_whole(written, dump_config(checked))
            runs.append(run)
    return runs


def run_all(runs: Sequence[LabRun], workers: int, progress: Progress, on_end: Callable[[LabRun, int], None]) -> None:
    """Bring every run to its end, `workers` processes at a time, each with the threads its configuration says.

    `on_end` is told every run that ends, and how many have ended by then.

    Raises:
        LabError: a run failed; the others that were under way are stopped, and go on from where they are next time.
    """
    default = signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the runs would outlive the lab
    waiting = [run for run in runs if not run.finished()]
    working: dict[LabRun, subprocess.Popen[bytes]] = {}
    total = sum(run.steps for run in runs)
    try:
        while waiting or working:
            while waiting and len(working) < workers:
                run = waiting.pop(0)
                working[run] = _start(run)
            for run, process in list(working.items()):
                if process.poll() is not None:
                    del working[run]
                    if process.returncode:
                        raise LabError(f"{run.name} failed ({process.returncode}): see {run.folder.path / LOG}")
                    on_end(run, len(runs) - len(waiting) - len(working))
            ended = sum(run.steps for run in runs if run not in waiting and run not in working)
            progress(ended + sum(run.steps_done() for run in working), total, "; ".join(run.name for run in working))
            time.sleep(POLL_SECONDS)
    finally:
        for process in working.values():
            process.terminate()  # a run saves a checkpoint before it ends
        for process in working.values():
            process.wait()
        signal.signal(signal.SIGTERM, default)


def _start(run: LabRun) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mmhicra", "train", "--config", str(run.config), "--resume", "auto"]
    threads = str(read_yaml(run.config).get("threads") or "")
    environment = {**os.environ, **({"OMP_NUM_THREADS": threads} if threads else {})}
    run.folder.path.mkdir(parents=True, exist_ok=True)
    with (run.folder.path / LOG).open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def _refuse_other(run: LabRun, config: RunConfig) -> None:
    if run.folder.holds_run() and read_yaml(run.folder.config) != config.model_dump():
        raise LabError(
            f"{run.folder.path} holds a run with another configuration: give another --out, or remove that folder"
        )
