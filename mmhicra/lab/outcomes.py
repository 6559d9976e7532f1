"""What one run of the lab came to, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from mmhicra.analysis.errors import ExactJudge, judge_failures, read_failures
from mmhicra.core.errors import brief, one_line
from mmhicra.core.rollout_files import StepFiles, rollout_steps
from mmhicra.core.run_lines import Fault, step_fault
from mmhicra.lab.runs import LabError, LabRun

LATE_SHARE = 0.1
"""The last tenth of the steps is "late"."""

ERRORS_EVERY = 5
"""Errors are judged in every fifth step."""

LATE: dict[str, str] = {
    "late_accuracy": "accuracy/mean",
    "token_entropy": "entropy/all",
    "planning_entropy": "entropy/planning",
    "execution_entropy": "entropy/execution",
    "semantic_entropy": "planning/semantic_entropy",
    "planning_density": "planning/density",
    "grams": "planning/matches_per_response",
    "length": "response/length",
    "alpha": "hicra/alpha",
}
"""Outcome -> metric, as means over the late steps."""


Finite = Annotated[float, Field(allow_inf_nan=False)]


@with_config(ConfigDict(extra="allow"))
class _Share(TypedDict):
    mean: Finite


@with_config(ConfigDict(extra="allow"))
class _HeldOut(TypedDict):
    before: _Share | None
    after: _Share | None


class _Summary(TypedDict):
    """What is taken from `summary.json`."""

    held_out: _HeldOut
    seconds_by_phase: dict[str, Finite]


_SUMMARY = TypeAdapter(_Summary)


@dataclass(frozen=True)
class Outcome:
    """One run in numbers.

    Attributes:
        numbers: `before` and `after` (held-out accuracy), `learning` (mean rollout accuracy over all steps: the area
            under the curve), those of `LATE`, `planning_errors` and `execution_errors` (per 100 late rollouts),
            `minutes`.
        curve: metrics by step.
        start: what must be equal for all methods of a seed: the held-out results before training and the problems of
            every step.
    """

    method: str
    seed: int
    numbers: Mapping[str, float]
    curve: Sequence[Mapping[str, float]]
    start: Any


def read_outcome(run: LabRun) -> Outcome:
    """Read a finished run.

    Raises:
        LabError: the run is not finished, was not evaluated, or one of its files is damaged.
    """
    if not run.finished():
        raise LabError(f"{run.name} is not finished: run the lab again to go on with it")
    summary = read_summary(run)
    steps = [line for line in read_lines(run, run.folder.metrics, metrics_fault) if line["step"] > 0]
    if [step["step"] for step in steps] != list(range(1, run.steps + 1)):
        raise damaged(run, run.folder.metrics, f"it does not tell of the steps 1 to {run.steps}")
    held_out = summary["held_out"]
    if not held_out["before"] or not held_out["after"]:
        raise LabError(f"{run.name} was not evaluated: set eval.problems above 0")
    spent = summary["seconds_by_phase"]
    if "step" not in spent:
        raise damaged(run, run.folder.summary, "seconds_by_phase has no step")
    late = steps[-max(1, round(LATE_SHARE * len(steps))) :]
    errors = error_curve(run, [step["step"] for step in steps if step["step"] % ERRORS_EVERY == 0])
    late_errors = [counts for step, counts in errors.items() if step >= late[0]["step"]]
    numbers = {
        "before": held_out["before"]["mean"],
        "after": held_out["after"]["mean"],
        "learning": fmean(step["accuracy/mean"] for step in steps),
        **late_means(late),
        **{name: fmean(counts[name] for counts in late_errors) for name in (late_errors or [{}])[0]},
        "minutes": (spent["step"] + spent.get("evaluation", 0.0)) / 60,
    }
    curve = [{**step, **errors.get(step["step"], {})} for step in steps]
    return Outcome(run.method, run.seed, numbers, curve, (held_out["before"], problems_by_step(run)))


def read_summary(run: LabRun) -> _Summary:
    """`summary.json`. Raises LabError if it is damaged."""
    try:
        content = json.loads(run.folder.summary.read_bytes())
        return _SUMMARY.validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = f"{'.'.join(map(str, first['loc'])) or 'it'} is {brief(first['input'], 40)}"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except (ValueError, RecursionError) as error:
        reason = one_line(str(error), 100)
    raise damaged(run, run.folder.summary, reason)


def read_lines(run: LabRun, file: Path, fault: Fault) -> list[dict[str, Any]]:
    """All objects of a file with a JSON object a line. Raises LabError if one is damaged."""
    return read_rollouts(run, StepFiles(0, (file,)), fault)


def read_rollouts(run: LabRun, files: StepFiles, fault: Fault) -> list[dict[str, Any]]:
    """All records of a step. Raises LabError if one is damaged."""
    lines = files.lines(fault)
    try:
        records = list(lines)
    except OSError as error:
        raise damaged(run, error.filename or files.paths[0], error.strerror or type(error).__name__) from None
    for path, damage in lines.damages:
        raise damaged(run, path, f"line {damage.line}: {damage.reason}")
    return records


def damaged(run: LabRun, file: str | Path, reason: str) -> LabError:
    """What is said of a file that cannot be used: a comparison without it would be another one."""
    return LabError(
        f"{run.name}: {file} is damaged ({reason}): restore it, or remove {run.folder.path} and run the lab again, "
        "which trains this run anew"
    )


def metrics_fault(record: dict[str, Any]) -> str | None:
    """What is wrong with a line of `metrics.jsonl` for a comparison."""
    needed = ["accuracy/mean"] if (record.get("step") or 0) != 0 else []
    wrong = [
        name
        for name in (*needed, *LATE.values())
        if name in (*needed, *record) and type(record.get(name)) not in (int, float)
    ]
    return step_fault(record) or (f"{wrong[0]} is {brief(record.get(wrong[0]), 40)}" if wrong else None)


def late_means(late: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The outcomes of `LATE`; a step in which nothing was trained has no token entropy and does not count for it."""
    values = {name: [step[metric] for step in late if metric in step] for name, metric in LATE.items()}
    return {name: fmean(some) for name, some in values.items() if some}


