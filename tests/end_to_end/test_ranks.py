"""Several processes train to the same weights as one, and skip the same updates.

Each has a copy of the model or a shard, and rows of its own or a part of a row.
"""

import json
import os
import subprocess
import sys

import pytest
import short_runs
import spoiling
import torch
from made_questions import image_files, mathverse_row
from rollout_lines import read_rollouts
from safetensors.torch import load_file
from short_runs import SHORT, TINY, metrics, run, state_files

from mmhicra.core.run_folder import RunFolder

pytestmark = pytest.mark.slow

OPTIONS = (
    "train.steps=2",
    "eval.problems=5",
    "train.loss.kl_coefficient=0.01",
    "train.prompts_per_step=5",  # one rank has more groups than the other ...
    "data.max_prompt_tokens=100",
    "train.tokens_per_micro_batch=200",  # ... and so more micro-batches, of one group each
    "train.epochs=2",
)


REFILLED = (
    *("train.dynamic_sampling.max_rounds=6", "train.minibatches=2", "train.prompts_per_step=6"),
    *("data.count=20", "data.curriculum={visits: 1}"),  # step 2 runs over into the second epoch
    "train.loss={siren: {coefficient: 1.0}, aggregation: sequence_mean}",
    *(
        "hicra.adaptive={signal: mass, target: 0.5, rate: 0.1}",
        "train.mask_truncated=true",
        "rollout.max_new_tokens=32",
    ),
)
"""Steps are filled up, over the end of an epoch, and each has two optimizer steps a pass; what the loss and alpha go by
is of all ranks."""


def run_on_two(folder, *overrides, script=None, **environment):
    """Returns the status and stderr of the launcher."""
    return short_runs.run_on_two(folder, *OPTIONS, *overrides, script=script, **environment)


