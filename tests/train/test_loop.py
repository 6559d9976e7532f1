"""What the loop does after which step, as configured: evaluations, checkpoints, rollout files, and when it gives up."""

import json
from contextlib import nullcontext
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from short_runs import short_config

from mmhicra.core.errors import ConfigError
from mmhicra.core.intervals import ConfidenceInterval
from mmhicra.core.plugins import load_object
from mmhicra.core.rollout_files import rollout_steps
from mmhicra.core.run_folder import RunFolder
from mmhicra.data.curriculum import LeftOut
from mmhicra.rewards.custom import CustomFailure
from mmhicra.train.loop import loop, rollout_records
from mmhicra.train.loop.callbacks import CallbackError, Callbacks
from mmhicra.train.loop.evaluation import Evaluation
from mmhicra.train.loop.loop import Run, evaluation_facts
from mmhicra.train.loop.metrics import Timers
from mmhicra.train.loop.terminal import Terminal
from mmhicra.train.update.updates import UpdateCount

ACCURACIES = [0.1, 0.3, 0.2, 0.4, 0.4, 0.1, 0.3]
"""Of the evaluations of a run, in their order."""


class Gauge:
    """Holds nothing."""

    def since_last(self):
        return None

    def altogether(self):
        return 0.0


class PlannedTrainer:
    """Takes steps that only count; `failures` are the groups that a custom reward failed on in each."""

    def __init__(self, config, failures):
        self.config, self.failures = config, failures
        self.step_number = 0
        self.updates = UpdateCount(config.train.max_skipped_updates)
        self.time, self.memory = Timers(Gauge()), Gauge()
        self.optimizer = SimpleNamespace(register_step_pre_hook=lambda hook: None)
        self.ranks = SimpleNamespace(
            count=2, index=0, is_main=True, max=float, gather=list, refusing_together=nullcontext
        )
        self.collector = SimpleNamespace(stream=SimpleNamespace(left_out=None))
        self.credit_assigner = SimpleNamespace(tokenizer=None)

    def step(self):
        self.step_number += 1
        number = self.failures[self.step_number - 1] if self.failures else 0
        failures = [CustomFailure("it failed", f"p{n}", wrong_result=False) for n in range(number)]
        return {"reward/workers_lost": 0.0, "time/rollout": 2.0, "time/forward": 0.5}, SimpleNamespace(
            number=self.step_number, groups=["a group"], worst_problem=None, reward_failures=failures
        )


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """(overrides, failures) -> what a run did: (what, step) in order, and the run."""

    def followed(*overrides, failures=()):
        did = []
        config = short_config(tmp_path / "run", "train.steps=6", "log.checkpoint_every=0", *overrides)
        trainer, folder = PlannedTrainer(config, failures), RunFolder(tmp_path / "run")
        folder.make()
        accuracies = iter(ACCURACIES)

        def evaluate(self, when):
            did.append(("evaluate", trainer.step_number))
            accuracy = ConfidenceInterval(next(accuracies), 0.0, 1.0, 6, "wilson")
            return evaluation_facts(Evaluation(accuracy, {}, [], 0.0, 0.0, 1.0))

        def stage(trainer, state, progress, copied):
            did.append(("save", trainer.step_number))
            return copied, json.loads(json.dumps(state))

        def stage_weights(trainer, copied):
            did.append(("save weights", trainer.step_number))

        def write(staged, best):
            if staged is None:  # the weights alone
                return
            folder.checkpoints.mkdir(exist_ok=True)
            saved.append((best and best["step"], *staged))
            if best:
                folder.write_best(best)

        saved = []
        monkeypatch.setattr(Run, "evaluate_held_out", evaluate)
        monkeypatch.setattr(loop, "stage", stage)
        monkeypatch.setattr(rollout_records, "rollout_records", lambda step, *about: [{"step": step.number}])
        monkeypatch.setattr(loop, "stage_weights", stage_weights)
        parts = SimpleNamespace(
            trainer=trainer,
            processor=None,
            gram_library=SimpleNamespace(content_hash="0" * 64),
            benchmarks=SimpleNamespace(evaluate=lambda *about: {}),
            callbacks=Callbacks.load(config.log.callbacks),
        )
        stop = SimpleNamespace(requested=None, unlimited=nullcontext)
        nothing = dict.fromkeys(("finish", "settle"), lambda: None)
        writer = SimpleNamespace(write=write, begin=write, busy=False, **nothing)
        run = Run(config, folder, Terminal(quiet=True), parts, [], stop, writer)
        try:
            run.loop()
        except (CustomFailure, CallbackError) as failure:
            did.append((str(failure), trainer.step_number))
        return did, saved, run

    return followed


