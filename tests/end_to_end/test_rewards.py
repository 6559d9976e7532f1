"""What goes wrong while a step is scored: killed workers change nothing, failing functions end a run after saving."""

import os
import signal

import pytest
from rollout_lines import read_rollouts
from short_runs import SHORT, TINY, metrics, run, state_files

from mmhicra.cli import main
from mmhicra.rewards import workers

pytestmark = pytest.mark.slow

REWARD = """
import pathlib
calls = pathlib.Path(__file__).with_name("calls.txt")

def score(problem, completion, record):
    with calls.open("a") as file:
        file.write(problem.id + "\\n")
    called = len(calls.read_text().splitlines())
    {then}
    return 0.1 * (called % 7)
"""


def train(folder, reward, *overrides):
    """`mmhicra train` with a custom reward, 2 steps of 4 groups of 4; returns its exit status."""
    custom = f"reward.custom=[{{path: {reward}:score}}]"
    sets = [*SHORT, "train.steps=2", "eval.problems=0", f"run_folder={folder}", custom, "reward.custom_wait=0"]
    return main(["train", "--config", str(TINY), *(part for each in [*sets, *overrides] for part in ("--set", each))])


def write_reward(folder, then):
    file = folder / "my_reward.py"
    file.write_text(REWARD.format(then=then))
    return file


def test_killed_workers_leave_the_run_as_it_would_have_been(tmp_path, monkeypatch):
    """Both workers, kill -9, while they judge the answers of the first step."""
    monkeypatch.setattr(workers, "decide", lambda query: None)  # everything goes to the workers
    take, victims = workers._Worker.take, []

    def killed_at_work(worker, query):
        doomed = worker.stage == "idle" and query.extracted is not None and len(victims) < 2 and query not in victims
        if doomed:  # it is stopped first, so that it cannot have answered before it dies
            victims.append(query)
            os.kill(worker.process.pid, signal.SIGSTOP)
        take(worker, query)
        if doomed:
            os.kill(worker.process.pid, signal.SIGKILL)

    run(tmp_path / "calm", "train.steps=2", "eval.problems=0")
    monkeypatch.setattr(workers._Worker, "take", killed_at_work)
    run(tmp_path / "killed", "train.steps=2", "eval.problems=0")
    assert len(victims) == 2
    calm, spoilt = state_files(tmp_path / "calm", 2), state_files(tmp_path / "killed", 2)
    assert all((calm[name] == spoilt[name]).all() for name in calm)
    one, other = metrics(tmp_path / "calm"), metrics(tmp_path / "killed")
    assert [record.pop("reward/workers_lost") for record in one] == [0.0, 0.0]
    assert sum(record.pop("reward/workers_lost") for record in other) == 2.0
    assert one == other


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("if called > 16: raise ConnectionError('the judge is down')", "reward.custom_failures allows 1. Saved after"),
        ("if called > 16: raise SystemExit(1)", "reward.custom_failures allows 1. Saved after"),
        ("if called > 20: return float('nan')", "returned nan: it must return a finite number"),
    ],
    ids=["raises", "exits", "NaN"],
)
def test_a_reward_that_breaks_down_saves_the_run_and_stops_it(tmp_path, capsys, then, said):
    """The first step is scored; in the second the function fails, whose groups are dropped and counted."""
    reward, folder = write_reward(tmp_path, then), tmp_path / "run"
    assert train(folder, reward, "reward.custom_failures=1", "reward.custom_attempts=2", "log.checkpoint_every=9") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("mmhicra: the custom reward ")
    assert said in lines[0]
    assert "Saved after step 2: mend the function and go on with --resume" in lines[0]
    assert (folder / "checkpoints" / "step_000002").is_dir()
    failed = [record["reward/custom_failed"] for record in metrics(folder)]
    assert failed[0] <= 1.0
    assert failed[1] >= 2.0
    assert sum("custom reward" in record["reward"]["why"] for record in read_rollouts(folder, 2)) >= 8


def test_a_reward_of_another_trainer_is_refused_before_the_model_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mmhicra.train.loop.assembly.load_policy", lambda *args: pytest.fail("the model was loaded"))
    for program, said in [
        ("def score(completions, **kwargs): return [0.0]", "as TRL calls it"),
        ("def score(problem, completion, record): return None", "returned None (NoneType)"),
        ("def score(problem, completion, record): return completion.txt", "has no attribute 'txt'"),
    ]:
        reward = tmp_path / f"reward_{abs(hash(program))}.py"
        reward.write_text(program)
        assert (
            train(
                tmp_path / "run",
                reward,
                "reward.custom_attempts=1",
            )
            == 2
        )
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("mmhicra: ")
        assert said in line
