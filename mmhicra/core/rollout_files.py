"""The rollout files of a run: JSON lines, compressed, one file per step and rank. Whoever reads them does it by this.

    rollouts/step_000001.jsonl.zst            of a run with one process
    rollouts/step_000001.rank_03.jsonl.zst    of process 3 of several
    rollouts/step_000001.jsonl                of a run before there was compression (`.jsonl.gz` if somebody packed it)

Every file is sorted by `place`, so files of several ranks are merged line by line, and the order of a step's records
does not depend on how many ranks there were.
"""

from __future__ import annotations

import heapq
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmhicra.core.compressed import ZSTD, zstd_frame
from mmhicra.core.errors import RunFolderError
from mmhicra.core.files import json_text
from mmhicra.core.run_lines import Damage, Fault, JsonLines
from mmhicra.core.step_names import step_name, step_of

FOLDER = "rollouts"
"""Of them in a run folder."""
UNWRITTEN = "rollout/unwritten"
"""The metric that counts the groups of a step that `log.rollouts_share` leaves out of its files."""
_NAME = re.compile(r"(step_[0-9]+)(\.rank_[0-9]{2,})?\.jsonl(\.zst|\.gz)?")


@dataclass(frozen=True)
class StepFiles:
    """The rollout files of one step, those of all ranks."""

    step: int
    paths: tuple[Path, ...]

    def lines(self, fault: Fault = lambda record: None) -> RolloutLines:
        """Their records, merged; `fault` says what makes one unusable."""
        return RolloutLines(self.paths, fault)


class RolloutLines:
    """The records of one or several rollout files of a step, in the order of `place`; the unusable are left out.

    Raises:
        OSError: while one is read.
    """

    def __init__(self, paths: Sequence[Path], fault: Fault = lambda record: None) -> None:
        self.parts = [JsonLines(path, fault) for path in paths]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (record for _, record in self.located())

    def located(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every record with `file:line`."""
        if len(self.parts) == 1:
            return located(self.parts[0])  # a single file is read as it is: it may be another's than ours
        return heapq.merge(*map(located, self.parts), key=lambda found: place(found[1]))

    @property
    def damages(self) -> list[tuple[Path, Damage]]:
        """What was left out of which file, once all was read."""
        return [(part.path, damage) for part in self.parts if (damage := part.damage)]


def located(lines: JsonLines) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of one file, each with `file:line`."""
    return ((f"{lines.path}:{number}", record) for number, record in lines.numbered())


def place(record: Mapping[str, Any]) -> tuple[bool, bytes, int]:
    """What records of a step are sorted by: kept groups first, then by problem and completion."""
    completion = record.get("completion")
    number = completion if isinstance(completion, int) else 0
    return not record.get("kept", True), id_bytes(str(record.get("prompt"))), number


def id_bytes(problem: str) -> bytes:
    """What ids of problems are sorted by: a lone surrogate, which UTF-8 does not have, as the escape that JSON has."""
    return problem.encode("utf-8", "backslashreplace")


def rollout_name(step: int, rank: int = 0, ranks: int = 1) -> str:
    """What the file is called that `rank` of `ranks` writes after `step`."""
    return f"{step_name(step)}{f'.rank_{rank:02d}' if ranks > 1 else ''}.jsonl{ZSTD}"


def rollout_frame(records: Iterable[Mapping[str, Any]]) -> bytes:
    """The content of a rollout file; equal records give equal bytes."""
    return zstd_frame(b"".join(map(rollout_line, records)))


def rollout_line(record: Mapping[str, Any]) -> bytes:
    """A record as a line of JSON, non-finite floats as null; a lone surrogate becomes the escape that JSON has."""
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)  # three times as fast as looking for them first
    except ValueError:
        text = json_text(record)
    return (text + "\n").encode("utf-8", "backslashreplace")


def own_files(folder: Path, suffix: str = "") -> list[tuple[int, Path]]:
    """Step and path of every rollout file in `folder`, by name; with `suffix` of those that are called so after it."""
    found = [(_NAME.fullmatch(path.name.removesuffix(suffix)), path) for path in sorted(folder.glob(f"step_*{suffix}"))]
    steps = [(step_of(name[1]), path) for name, path in found if name]
    return [(step, path) for step, path in steps if step is not None]


def rollout_steps(folder: Path) -> list[StepFiles]:
    """The rollout files in `folder`, the `rollouts/` of a run, by step; a plain copy beside its file is passed over."""
    steps: dict[int, list[Path]] = {}
    found = own_files(folder)
    names = {path.name for _, path in found}
    for step, path in found:
        if path.name + ZSTD not in names:
            steps.setdefault(step, []).append(path)
    return [StepFiles(step, tuple(paths)) for step, paths in sorted(steps.items())]


def require_rollouts(run: Path) -> list[StepFiles]:
    """As `rollout_steps`, of a run folder.

    Raises:
        RunFolderError: it has none.
    """
    steps = rollout_steps(run / FOLDER)
    if not steps:
        raise RunFolderError(f"{run} has no {FOLDER}/step_*.jsonl.zst (nor .jsonl): name the folder of a run")
    return steps


def sample_notes(metrics: Iterable[Mapping[str, Any]], steps: Sequence[StepFiles]) -> list[str]:
    """What of a run its rollout files do not tell, in sentences; none if they tell of everything.

    Args:
        metrics: the records of `metrics.jsonl`.
        steps: the files that are there.
    """
    there = {files.step for files in steps}
    taken = {step: record for record in metrics if type(step := record.get("step")) is int and step > 0}
    notes = []
    if there and len(there) < len(taken):
        notes.append(
            f"Rollout files are there for {len(there)} of {len(taken)} steps, from {min(there)} to {max(there)} "
            "(log.rollouts_every, log.rollouts_keep)."
        )
    written = [record for step, record in taken.items() if step in there]
    if unwritten := sum(_count(record, UNWRITTEN) for record in written):
        groups = sum(_count(record, f"group/{name}") for record in written for name in ("kept", "dropped"))
        notes.append(
            f"Rollout files hold {groups - unwritten} of {groups} groups of their steps, drawn at random "
            "(log.rollouts_share)."
        )
    return notes


def run_notes(run: Path) -> list[str]:
    """As `sample_notes`, of a run folder; one whose metrics cannot be read has none."""
    try:
        return sample_notes(list(JsonLines(run / "metrics.jsonl")), rollout_steps(run / FOLDER))
    except OSError:
        return []


def _count(record: Mapping[str, Any], name: str) -> int:
    value = record.get(name)
    return round(value) if isinstance(value, int | float) and math.isfinite(value) else 0
