"""A run folder as the page reads it: what is there, and in words what is not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmhicra.config_loading import read_yaml
from mmhicra.refusals import RunFolderRefusal
from mmhicra.train.run_folder import RunFolder


@dataclass
class RunData:
    """One run, as far as its folder tells.

    Attributes:
        name: for people; in a lab `method, seed N`.
        folder: where it lies.
        config: the resolved configuration, empty if there is none.
        metrics: one object per step, step 0 the evaluation before training.
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
        return (self.config.get(section) or {}).get(name)

    def rollout_files(self) -> list[tuple[int, Path]]:
        """Step and file, in order."""
        files = self.folder.rollouts.glob("step_*.jsonl")
        return sorted((int(path.stem.removeprefix("step_")), path) for path in files)


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The run folders among `paths`; a lab's folder stands for all of its runs.

    Raises:
        RunFolderRefusal: a path is no folder, or holds neither a run nor a lab.
    """
    found: list[Path] = []
    for path in paths:
        lab = sorted(config.parent for config in path.glob("runs/*/seed_*/config.yaml"))
        if (path / "config.yaml").is_file() or (path / "metrics.jsonl").is_file():
            found.append(path)
        elif lab:
            found += lab
        else:
            raise RunFolderRefusal(
                f"{path} holds no run (no config.yaml, no metrics.jsonl): name the folder that `mmhicra train` wrote"
            )
    return found


def read_run(path: Path) -> RunData:
    """Read a run folder. A file that is missing or whose last line was cut off is said, not raised.

    Raises:
        RunFolderRefusal: a line before the last is no JSON object.
        ConfigRefusal: `config.yaml` is not YAML.
    """
    folder = RunFolder(path)
    name = f"{path.parent.name}, {path.name.replace('_', ' ')}" if path.name.startswith("seed_") else path.name
    run = RunData(name, folder)
    if folder.config.is_file():
        run.config, run.config_text = read_yaml(folder.config), folder.config.read_text(encoding="utf-8")
    else:
        run.missing.append("config.yaml is missing: what was trained, on what and how, is not known.")
    run.metrics = list(_lines(folder.metrics, run.missing))
    if not run.metrics:
        run.missing.append("metrics.jsonl is missing or empty: no step was finished, there are no curves.")
    elif run.steps <= 1:
        run.missing.append("There is only one step: curves are single points.")
    if folder.summary.is_file():
        run.summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    else:
        planned = run.setting("train", "steps") or "an unknown number of"
        run.missing.append(
            f"summary.json is missing: the run is still going or was killed, after step {run.steps} of {planned}."
        )
    if not any("eval/accuracy" in record for record in run.metrics):
        run.missing.append("The run has no evaluation (eval.problems: 0): there is no held-out accuracy.")
    if not run.rollout_files():
        run.missing.append("There are no rollout files (log.rollouts_every: 0, or no step was finished).")
    run.refused = list(_lines(folder.refused, run.missing))
    if not (path / "errors.jsonl").is_file():
        run.missing.append(f"Errors are not analysed: run `mmhicra errors {path}` and then the report again.")
    return run


def read_errors(run: RunData) -> dict[tuple[int, str, int], dict[str, Any]]:
    """What `mmhicra errors` said, by step, prompt and completion."""
    records = _lines(run.folder.path / "errors.jsonl", run.missing)
    return {(record["step"], record["prompt"], record["completion"]): record for record in records}


def read_rollouts(path: Path, missing: list[str]) -> list[dict[str, Any]]:
    """The records of one rollout file."""
    return list(_lines(path, missing))


def _lines(path: Path, missing: list[str]) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file; a last line cut off by a kill is listed in `missing`."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                missing.append(f"The last line of {path.name} was cut off and is left out.")
                return
            raise RunFolderRefusal(f"{path}:{number}: not JSON ({error}): mend or remove the line") from None
        if not isinstance(record, dict):
            raise RunFolderRefusal(f"{path}:{number}: not a JSON object: mend or remove the line")
        yield record
