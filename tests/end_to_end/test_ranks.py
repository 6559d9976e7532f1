"""Two processes, copied or sharded, train to the same weights as one."""

import json
import os
import subprocess
import sys

import pytest
import torch
from evaluate.made_questions import image_files, mathverse_row
from short_runs import SHORT, TINY, metrics, run, state_files

OPTIONS = (
    "train.steps=2",
    "eval.problems=5",
    "train.loss.kl_coefficient=0.01",
    "train.prompts_per_step=5",  # one rank has more groups than the other ...
    "data.max_prompt_tokens=100",
    "train.tokens_per_micro_batch=200",  # ... and so more micro-batches, of one group each
    "train.epochs=2",
)


def run_on_two(folder, *overrides):
    sets = [part for override in (*SHORT, f"run_folder={folder}", *OPTIONS, *overrides) for part in ("--set", override)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.run(
        [*launcher, "-m", "mmhicra", "train", "--config", str(TINY), *sets],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr[-3000:]


def rolled_out(folder):
    """Every response of the first step, whichever rank made it."""
    lines = (folder / "rollouts" / "step_000001.jsonl").read_text(encoding="utf-8").splitlines()
    return sorted((record["prompt"], record["completion"], record["response"]) for record in map(json.loads, lines))


def evaluated(folder):
    """The responses to the benchmark before the first step, in order."""
    lines = (folder / "evaluations" / "step_000000" / "mathverse.responses.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in lines.splitlines()]


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """Three short questions, so that one rank has two of them."""
    folder = tmp_path_factory.mktemp("questions")
    rows = [mathverse_row(n, str(path)) | {"query_wo": "How long?"} for n, path in enumerate(image_files(folder, 3))]
    (folder / "testmini.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"eval.benchmarks=[{{name: mathverse, source: '{folder}/testmini.jsonl', prompt: direct}}]"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, benchmark):
    folder = tmp_path_factory.mktemp("ranks") / "alone"
    run(folder, *OPTIONS, benchmark)
    return folder


@pytest.mark.parametrize("shard", ["false", "true"], ids=["copied", "sharded"])
def test_two_ranks_equal_one(alone, benchmark, tmp_path, shard):
    run_on_two(tmp_path / "two", f"model.shard={shard}", benchmark)
    assert evaluated(tmp_path / "two") == evaluated(alone)
    assert rolled_out(tmp_path / "two") == rolled_out(alone)
    one, two = state_files(alone, 2), state_files(tmp_path / "two", 2)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(
            two[name], one[name], atol=2e-6, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
    for mine, theirs in zip(metrics(alone), metrics(tmp_path / "two"), strict=True):
        assert mine.keys() == theirs.keys()
        assert mine.pop("grams", None) == theirs.pop("grams", None)
        assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-5)
