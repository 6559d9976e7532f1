"""Error analysis (paper section 4.2.1): which failed rollouts failed in planning and strategy, and which in execution.

`read_failures` finds the failed rollouts of a run, a judge says of each what went wrong (`ExactJudge` here, for
generated tasks; `judges.EndpointJudge` for any), `judge_failures` asks it, `count_errors` adds up by training step.
"""

from __future__ import annotations

import csv
import importlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol, cast

from mmhicra.core.errors import DataError, RunFolderError
from mmhicra.core.intervals import ConfidenceInterval, wilson_interval
from mmhicra.core.records import Problem
from mmhicra.core.rollout_files import StepFiles, require_rollouts
from mmhicra.core.run_lines import failed_fault
from mmhicra.data.generated.visual_math import WrongStep

ErrorKind = Literal["planning", "execution", "discarded", "unparsed"]
"""The paper's two classes ("Planning & Strategy", "Others"), acceptable after all, and no verdict to be had."""

FAILED = ("wrong", "no-answer")
"""The verdicts of a failed rollout; one whose gold answer is unusable has not failed."""

GENERATORS = {"visual-math": "mmhicra.data.generated.visual_math", "visual-ledger": "mmhicra.data.generated.ledger"}
"""First part of a generated problem's id -> the module that can draw it again and tell its errors apart."""


@dataclass(frozen=True)
class Failure:
    """A failed rollout.

    Attributes:
        step: the training step, from 1.
        prompt: the problem's id.
        completion: which of the prompt's completions, from 0.
        task: `Problem.task`.
        question: with `<image>` where each image stands.
        images: what each image is called.
        gold: the reference answer.
        response: what the policy wrote.
        truncated: whether it was cut off at the token limit.
    """

    step: int
    prompt: str
    completion: int
    task: str
    question: str
    images: tuple[str, ...]
    gold: str
    response: str
    truncated: bool

    def __str__(self) -> str:
        return f"step {self.step}, {self.prompt}, completion {self.completion}"


@dataclass(frozen=True)
class StepFailures:
    """The failures of one step: how many there are, and those to be judged (all, or a sample)."""

    step: int
    total: int
    chosen: tuple[Failure, ...]


@dataclass(frozen=True)
class Judgement:
    """What a judge says of a failure; `letter` is the choice of an endpoint judge, None from others."""

    kind: ErrorKind
    why: str
    letter: str | None = None


@dataclass(frozen=True)
class ErrorRecord:
    """One line of `errors.jsonl`: a judged failure."""

    step: int
    prompt: str
    completion: int
    truncated: bool
    kind: ErrorKind
    letter: str | None
    why: str
    judge: str


@dataclass(frozen=True)
class ErrorCounts:
    """One line of `errors.csv`; `step` is None in a total."""

    step: int | None
    failures: int
    planning: int
    execution: int
    discarded: int
    unparsed: int

    @property
    def judged(self) -> int:
        """Failures that were put to the judge."""
        return self.planning + self.execution + self.discarded + self.unparsed

    @property
    def share(self) -> ConfidenceInterval | None:
        """Planning errors among planning and execution errors; None without either."""
        decided = self.planning + self.execution
        if not decided:
            return None
        return wilson_interval(self.planning / decided, decided)


class Judge(Protocol):
    """Says of a failure what kind of error it was; `judge` is called from `concurrency` threads at a time."""

    name: str
    concurrency: int

    def judge(self, failure: Failure) -> Judgement:
        """Judge one failure."""
        ...


class _Generator(Protocol):
    def regenerate(self, problem_id: str, task: str) -> Problem: ...

    def error_kind(self, response: str, problem: Problem) -> Literal["planning", "execution"]: ...

    def check_steps(self, response: str, problem: Problem) -> WrongStep | None: ...


