import argparse
import csv
import json
from dataclasses import replace
from random import Random

import pytest
from hicra.judge_server import JudgeServer, Scripted
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmhicra.analysis.errors import (
    ErrorCounts,
    ErrorRecord,
    ExactJudge,
    Failure,
    Judgement,
    count_errors,
    judge_failures,
    read_failures,
    total_of,
)
from mmhicra.commands import errors as command
from mmhicra.core.errors import DataError, RunFolderError, UserError
from mmhicra.data.generated import ledger, visual_math

KINDS = ("planning", "execution", "discarded", "unparsed")
PROBLEMS = visual_math.generate("train", 60, seed=2)
UNLUCKY = [p for p in PROBLEMS if not visual_math.solve(p, "guess", Random(0)).correct]


def rollout(problem, response, step=1, completion=0, verdict="wrong", finish_reason="stop"):
    """A line of a rollout file, as training writes it."""
    reward = {"extracted": "1", "method": "boxed", "gold": problem.answer, "verdict": verdict, "why": "", "parts": {}}
    return {
        "step": step,
        "kept": True,
        "completion": completion,
        "prompt": problem.id,
        "task": problem.task,
        "source": problem.source,
        "images": [image.reference for image in problem.images],
        "question": problem.question,
        "response": response,
        "ids": [1, 2, 3],
        "finish_reason": finish_reason,
        "planning": [],
        "reward": {**reward, "total": 0.0},
        "advantage": -0.5,
    }


def wrong_plan(problem):
    return visual_math.solve(problem, "guess", Random(0)).text


def wrong_value(problem):
    text = visual_math.solve(problem, "careful", Random(0)).text
    return text.replace(f"\\boxed{{{problem.answer}}}", "\\boxed{997}")


@pytest.fixture
def write_run(tmp_path):
    def write(steps):
        (tmp_path / "rollouts").mkdir(exist_ok=True)
        for step, records in steps.items():
            lines = [json.dumps(record) + "\n" for record in records]
            (tmp_path / "rollouts" / f"step_{step:06d}.jsonl").write_text("".join(lines))
        return tmp_path

    return write


@pytest.fixture
def run_folder(write_run):
    """Steps 1 to 6; in step s, s wrong plans, 2 wrong values, a right rollout and one whose gold is unusable."""
    return write_run(
        {
            step: [
                *(rollout(UNLUCKY[n], wrong_plan(UNLUCKY[n]), step, n) for n in range(step)),
                rollout(UNLUCKY[7], wrong_value(UNLUCKY[7]), step, 7),
                rollout(UNLUCKY[8], "Step by step:", step, 8, "no-answer", "length"),
                rollout(UNLUCKY[9], "", step, 9, "right"),
                rollout(UNLUCKY[9], "", step, 10, "gold-unusable"),
            ]
            for step in range(1, 7)
        }
    )


def call(folder, *arguments):
    """`mmhicra errors folder ...`."""
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    options = parser.parse_args(["errors", str(folder), *arguments])
    return options.run(options)


def test_failures_are_wrong_or_without_an_answer(run_folder):
    found = read_failures(run_folder)
    assert [(step.step, step.total, len(step.chosen)) for step in found] == [(n, n + 2, n + 2) for n in range(1, 7)]
    assert found[1].chosen[-1] == Failure(
        step=2,
        prompt=UNLUCKY[8].id,
        completion=8,
        task=UNLUCKY[8].task,
        question=UNLUCKY[8].question,
        images=(f"{UNLUCKY[8].id}.png",),
        gold=UNLUCKY[8].answer,
        response="Step by step:",
        truncated=True,
    )


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"first": 3}, [3, 4, 5, 6]), ({"first": 2, "last": 5, "every": 2}, [2, 4]), ({"every": 5}, [1, 6])],
)
def test_steps_can_be_chosen(run_folder, options, steps):
    assert [step.step for step in read_failures(run_folder, **options)] == steps


