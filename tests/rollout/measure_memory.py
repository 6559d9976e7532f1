"""Memory of a run with vLLM, step by step: `python tests/rollout/measure_memory.py [steps] [--set ...]`. No test."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from short_runs import TINY

from mmhicra.config.loading import load_config
from mmhicra.train.loop.run import Run, train
from mmhicra.train.loop.terminal import Terminal

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 200
MEBIBYTE = 2**20


def main() -> None:
    held: list[float] = []
    take_step = Run.take_step

    def measured(self: Run) -> None:
        take_step(self)
        held.append(psutil.Process().memory_info().rss / MEBIBYTE)

    Run.take_step = measured
    options = ["rollout.engine=vllm", f"train.steps={STEPS}", "train.prompts_per_step=6", "rollout.n=4", "threads=1"]
    options += ["eval.problems=0", "log.tensorboard=false", "log.checkpoint_every=0", *sys.argv[2:]]
    with tempfile.TemporaryDirectory() as folder:
        train(load_config(TINY, [*options, f"run_folder={folder}/run"]), terminal=Terminal(quiet=True))
    for step in (1, 2, 5, 10, 20, 50, 100, 150, 200, 500):
        if step <= len(held):
            print(f"step {step:4}: {held[step - 1]:8.1f} MiB resident", flush=True)
    after = held[19:]
    print(f"most after step 20: {max(after):.1f} MiB, {max(after) / held[19] - 1:+.2%} of what step 20 held")


if __name__ == "__main__":
    main()
