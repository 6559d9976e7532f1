"""A run folder as the page reads it: what is there, and in words what is not."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from mmhicra.config.loading import read_yaml
from mmhicra.core.errors import ConfigError, RunFolderError, one_line
from mmhicra.core.rollout_files import StepFiles, rollout_steps, sample_notes
from mmhicra.core.run_folder import RunFolder
from mmhicra.core.run_lines import Damage, Fault, JsonLines, judged_fault, rollout_fault, step_fault
from mmhicra.data.refused import RefusedRow

RENAMED = {
    "optimiser/grad_norm": "optimizer/grad_norm",
    "optimiser/learning_rate": "optimizer/learning_rate",
    "time/optimiser": "time/optimizer",
}
"""Names of metrics in the runs of the first release candidate, and today's."""
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Share(TypedDict):
    mean: Finite
    low: Finite
    high: Finite


class _HeldOut(TypedDict, total=False):
    before: _Share | None
    after: _Share | None
    change: _Share | None


class _Problems(TypedDict):
    train: int


class _Parameters(TypedDict):
    total: int
    trained: int


class _Summary(TypedDict, total=False):
    """What the page takes from `summary.json`."""

    held_out: _HeldOut | None
    seconds_by_phase: dict[str, Finite] | None
    problems: _Problems | None
    parameters: _Parameters | None
    alpha: Finite | None
    wall_seconds: Finite | None
    versions: dict[str, Any] | None
    advice: list[str]


_SUMMARY = TypeAdapter(_Summary)
_REFUSED = TypeAdapter(RefusedRow)