def test_a_sample_is_a_function_of_the_seed_and_says_of_how_many(run_folder):
    samples = [read_failures(run_folder, sample=4, seed=seed) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    assert [(step.total, len(step.chosen)) for step in samples[0]] == [(3, 3), (4, 4), (5, 4), (6, 4), (7, 4), (8, 4)]
    assert samples[0][3:] == read_failures(run_folder, first=4, sample=4)
    everything = {step.step: step.chosen for step in read_failures(run_folder)}
    assert all([f for f in everything[step.step] if f in step.chosen] == list(step.chosen) for step in samples[0])


def test_what_is_no_run_is_refused(write_run, tmp_path):
    with pytest.raises(RunFolderError, match=r"has no rollouts/step_\*\.jsonl\.zst"):
        read_failures(tmp_path)
    folder = write_run({4: [rollout(PROBLEMS[0], "")], 5: [{"step": 5}]})
    with pytest.raises(RunFolderError, match="steps 4 to 5"):
        read_failures(folder, first=6)
    with pytest.raises(RunFolderError, match=r"step_000005\.jsonl, line 1 .*no prompt"):
        read_failures(folder)


def failure_of(problem, response, **changes):
    images = tuple(image.reference for image in problem.images)
    failure = Failure(1, problem.id, 0, problem.task, problem.question, images, problem.answer, response, False)
    return replace(failure, **changes)


def test_the_exact_judge_tells_a_wrong_plan_from_a_wrong_value():
    judge = ExactJudge()
    for problem in UNLUCKY:
        assert judge.judge(failure_of(problem, wrong_plan(problem))).kind == "planning"
        judgement = judge.judge(failure_of(problem, wrong_value(problem)))
        assert judgement.kind == "execution"
        assert judgement.why.endswith(f"careful, boxed: 997, expected {problem.answer}")
    unreadable = wrong_value(UNLUCKY[0]).replace("\\boxed{997}", UNLUCKY[0].answer)
    assert "could not be read" in judge.judge(failure_of(UNLUCKY[0], unreadable)).why
    assert judge.judge(failure_of(UNLUCKY[0], "Step by step:", truncated=True)).why.endswith("; cut off")


def test_the_exact_judge_knows_the_ledger_too():
    judge = ExactJudge()
    for problem in ledger.generate("train", 16, seed=3):
        right = ledger.right_plans(problem)
        text = ledger.solve(problem, [[plan] for plan in right], Random(0)).text
        assert judge.judge(failure_of(problem, text.replace("\\boxed{", "\\boxed{9"))).kind == "execution"
        assert judge.judge(failure_of(problem, text[:-1])).kind == "execution"
        other = "mirror" if right[0] != "mirror" else "even"
        wrong = ledger.solve(problem, [[other], *([plan] for plan in right[1:])], Random(0))
        assert judge.judge(failure_of(problem, wrong.text)).kind == "planning"


def test_the_exact_judge_refuses_what_it_does_not_know():
    judge = ExactJudge()
    with pytest.raises(DataError, match="step 1, geometry3k/12, completion 0.*--judge URL"):
        judge.judge(failure_of(PROBLEMS[0], "", prompt="geometry3k/12"))
    with pytest.raises(DataError, match="draws another problem"):
        judge.judge(failure_of(PROBLEMS[0], "", gold="998"))
    held_out = visual_math.generate("held_out", 1, seed=0)[0]
    with pytest.raises(DataError, match="cannot be drawn again"):
        judge.judge(failure_of(held_out, ""))


class Stub:
    name = "stub"
    concurrency = 1

    def __init__(self, kinds):
        self.kinds, self.asked = kinds, 0

    def judge(self, failure):
        self.asked += 1
        if self.kinds[failure.completion] is None:
            raise UserError("no more")
        return Judgement(self.kinds[failure.completion], failure.response, "C")


def test_judging_keeps_the_order_tells_how_far_it_is_and_stops_at_once():
    failures = [failure_of(PROBLEMS[0], f"r{n}", completion=n) for n in range(4)]
    progress = []
    records = judge_failures(failures, Stub(KINDS), progress.append)
    assert progress == [1, 2, 3, 4]
    assert [record.kind for record in records] == list(KINDS)
    assert records[2] == ErrorRecord(1, PROBLEMS[0].id, 2, False, "discarded", "C", "r2", "stub")
    stopping = Stub(["planning", None, "planning", "planning"])
    with pytest.raises(UserError, match="no more"):
        judge_failures(failures, stopping)
    assert stopping.asked == 2
    assert judge_failures([], Stub([])) == []


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(KINDS)), max_size=40), st.integers(0, 5))
def test_counts_are_those_of_the_records(judged, unjudged):
    records = [ErrorRecord(step, "p", n, False, kind, None, "", "stub") for n, (step, kind) in enumerate(judged)]
    failures = {step: sum(s == step for s, _ in judged) + unjudged for step in (3, 1, 4, 2)}
    rows = count_errors(failures, records)
    assert [row.step for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert {kind: getattr(row, kind) for kind in KINDS} == {kind: judged.count((row.step, kind)) for kind in KINDS}
        assert row.failures == row.judged + unjudged
    total = total_of(rows)
    assert total.judged == len(judged)
    assert total.failures == len(judged) + 4 * unjudged
    assert (total.share is None) == (not any(kind in ("planning", "execution") for _, kind in judged))


def test_the_share_is_of_planning_and_execution_with_a_wilson_interval():
    share = ErrorCounts(1, failures=50, planning=8, execution=2, discarded=5, unparsed=7).share
    assert share is not None
    # Agresti and Coull 1998: 8 of 10
    assert (share.mean, round(share.low, 4), round(share.high, 4)) == (0.8, 0.4902, 0.9433)


def test_the_command_writes_records_table_and_picture(run_folder, capsys):
    assert call(run_folder) == 0
    rows = list(csv.DictReader((run_folder / "errors.csv").open()))
    assert [{name: int(row[name]) for name in ("step", "failures", "judged", *KINDS)} for row in rows] == [
        {"step": n, "failures": n + 2, "judged": n + 2, "planning": n, "execution": 2, "discarded": 0, "unparsed": 0}
        for n in range(1, 7)
    ]
    assert (rows[1]["planning_share"], rows[1]["share_low"], rows[1]["share_high"]) == ("0.5000", "0.1500", "0.8500")
    records = [json.loads(line) for line in (run_folder / "errors.jsonl").read_text().splitlines()]
    assert len(records) == 21 + 12
    assert {record["judge"] for record in records} == {"exact"}
    assert set(records[0]) == {"step", "prompt", "completion", "truncated", "kind", "letter", "why", "judge"}
    with Image.open(run_folder / "errors.png") as picture:
        assert len(picture.convert("RGB").getcolors(100_000) or []) > 3
    printed = capsys.readouterr().out
    assert "33 of 33 failures of 6 steps judged by exact" in printed
    assert "64% [47, 78]" in printed


@pytest.mark.slow
def test_the_command_asks_an_endpoint_and_shows_what_it_cost(run_folder, capsys):
    def reply(number, request):
        text = str(request["messages"])
        return Scripted("Hm." if "cut off" in text else "\\boxed{C}", tokens=(1000, 100))

    with JudgeServer(reply) as server:
        arguments = ["--judge", server.url, "--model", "m", "--price-in", "2", "--price-out", "10", "--steps", "2-4"]
        assert call(run_folder, *arguments, "--every", "2", "--with-images") == 0
        printed = capsys.readouterr().out
        asked = len(server.requests)
        assert call(run_folder, *arguments) == 0
    # 2 and 4 plans, 1 value each, and the cut-off one twice; equal ones of both steps are asked once
    assert asked == 4 + 1 + 2
    assert "10 of 10 failures of 2 steps judged by m" in printed
    assert "7 requests, 5 cached, 7000 prompt tokens, 700 completion tokens, cost 0.0210" in printed
    kinds = [json.loads(line)["kind"] for line in (run_folder / "errors.jsonl").read_text().splitlines()]
    assert (kinds.count("planning"), kinds.count("unparsed")) == (9 + 3, 3)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--judge", "gpt"], "give exact, or a URL"),
        (["--judge", "http://127.0.0.1:1/v1"], "needs --model"),
        (["--judge", "http://127.0.0.1:1/v1", "--model", "m", "--price-in", "1"], "go together"),
    ],
)
def test_the_command_refuses_half_a_judge(run_folder, arguments, reason):
    with pytest.raises(UserError, match=reason):
        call(run_folder, *arguments)


@pytest.mark.parametrize("arguments", [["--steps", "a-b"], ["--sample", "0"], ["--every", "x"]])
def test_the_command_refuses_numbers_that_are_none(run_folder, arguments, capsys):
    with pytest.raises(SystemExit):
        call(run_folder, *arguments)
    assert arguments[0] in capsys.readouterr().err