def error_curve(run: LabRun, steps: Sequence[int]) -> dict[int, dict[str, float]]:
    """Planning and execution errors per 100 rollouts, by step, as the exact judge has them; only where files are."""
    curve = {}
    for files in rollout_steps(run.folder.rollouts):
        if files.step in steps:
            count = len(read_rollouts(run, files, prompt_fault))
            (failures,) = read_failures(run.folder.path, first=files.step, last=files.step)
            kinds = [record.kind for record in judge_failures(failures.chosen, ExactJudge())]
            curve[files.step] = {
                f"{kind}_errors": 100 * kinds.count(kind) / count for kind in ("planning", "execution")
            }
    return curve


def problems_by_step(run: LabRun) -> list[list[str]]:
    """The problems that were rolled out, by step."""
    steps = []
    for files in rollout_steps(run.folder.rollouts):
        steps.append(sorted({record["prompt"] for record in read_rollouts(run, files, prompt_fault)}))
    return steps


def prompt_fault(record: dict[str, Any]) -> str | None:
    """What is wrong with a line of a rollout file for a comparison."""
    return None if isinstance(record.get("prompt"), str) else "no prompt"


def refuse_unequal_starts(outcomes: Sequence[Outcome]) -> None:
    """Raise LabError unless all methods of a seed began alike and saw the same problems in every step."""
    first: dict[int, Outcome] = {}
    for outcome in outcomes:
        other = first.setdefault(outcome.seed, outcome)
        if outcome.start != other.start:
            raise LabError(
                f"seed {outcome.seed}: {outcome.method} and {other.method} did not start alike or saw other problems: "
                "a method may not change the model, the data or the seed"
            )