def torchrun_on_two(folder, *overrides):
    """As a person starts it."""
    sets = [part for override in (*SHORT, f"run_folder={folder}", *OPTIONS, *overrides) for part in ("--set", override)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.run(
        [*launcher, "-m", "mmhicra", "train", "--config", str(TINY), *sets],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=600,  # a rank that waits for one that has left
    )
    return process.returncode, process.stderr


def rolled_out(folder, step=1):
    """Every response of a step, whichever rank made it, and whether its group was kept."""
    records = read_rollouts(folder, step)
    return sorted((record["prompt"], record["completion"], record["kept"], record["response"]) for record in records)


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


@pytest.mark.parametrize(
    ("shard", "start"), [("false", torchrun_on_two), ("true", run_on_two)], ids=["copied", "sharded"]
)
def test_two_ranks_equal_one(alone, benchmark, tmp_path, shard, start):
    status, said = start(tmp_path / "two", f"model.shard={shard}", benchmark)
    assert status == 0, said[-3000:]
    assert evaluated(tmp_path / "two") == evaluated(alone)
    assert rolled_out(tmp_path / "two") == rolled_out(alone)
    assert_equal_runs(alone, tmp_path / "two")


def test_ranks_that_compute_rows_together_equal_one(alone, benchmark, tmp_path):
    """Four of them, two to a row; one pair has fewer groups, and computes filler rows while the other has more."""
    status, said = run_on_two(tmp_path / "four", "parallel.sequence=2", "model.shard=true", benchmark, ranks=4)
    assert status == 0, said[-3000:]
    assert "rows are computed by 2 processes together" in short_runs.printed(tmp_path / "four").read_text()
    assert evaluated(tmp_path / "four") == evaluated(alone)
    assert rolled_out(tmp_path / "four") == rolled_out(alone)
    assert_equal_runs(alone, tmp_path / "four")


ADAPTERS = (
    "model.lora={rank: 4, alpha: 8, targets: all-linear}",
    *("train.epochs=1", "eval.problems=3", "train.prompts_per_step=3", "log.checkpoint_model=full"),
)


def test_adapters_on_a_sharded_model_equal_those_of_one_process(tmp_path):
    """The reference is the model under them; what is written is the merged model, the adapter, and an exact resume."""
    run(tmp_path / "one", *OPTIONS, *ADAPTERS)
    status, said = run_on_two(tmp_path / "two", *ADAPTERS, "model.shard=true", "parallel.reshard=always")
    assert status == 0, said[-3000:]
    assert rolled_out(tmp_path / "two") == rolled_out(tmp_path / "one")
    assert_equal_runs(tmp_path / "one", tmp_path / "two")
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        one, two = (load_file(tmp_path / run / "checkpoints/step_000002" / name) for run in ("one", "two"))
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(two[key], one[key], atol=2e-6, rtol=1e-3)


def test_a_run_goes_on_with_other_numbers_of_ranks_as_if_there_had_been_one(tmp_path):
    """Two hold a split model, four two split copies of it, and one takes the last step by itself."""
    options = ("eval.problems=0", "train.loss.kl_coefficient=0.01")
    run(tmp_path / "alone", *options)
    layouts = {2: ("model.shard=true",), 4: ("model.shard=true", "parallel.replicate=2")}
    for steps, (ranks, layout) in enumerate(layouts.items(), start=1):
        status, said = short_runs.run_on_two(
            *(tmp_path / "moved", *options, *layout, f"train.steps={steps}"), ranks=ranks, resume=steps > 1
        )
        assert status == 0, said[-3000:]
    run(tmp_path / "moved", *options, resume=True)
    assert_equal_runs(tmp_path / "alone", tmp_path / "moved", step=3)


def test_two_ranks_fill_steps_up_and_split_them_as_one(tmp_path):
    run(tmp_path / "one", *OPTIONS, *REFILLED)
    status, said = run_on_two(tmp_path / "two", *REFILLED)
    assert status == 0, said[-3000:]
    rounds = [len(rolled_out(tmp_path / "one", step)) / (4 * 6) for step in (1, 2)]
    assert max(rounds) > 1, "no step was filled up"
    assert all(record["rollout/masked_truncated"] > 0 for record in metrics(tmp_path / "one")[1:])
    assert metrics(tmp_path / "one")[-1]["data/filtered"] > 0
    assert (tmp_path / "two/filtered.jsonl").read_text() == (tmp_path / "one/filtered.jsonl").read_text() != ""
    assert rolled_out(tmp_path / "two") == rolled_out(tmp_path / "one")
    assert_equal_runs(tmp_path / "one", tmp_path / "two")


def test_ranks_skip_together_what_one_of_them_sees(tmp_path):
    """A NaN in the gradient of the second of two ranks: skipped by both, and after two in a row both stop."""
    folder = tmp_path / "two"
    overrides = ("train.steps=6", "train.epochs=1", "eval.problems=0", "train.max_skipped_updates=2")
    status, said = run_on_two(
        folder,
        *(*overrides, "model.shard=true"),
        script=spoiling.__file__,
        **{spoiling.SPOILT: json.dumps({"steps": [2, 4, 5], "rank": 1})},
    )
    assert status != 0
    assert said.count("mmhicra: 2 optimizer updates in a row were skipped") == 1
    assert "exitcode  : 2 " in said, said[-3000:]
    assert [record["optimizer/skipped"] for record in metrics(folder)] == [0.0, 1.0, 0.0, 1.0, 1.0]
    states = {step: state_files(folder, step) for step in range(1, 6)}
    for before, after, alike in ((1, 2, True), (2, 3, False), (3, 5, True)):
        same = [torch.equal(states[before][name], states[after][name]) for name in states[before]]
        assert all(same) is alike
    assert all(bool(value.isfinite().all()) for value in states[5].values())
    run(folder, *OPTIONS, *overrides, "model.shard=true", resume=True)
    assert [record["optimizer/skipped"] for record in metrics(folder)] == [0.0, 1.0, 0.0, 1.0, 1.0, 0.0]


def test_a_refusal_in_a_benchmark_on_one_rank_ends_both_with_one_line(benchmark, tmp_path):
    """The second of two ranks refuses while it answers; the first would wait for its answers."""
    status, said = run_on_two(
        tmp_path / "two", benchmark, "eval.problems=0", script=spoiling.__file__, **{spoiling.REFUSING: "1"}
    )
    assert status != 0
    assert said.count("mmhicra: refused by rank 1") == 1
    root = said.partition("Root Cause")[2]
    assert "rank      : 0 " in root, said[-3000:]
    assert "exitcode  : 2 " in root
    for rank in range(2):  # what each of them said, and where it was raised, is kept
        log = RunFolder(tmp_path / "two").log(rank).read_text()
        assert f"rank {rank} of 2 on cpu" in log
        assert " ERROR    mmhicra.core.logs: refused by rank 1" in log
        assert "UserError: refused by rank 1" in log.partition("Traceback (most recent call last)")[2]


def test_a_method_of_ones_own_that_fails_on_one_rank_ends_both_with_one_line(tmp_path):
    """Rank 0, which has no part in it, would wait for the other or end in an error of its own."""
    method = tmp_path / "method.py"
    method.write_text(
        "import os\ncalls = [0]\n"
        "def fails_later(advantages, tokens, options):\n"
        "    calls[0] += 1\n"
        "    if os.environ.get('RANK') == '1' and calls[0] > 8: raise RuntimeError('no credit')\n"
        "    return advantages * 1.0\n"
    )
    few = ("train.prompts_per_step=4", "train.epochs=1", "eval.problems=0", f"credit.method={method}:fails_later")
    status, said = run_on_two(tmp_path / "two", *few)
    assert status != 0
    assert said.count("fails_later failed: RuntimeError: no credit") == 1, said[-3000:]
    for rank in range(2):
        assert "RuntimeError: no credit" in RunFolder(tmp_path / "two").log(rank).read_text()


def test_failures_of_a_custom_reward_are_counted_over_both_ranks(tmp_path):
    """From the second step on it fails on every problem of rank 1, on two of four groups."""
    reward = tmp_path / "reward.py"
    reward.write_text(
        "import os, pathlib\nfirst = pathlib.Path(__file__).parent / 'two/rollouts/step_000001.rank_01.jsonl.zst'\n"
        "def score(problem, completion, record):\n"
        "    if first.exists() and os.environ['RANK'] == '1': raise RuntimeError('no answer')\n"
        "    return 0.1 * (len(completion) % 3)\n"
    )
    custom = f"reward.custom=[{{path: '{reward}:score'}}]"
    few = ("train.steps=9", "eval.problems=0", "train.prompts_per_step=4", "train.epochs=1")
    patience = ("reward.custom_failures=3", "reward.custom_wait=0", "log.checkpoint_every=0")
    status, said = run_on_two(tmp_path / "two", custom, *few, *patience)
    assert status != 0
    assert [record["reward/custom_failed"] for record in metrics(tmp_path / "two")] == [0.0, 2.0, 2.0]
    assert said.count("4 groups were dropped, reward.custom_failures allows 3. Saved after step 3") == 1, said[-3000:]
    assert (tmp_path / "two/checkpoints/step_000003").is_dir()


def assert_equal_runs(alone, together, step=2):
    """Weights, optimizer state and metrics after two steps agree but for rounding."""
    one, two = state_files(alone, step), state_files(together, step)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(
            two[name], one[name], atol=2e-6, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
    for mine, theirs in zip(metrics(alone), metrics(together), strict=True):
        assert mine.keys() == theirs.keys()
        assert mine.pop("grams", None) == theirs.pop("grams", None)
        assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-5)