class ExactJudge:
    """Judges generated tasks, whose plans and intermediate values are known, without a model.

    The rule is `error_kind` of the task's module: planning if the plan a response ended with does not lead to the gold
    answer even when carried out perfectly, else execution. A failed response without a wrong value has an answer that
    could not be read, e.g. a box that was cut off: execution.
    """

    name = "exact"
    concurrency = 1

    def judge(self, failure: Failure) -> Judgement:
        """Judge one failure.

        Raises:
            DataError: the problem was not generated, or this version generates another one under its id.
        """
        generator, problem = _generator_of(failure), generated_problem(failure)
        wrong = generator.check_steps(failure.response, problem)
        kind = generator.error_kind(failure.response, problem)
        if kind == "planning":
            why = f"a plan is missing or does not lead to {failure.gold}"
        elif wrong is None:
            why = f"its values lead to {failure.gold}, but the answer could not be read"
        else:
            why = f"its plan leads to {failure.gold}"
        if wrong is not None and wrong.expected != wrong.found:
            found, expected = wrong.found or "missing", wrong.expected or "surplus"
            why += f"; first wrong value: {wrong.plan}, {wrong.name}: {found}, expected {expected}"
        return Judgement(kind, why + ("; cut off" if failure.truncated else ""))


def generated_problem(failure: Failure) -> Problem:
    """Draw the problem of a failure again.

    Raises:
        DataError: it was not generated, or this version generates another one under its id.
    """
    problem = _drawn(_generator_of(failure), failure.prompt, failure.task)
    if (problem.question, problem.answer) != (failure.question, failure.gold):
        raise DataError(
            f"{failure}: this version of mmhicra draws another problem under that id; "
            "use the version that the run was trained with"
        )
    return problem


def is_generated(failure: Failure) -> bool:
    """Whether the problem of a failure can be drawn again."""
    return failure.prompt.split("/")[0] in GENERATORS


def _generator_of(failure: Failure) -> _Generator:
    if not is_generated(failure):
        raise DataError(
            f"{failure}: the exact judge knows generated tasks only ({', '.join(GENERATORS)}); "
            "use --judge URL --model NAME"
        )
    return cast(_Generator, importlib.import_module(GENERATORS[failure.prompt.split("/")[0]]))


@lru_cache(maxsize=256)
def _drawn(generator: _Generator, prompt: str, task: str) -> Problem:
    return generator.regenerate(prompt, task)


def read_failures(
    folder: Path,
    first: int = 1,
    last: int | None = None,
    every: int = 1,
    sample: int | None = None,
    seed: int = 0,
) -> list[StepFailures]:
    """The failed rollouts of a run, by step.

    Args:
        folder: the run folder.
        first: leave out earlier steps.
        last: leave out later steps.
        every: of the remaining steps, take the first and then each `every`-th.
        sample: choose so many failures of a step at most; the choice is a function of `seed` and the step.
        seed: see `sample`.

    Raises:
        RunFolderError: the folder has no rollouts of these steps, or one of its lines is no rollout record.
    """
    files = {files.step: files for files in require_rollouts(folder)}
    steps = [step for step in sorted(files) if first <= step and (last is None or step <= last)][::every]
    if not steps:
        span = f"{min(files)} to {max(files)}"
        raise RunFolderError(f"{folder} has rollouts of steps {span}: choose --steps among them")
    found = []
    for step in steps:
        failures = list(_failures_in(files[step]))
        chosen = failures
        if sample is not None and sample < len(failures):
            picks = sorted(random.Random(f"{seed}/{step}").sample(range(len(failures)), sample))
            chosen = [failures[pick] for pick in picks]
        found.append(StepFailures(step, len(failures), tuple(chosen)))
    return found


def _failures_in(files: StepFiles) -> Iterator[Failure]:
    lines = files.lines(failed_fault)
    try:
        for record in lines:
            if record["reward"]["verdict"] in FAILED:
                yield Failure(
                    step=record["step"],
                    prompt=record["prompt"],
                    completion=record["completion"],
                    task=record["task"],
                    question=record["question"],
                    images=tuple(record["images"]),
                    gold=record["reward"]["gold"],
                    response=record["response"],
                    truncated=record["finish_reason"] == "length",
                )
    except OSError as error:
        raise RunFolderError(f"{error.filename or files.paths[0]} cannot be read ({error.strerror})") from None
    for path, damage in lines.damages:
        raise RunFolderError(
            f"{path}, line {damage.line} is no rollout record ({damage.reason}); "
            "mend it, or leave its step out with --steps"
        )


