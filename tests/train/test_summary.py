"""What `summary.json` says of a run, number by number."""

from types import SimpleNamespace

from short_runs import short_config

from mmhicra.core.intervals import change_interval
from mmhicra.core.run_folder import RunFolder
from mmhicra.train.loop.summary import advice, summarise_run
from mmhicra.train.update.updates import IDLE_STEPS, UpdateCount


def evaluation(accuracy, by_problem, task, benchmark):
    """The facts of an evaluation as checkpoints carry them."""
    record = {"eval/accuracy": accuracy, "eval/length": 7.0, "eval/emma": benchmark, "eval/aime24_low": benchmark / 2}
    return {"accuracy": {"mean": accuracy}, "by_task": {"bars": task}, "by_problem": by_problem, "record": record}


def run_of(tmp_path, before, after):
    config = short_config(
        tmp_path / "run",
        *("eval.n=3", "eval.temperature=0.5", "eval.benchmarks=[{name: emma}, {name: aime24}]"),
        *("credit.method=uniform", "log.tensorboard=true"),
    )
    updates = UpdateCount(3, made=8, skipped=2, idle=1)
    controller = SimpleNamespace(at=lambda step: step / 10)
    trainer = SimpleNamespace(
        step_number=6,
        updates=updates,
        collector=SimpleNamespace(stream=SimpleNamespace(problems=["p"] * 40)),
        credit_assigner=SimpleNamespace(controller=controller),
    )
    parts = SimpleNamespace(
        trainer=trainer, held_out=["q"] * 5, refused=4, gram_library=Library(), parameters={"total": 9, "trained": 2}
    )
    state = {"before": before, "latest": after, "best": {"step": 4}, "seconds": {"rollout": 3.5}}
    folder = RunFolder(tmp_path / "run")
    folder.checkpoint(6).mkdir(parents=True)
    return SimpleNamespace(
        config=config, state=state, parts=parts, folder=folder, wall_seconds=77.0, listed=(["p"] * 3, False)
    )


class Library:
    """Grams that are only counted."""

    name, content_hash = "some grams", "abc"

    def __len__(self):
        return 12


def test_every_number_stands_where_it_belongs(tmp_path):
    before = evaluation(0.25, [0.0, 0.5, 0.0, 0.5], {"mean": 0.2}, 0.3)
    after = evaluation(0.75, [1.0, 0.5, 1.0, 0.5], {"mean": 0.9}, 0.4)
    run = run_of(tmp_path, before, after)
    summary = summarise_run(run)
    assert summary["held_out"] == {
        "before": {"mean": 0.25},
        "after": {"mean": 0.75},
        "change": change_interval(before["by_problem"], after["by_problem"]).as_dict(),
        "by_task_before": {"bars": {"mean": 0.2}},
        "by_task_after": {"bars": {"mean": 0.9}},
        "temperature": 0.5,
        "completions_per_problem": 3,
    }
    assert summary["held_out"]["change"]["mean"] == 0.5
    assert summary["benchmarks"] == {
        "before": {"emma": 0.3, "aime24_low": 0.15},
        "after": {"emma": 0.4, "aime24_low": 0.2},
    }
    assert summary["problems"] == {"train": 40, "held_out": 5, "refused": 4, "filtered": 3}
    assert summary["updates"] == {"made": 8, "skipped": 2, "steps_without_signal": 1}
    assert (summary["steps"], summary["wall_seconds"], summary["seconds_by_phase"]) == (6, 77.0, {"rollout": 3.5})
    assert (summary["method"], summary["alpha"], summary["best"]) == ("uniform", 0.6, {"step": 4})
    assert summary["grams"] == {"name": "some grams", "count": 12, "hash": "abc"}
    assert summary["parameters"] == {"total": 9, "trained": 2}
    assert summary["paths"]["checkpoint"] == str(run.folder.checkpoint(6))
    assert summary["paths"]["refused"] == str(run.folder.refused)
    assert summary["paths"]["tensorboard"] == str(run.folder.tensorboard)


def test_a_change_takes_two_evaluations_of_the_same_problems(tmp_path):
    whole = evaluation(0.25, [0.0, 0.5], {"mean": 0.2}, 0.3)
    for number, (before, after) in enumerate([(None, None), (whole, None), (whole, {**whole, "by_problem": [1.0]})]):
        summary = summarise_run(run_of(tmp_path / str(number), before, after))
        assert summary["held_out"]["change"] is None
        assert summary["held_out"]["before"] == (before and {"mean": 0.25})


def test_advice_is_given_where_nothing_was_trained_or_updates_were_skipped(tmp_path):
    config = short_config(tmp_path)
    counts = [
        (UpdateCount(3, made=8, idle=IDLE_STEPS - 1, idle_in_a_row=IDLE_STEPS - 1), []),
        (UpdateCount(3, made=8, idle=20, idle_in_a_row=IDLE_STEPS), ["20 steps trained nothing"]),
        (UpdateCount(3, made=0, idle=1, idle_in_a_row=1), ["nothing was trained: every group of 4 responses"]),
        (
            UpdateCount(3, made=8, skipped=2, last="of NaN"),
            ["2 optimizer updates were skipped, the last because of NaN"],
        ),
        (UpdateCount(3, skipped=2, idle=1), ["nothing was trained", "2 optimizer updates were skipped"]),
    ]
    for updates, starts in counts:
        lines = advice(updates, config)
        assert len(lines) == len(starts)
        assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True)), lines
    assert advice(UpdateCount(3, made=8), config, masked=1234)[0].startswith("1,234 responses were cut off at rollout.")
