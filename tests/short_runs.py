"""Short real runs of the tiny VLM: the smallest configuration with which every part of a step has work to do."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from faults.spawner import fork

from mmhicra.config.loading import load_config
from mmhicra.core.tensor_parts import whole_tensors
from mmhicra.train.loop.run import train
from mmhicra.train.loop.terminal import Terminal

REPOSITORY = Path(__file__).parents[1]
TINY = REPOSITORY / "configs" / "tiny.yaml"
SHORT = [
    "train.steps=3",
    "train.prompts_per_step=4",
    "train.optimizer.warmup_steps=0",
    "rollout.n=4",
    "data.count=64",
    "eval.problems=6",
    "log.tensorboard=false",
    "log.checkpoint_every=1",
    "log.keep_checkpoints=9",
    "threads=1",
]
SHORT_LAB = [
    *("--config", str(REPOSITORY / "configs/lab.yaml"), "--methods", "grpo", "--seeds", "2", "--workers", "2"),
    *("--set", "train.steps=5", "--set", "train.prompts_per_step=4", "--set", "rollout.n=4"),
    *("--set", "data.count=64", "--set", "eval.problems=6", "--set", "train.optimizer.warmup_steps=0"),
]
STRONG = ["--variant", "strong=credit.method=hicra;hicra.alpha=0.9"]
VOLATILE = ("time/", "memory/", "speed/")
"""Metrics that no two runs share."""


def short_config(folder, *overrides):
    return load_config(TINY, [*SHORT, f"run_folder={folder}", *overrides])


def run(folder, *overrides, **options):
    """Train in this process; returns the summary."""
    return train(short_config(folder, *overrides), terminal=Terminal(quiet=True), **options)


def metrics(folder):
    """The metrics of a run, without what no two runs share."""
    lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(VOLATILE)} for line in lines]


def state_files(folder, step):
    """The weights and optimizer state of a checkpoint, as tensors by name."""
    state = Path(folder) / "checkpoints" / f"step_{step:06d}" / "trainer_state"
    values = json.loads((state / "optimizer.json").read_text())["values"]
    steps = {f"step.{name}": torch.tensor(parts["step"]["value"]) for name, parts in values.items()}
    return {**whole_tensors(state / "trainable"), **whole_tensors(state / "optimizer"), **steps}


def assert_same_run(left, right, step):
    """Weights, optimizer state, metrics and the learning-rate schedule agree to the bit."""
    a, b = state_files(left, step), state_files(right, step)
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different
    assert metrics(left) == metrics(right)
    schedules = [
        json.loads((Path(folder) / f"checkpoints/step_{step:06d}/trainer_state/state.json").read_text())["schedule"]
        for folder in (left, right)
    ]
    assert schedules[0] == schedules[1]


def start(folder, overrides, forked=True):
    """Train in a process of its own; returns it. What it prints goes to `printed(folder)`.

    Args:
        folder: of the run.
        overrides: of the configuration.
        forked: from a process that has imported everything, or as a new one with the console command.
    """
    sets = [part for override in (*SHORT, f"run_folder={folder}", *overrides) for part in ("--set", override)]
    command, output = ["train", "--config", str(TINY), *sets], printed(folder)
    if forked:
        return fork(command, output)
    with output.open("ab") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "mmhicra", *command], stdout=file, stderr=subprocess.STDOUT, env=environment
        )


def printed(folder):
    """The file that has what the process of `start` printed."""
    return Path(f"{folder}.output")


def wait_for(path, process, seconds=400):
    """Until `path` is there, which the process writes."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, f"it ended with {process.poll()}"
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)


def run_on_two(folder, *overrides, script=None, ranks=2, resume=False, **environment):
    """Train in two processes, or more; returns the launcher's status and what went to standard error."""
    sets = [part for override in (*SHORT, f"run_folder={folder}", *overrides) for part in ("--set", override)]
    errors = Path(f"{folder}.errors")
    command = ["train", "--config", str(TINY), *sets, *(["--resume"] if resume else [])]
    process = fork(command, printed(folder), errors=errors, script=script, ranks=ranks, **environment)
    return process.wait(), errors.read_text(encoding="utf-8", errors="replace")