def steps(did, what):
    return [step for each, step in did if each == what]


@pytest.mark.parametrize(
    ("overrides", "evaluated", "saved", "recorded"),
    [
        ((), [0, 6], [6], [1, 2, 3, 4, 5, 6]),
        (("eval.every=2",), [0, 2, 4, 6], [2, 6], [1, 2, 3, 4, 5, 6]),  # 0.3, 0.2, 0.4: step 4 is no better
        (("eval.every=4", "eval.keep_best=false"), [0, 4, 6], [6], [1, 2, 3, 4, 5, 6]),
        (("eval.problems=0", "eval.every=1"), [], [6], [1, 2, 3, 4, 5, 6]),
        (("log.checkpoint_every=4", "log.rollouts_every=3"), [0, 6], [4, 6], [3, 6]),
        (("log.checkpoint_every=7", "log.rollouts_every=0"), [0, 6], [6], []),
        (("log.rollouts_every=2", "log.rollouts_keep=2"), [0, 6], [6], [4, 6]),
        (("log.checkpoint_every=4", "log.weights_every=2", "log.rollouts_every=9"), [0, 6], [4, 6], []),
    ],
)
def test_what_happens_after_which_step(follow, overrides, evaluated, saved, recorded):
    did, _, run = follow(*overrides)
    assert steps(did, "evaluate") == evaluated
    assert steps(did, "save") == saved
    assert steps(did, "save weights") == ([2] if "log.weights_every=2" in overrides else [])
    assert [files.step for files in rollout_steps(run.folder.rollouts)] == recorded
    lines = [json.loads(line) for line in run.folder.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [*([0] if evaluated else []), *range(1, 7)]
    assert [line["step"] for line in lines if "eval/accuracy" in line] == evaluated


def test_the_best_is_remembered_and_kept(follow):
    _, saved, run = follow("eval.every=1", "log.keep_checkpoints=5", "log.checkpoint_every=1")
    assert [best for best, _, _ in saved] == [1, 1, 3, 3, 3, 3]  # 0.3, 0.2, 0.4, 0.4, 0.1, 0.3
    assert [copied for _, copied, _ in saved] == [True] * 5 + [False], "only the last one is waited for"
    assert json.loads(run.folder.best.read_text())["step"] == 3
    assert run.state["before"]["accuracy"]["mean"] == 0.1
    assert run.state["latest"]["accuracy"]["mean"] == 0.3


def test_nothing_is_copied_if_training_waits_for_checkpoints(follow):
    _, saved, _ = follow("log.checkpoint_every=2", "log.checkpoint_async=false")
    assert [copied for _, copied, _ in saved] == [False] * 3


def test_seconds_add_up_over_steps_and_starts(follow):
    _, saved, run = follow("log.checkpoint_every=3")
    assert [state["seconds"]["rollout"] for _, _, state in saved] == [6.0, 12.0]
    assert run.state["seconds"]["forward"] == 3.0
    assert {"step", "evaluation", "checkpoint"} <= run.state["seconds"].keys()
    run.state["wall_seconds"] = 1000.0
    assert 1000 < run.wall_seconds < 1000 + 600


@pytest.mark.parametrize(
    ("failures", "ends"),
    [((1, 0, 2, 0, 0, 0), None), ((1, 0, 2, 1, 0, 0), 4), ((0, 9, 0, 0, 0, 0), 2)],
    ids=["as many as allowed", "one more, over several steps", "at once"],
)
def test_failures_of_custom_rewards_are_added_up(follow, failures, ends):
    did, _, _ = follow("reward.custom_failures=3", "reward.custom=[{path: 'math:hypot'}]", failures=failures)
    if ends is None:
        assert did[-1] == ("save", 6)
    else:
        assert did[-2] == ("save", ends), "before it ends"
        assert f"{sum(failures[:ends])} groups were dropped, reward.custom_failures allows 3" in did[-1][0]


WATCHER = """
told = []

class Watcher:
    def on_run_begin(self, config, folder, step):
        told.append(("begin", config.train.steps, folder.name, step))
    def on_step_end(self, step, metrics, groups):
        told.append(("step", step, metrics["step"], groups))
        metrics.clear()
    def on_evaluation(self, step, metrics):
        told.append(("evaluation", step, metrics["eval/accuracy"]))
    def on_checkpoint(self, step, folder):
        told.append(("checkpoint", step, folder.name))

class Failing:
    def __init__(self):
        self.calls = 0
    def HOOK(self, *facts):
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("the disk\\nis full")
"""


def test_callbacks_are_told_in_order_and_cannot_change_what_is_written(follow, tmp_path):
    (tmp_path / "watcher.py").write_text(WATCHER)
    address = f"{tmp_path}/watcher.py:"
    overrides = (f"log.callbacks=['{address}Watcher']", "train.steps=3", "log.checkpoint_every=2", "eval.every=2")
    _, _, run = follow(*overrides, "eval.keep_best=false")
    assert load_object(f"{address}told", "") == [
        ("begin", 3, "run", 0),
        ("evaluation", 0, 0.1),
        ("step", 1, 1, ["a group"]),
        ("step", 2, 2, ["a group"]),
        ("evaluation", 2, 0.3),
        ("checkpoint", 2, "step_000002"),
        ("step", 3, 3, ["a group"]),
        ("evaluation", 3, 0.2),
        ("checkpoint", 3, "step_000003"),
    ]
    lines = [json.loads(line) for line in run.folder.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("hook", "saved", "ends"),
    [
        ("on_step_end", [2], "Saved after step 2"),
        ("on_evaluation", [1], "Saved after step 1"),  # the first is before training
        ("on_checkpoint", [1, 2], "Saved after step 2"),
    ],
)
def test_a_callback_that_fails_ends_the_run_with_a_checkpoint(follow, tmp_path, hook, saved, ends):
    (tmp_path / f"{hook}.py").write_text(WATCHER.replace("HOOK", hook))
    every = 1 if hook == "on_checkpoint" else 0
    overrides = (f"log.callbacks=['{tmp_path}/{hook}.py:Failing']", f"log.checkpoint_every={every}")
    did, _, _ = follow(*overrides, "eval.every=1", "eval.keep_best=false")
    assert steps(did, "save") == saved
    said, _ = did[-1]
    failed = f"the callback {tmp_path}/{hook}.py:Failing failed in {hook}: RuntimeError: the disk is full. {ends}"
    assert said == f"{failed}: mend the callback and go on with --resume"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("f = 3", "has none of the methods on_run_begin, on_step_end, on_evaluation, on_checkpoint"),
        (
            "class f:\n  def on_step_begin(self, step): pass",
            "has on_step_begin, which nothing calls: did you mean on",
        ),
        ("class f:\n  def on_step_end(self, step): pass", "cannot be called with three arguments"),
        ("class f:\n  async def on_checkpoint(self, step, folder): pass", "is an async function"),
        ("class f:\n  def __init__(self, a): pass", r"f\(\) fails: TypeError"),
    ],
)
def test_a_wrong_callback_is_refused_in_one_line(tmp_path, program, message):
    (tmp_path / "wrong.py").write_text(program)
    with pytest.raises(ConfigError, match=message) as caught:
        Callbacks.load([f"{tmp_path}/wrong.py:f"])
    assert str(caught.value).startswith("log.callbacks: ")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="is listed twice, keep one"):
        Callbacks.load(["json:dumps", "json:dumps"])


def test_what_a_curriculum_leaves_out_is_counted_listed_and_told_when_it_changes(follow):
    _, _, run = follow("eval.problems=0")
    said, out = [], [LeftOut("p1", "easy", [1.0], 4), LeftOut("p2", "hard", [0.0], 4)]
    run.terminal.say = said.append
    told = []
    for left_out, lifted in (([], False), (out, False), (out, False), ([], True), ([], True), ([], False)):
        run.parts.trainer.collector.stream = SimpleNamespace(left_out=left_out, lifted=lifted, problems=["p"] * 9)
        record = {}
        run.list_filtered(record)
        listed = [json.loads(line) for line in run.folder.filtered.read_text(encoding="utf-8").splitlines()]
        assert (record["data/filtered"], listed) == (len(left_out), [asdict(each) for each in left_out])
        told.append(len(said))
    assert told == [0, 1, 1, 2, 2, 3]
    assert said[0].startswith(
        "curriculum: 2 of 9 problems are left out from here on, 1 as too easy and 1 as too hard: "
    )
    assert said[1].startswith("warning: data.curriculum would leave fewer problems than a step takes")
    assert said[2].startswith("curriculum: 0 of 9 ")