@dataclass
class RunData:
    """One run, as far as its folder tells.

    Attributes:
        name: for people; in a lab `method, seed N`.
        folder: where it lies.
        config: the resolved configuration, empty if there is none.
        metrics: one object per step, step 0 the evaluation before training; finite numbers only.
        summary: empty while a run goes on, and after a kill.
        refused: the rows that could not be used, as `refused.jsonl` has them.
        missing: a sentence for everything that a page could show and this folder does not have.
    """

    name: str
    folder: RunFolder
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    refused: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def method(self) -> str:
        """Its credit method, or what its folder is called in a lab."""
        lab = self.folder.path.parent
        if lab.parent.name == "runs" and self.folder.path.name.startswith("seed_"):
            return lab.name
        return self.setting("credit", "method") or self.name

    @property
    def steps(self) -> int:
        """The last step that its metrics tell of."""
        return max((record["step"] for record in self.metrics), default=0)

    def setting(self, section: str, name: str) -> Any:
        """One field of the configuration, None if it is not there."""
        fields = self.config.get(section)
        return fields.get(name) if isinstance(fields, dict) else None

    def rollout_files(self) -> list[StepFiles]:
        """Those of each step, in order; files of another name are not ours."""
        return rollout_steps(self.folder.rollouts)


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The run folders among `paths`; a lab's folder stands for all of its runs.

    Raises:
        RunFolderError: a path is no folder, or holds neither a run nor a lab.
    """
    found: list[Path] = []
    for path in paths:
        lab = sorted(config.parent for config in path.glob("runs/*/seed_*/config.yaml"))
        if (path / "config.yaml").is_file() or (path / "metrics.jsonl").is_file():
            found.append(path)
        elif lab:
            found += lab
        else:
            raise RunFolderError(
                f"{path} holds no run (no config.yaml, no metrics.jsonl): name the folder that `mmhicra train` wrote"
            )
    return found


def read_run(path: Path) -> RunData:
    """Read a run folder. What is missing, damaged or cut off is left out and said in `missing`, never raised."""
    folder = RunFolder(path)
    name = f"{path.parent.name}, {path.name.replace('_', ' ')}" if path.name.startswith("seed_") else path.name
    run = RunData(name, folder)
    _read_config(run)
    metrics = _lines(folder.metrics, run.missing, step_fault)
    run.metrics = [
        {RENAMED.get(name, name): value for name, value in line.items() if _is_number(value)} for line in metrics
    ]
    if not run.metrics:
        run.missing.append("metrics.jsonl is missing or empty: no step was finished, there are no curves.")
    elif run.steps <= 1:
        run.missing.append("There is only one step: curves are single points.")
    _read_summary(run)
    if not any("eval/accuracy" in record for record in run.metrics):
        run.missing.append("The run has no evaluation (eval.problems: 0): there is no held-out accuracy.")
    files = run.rollout_files()
    if not files:
        run.missing.append("There are no rollout files (log.rollouts_every: 0, or no step was finished).")
    run.missing += sample_notes(run.metrics, files)
    run.refused = _lines(folder.refused, run.missing, _refused_fault)
    if not (path / "errors.jsonl").is_file():
        run.missing.append(f"Errors are not analysed: run `mmhicra errors {path}` and then the report again.")
    return run


def read_errors(run: RunData) -> dict[tuple[int, str, int], dict[str, Any]]:
    """What `mmhicra errors` said, by step, prompt and completion."""
    records = _lines(run.folder.path / "errors.jsonl", run.missing, judged_fault)
    return {(record["step"], record["prompt"], record["completion"]): record for record in records}


def read_rollouts(files: StepFiles, missing: list[str]) -> list[dict[str, Any]]:
    """The records of the rollout files of a step, in the order of `rollout_files.place`."""

    def fault(record: dict[str, Any]) -> str | None:
        return rollout_fault(record) or (None if record["step"] == files.step else f"step is {record['step']}")

    files = StepFiles(files.step, tuple(path for path in files.paths if path.is_file()))
    lines = files.lines(fault)
    try:
        records = list(lines)
    except OSError as error:
        name = Path(error.filename or files.paths[0]).name
        missing.append(f"{name} cannot be read ({error.strerror}) and its step is left out.")
        return []
    missing += [_damage_text(path, damage) for path, damage in lines.damages]
    return records


def _read_config(run: RunData) -> None:
    if not run.folder.config.is_file():
        run.missing.append("config.yaml is missing: what was trained, on what and how, is not known.")
        return
    try:
        run.config_text = run.folder.config.read_bytes().decode(errors="replace")
        run.config = read_yaml(run.folder.config)
    except (OSError, ConfigError) as error:
        run.missing.append(f"config.yaml is damaged, what was trained and how is not known: {one_line(str(error))}.")


def _read_summary(run: RunData) -> None:
    """The summary without the parts of it that are damaged."""
    if not run.folder.summary.is_file():
        planned = run.setting("train", "steps") or "an unknown number of"
        run.missing.append(
            f"summary.json is missing: the run is still going or was killed, after step {run.steps} of {planned}."
        )
        return
    try:
        summary = json.loads(run.folder.summary.read_text(encoding="utf-8"))
        if not isinstance(summary, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        run.missing.append(f"summary.json is damaged and left out: {one_line(str(error), 160)}.")
        return
    try:
        _SUMMARY.validate_python(summary, strict=True)
    except ValidationError as error:
        odd = sorted({str(detail["loc"][0]) for detail in error.errors(include_url=False)})
        run.missing.append(f"summary.json is damaged in {', '.join(odd)}, which is left out.")
        summary = {name: value for name, value in summary.items() if name not in odd}
    run.summary = summary


def _refused_fault(record: dict[str, Any]) -> str | None:
    try:
        _REFUSED.validate_python(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300 and math.isfinite(value)


def _lines(path: Path, missing: list[str], fault: Fault) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file, none if there is no file; what is left out is said in `missing`."""
    if not path.is_file():
        return []
    lines = JsonLines(path, fault)
    try:
        records = list(lines)
    except OSError as error:
        missing.append(f"{path.name} cannot be read ({error.strerror}) and is left out.")
        return []
    if damage := lines.damage:
        missing.append(_damage_text(path, damage))
    return records


def _damage_text(path: Path, damage: Damage) -> str:
    if damage.cut:
        return f"The last line of {path.name} was cut off and is left out."
    what = f"{damage.count} lines of {path.name} are" if damage.count > 1 else f"A line of {path.name} is"
    first = "the first, line" if damage.count > 1 else "line"
    return f"{what} damaged and left out ({first} {damage.line}: {damage.reason})."