def judge_failures(
    failures: Sequence[Failure], judge: Judge, on_progress: Callable[[int], None] | None = None
) -> list[ErrorRecord]:
    """Put every failure to a judge, `judge.concurrency` at a time.

    Args:
        failures: what to judge.
        judge: whom to ask; what it raises ends the judging, and what has not begun by then is not asked.
        on_progress: called with the number judged so far.

    Returns:
        One record per failure, in their order.
    """
    judgements: dict[int, Judgement] = {}
    waiting, running = iter(enumerate(failures)), dict[Future[Judgement], int]()
    with ThreadPoolExecutor(judge.concurrency) as pool:
        # One is submitted where one is done: a pool that holds them all would begin more after an error.
        while len(judgements) < len(failures):
            for index, failure in islice(waiting, judge.concurrency - len(running)):
                running[pool.submit(judge.judge, failure)] = index
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                judgements[running.pop(future)] = future.result()
                if on_progress is not None:
                    on_progress(len(judgements))
    return [
        ErrorRecord(
            step=failure.step,
            prompt=failure.prompt,
            completion=failure.completion,
            truncated=failure.truncated,
            kind=judgements[index].kind,
            letter=judgements[index].letter,
            why=judgements[index].why,
            judge=judge.name,
        )
        for index, failure in enumerate(failures)
    ]


def count_errors(failures: Mapping[int, int], records: Iterable[ErrorRecord]) -> list[ErrorCounts]:
    """Count the kinds of error by step.

    Args:
        failures: step -> how many rollouts failed, judged or not.
        records: the judged failures of these steps, in any order.

    Returns:
        One entry per step of `failures`, by step, also where nothing was judged.
    """
    counts = Counter((record.step, record.kind) for record in records)
    return [
        ErrorCounts(
            step=step,
            failures=failures[step],
            planning=counts[step, "planning"],
            execution=counts[step, "execution"],
            discarded=counts[step, "discarded"],
            unparsed=counts[step, "unparsed"],
        )
        for step in sorted(failures)
    ]


def total_of(rows: Sequence[ErrorCounts]) -> ErrorCounts:
    """The sum over steps."""
    return ErrorCounts(
        step=None,
        failures=sum(row.failures for row in rows),
        planning=sum(row.planning for row in rows),
        execution=sum(row.execution for row in rows),
        discarded=sum(row.discarded for row in rows),
        unparsed=sum(row.unparsed for row in rows),
    )


def write_records(path: Path, records: Iterable[ErrorRecord]) -> None:
    """Write `errors.jsonl`, one object per judged failure."""
    lines = [json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")


def write_counts(path: Path, rows: Iterable[ErrorCounts]) -> None:
    """Write `errors.csv`, one line per step; the share and its interval are empty where nothing was decided."""
    heading = ["step", "failures", "judged", "planning", "execution", "discarded", "unparsed"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*heading, "planning_share", "share_low", "share_high"])
        for row in rows:
            share = [f"{value:.4f}" for value in row.share.as_dict().values()] if row.share else ["", "", ""]
            writer.writerow([*(getattr(row, name) for name in heading), *share])


def draw_counts(path: Path, rows: Sequence[ErrorCounts], judge: str) -> None:
    """Draw `errors.png`: counts of both kinds over steps, and the share of planning errors with its interval."""
    from matplotlib.figure import Figure  # never pyplot: it would look for a screen

    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    steps = [row.step or 0 for row in rows]
    above.plot(steps, [row.planning for row in rows], marker="o", color="tab:red", label="planning and strategy")
    above.plot(steps, [row.execution for row in rows], marker="s", color="tab:blue", label="execution and others")
    total = total_of(rows)
    above.set(ylabel="judged failures", title=f"{total.judged} of {total.failures} failures, judge: {judge}")
    above.set_ylim(bottom=0)
    above.legend()
    known = [(row.step or 0, row.share) for row in rows if row.share]
    at, shares = [step for step, _ in known], [share for _, share in known]
    below.plot(at, [share.mean for share in shares], marker="o", color="tab:red", label="share")
    below.vlines(
        at, [s.low for s in shares], [s.high for s in shares], color="tab:red", alpha=0.4, label="95 % interval"
    )
    below.legend()
    below.set(xlabel="training step", ylabel="share of planning errors", ylim=(0, 1))
    below.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=120)
