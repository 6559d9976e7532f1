"""The folder of one run: where its configuration, metrics, rollouts, checkpoints and summary lie.

config.yaml  refused.jsonl  filtered.jsonl  metrics.jsonl  summary.json  rollouts/step_000001.jsonl.zst  tensorboard/
evaluations/step_000050/   what the benchmarks gave
checkpoints/step_000050/   a Hugging Face folder, with `trainer_state/` in it
weights/step_000025/       a Hugging Face folder, or adapters, alone

Beside it, in RUN.logs/rank_0.log, ...: what each process said, with its tracebacks. That tells of days and machines;
the run folder itself holds what configuration, seed and data make, and is compared to the bit (but for times). In
RUN.replies/: what judges replied, in the order in which the network brought it (`rewards.replies`).

Only what is named like this is read, replaced or removed; whatever else lies there stays as it is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmhicra.core.errors import RunFolderError
from mmhicra.core.files import PARTIAL, append_line, free_name, json_text, jsonable, sync_folder, write_whole, writing
from mmhicra.core.manifest import remove_listed
from mmhicra.core.rollout_files import FOLDER, own_files, rollout_frame, rollout_name
from mmhicra.core.step_names import step_name, step_of, steps_in

LOGS, REPLIES = ".logs", ".replies"
"""Suffixes of the folders beside a run's, of its log files and of what its judges replied."""
OLD, REPLACED, DAMAGED = ".old", ".replaced", ".damaged"
"""Suffixes of what is being removed or was moved aside, of a checkpoint while another takes its name, and of one that
cannot be used."""

EVALUATION_FILES = ("*.responses.jsonl", "*.samples.jsonl", "*.json", f"*{PARTIAL}")


class RunFolder:
    """Names and writes what lies in a run folder; on several ranks only the main one writes, but for rollouts."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self.refused = self.path / "refused.jsonl"
        self.filtered = self.path / "filtered.jsonl"
        self.trackers = self.path / "trackers.json"
        self.rollouts = self.path / FOLDER
        self.evaluations = self.path / "evaluations"
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / "weights"
        self.tensorboard = self.path / "tensorboard"

    @property
    def logs(self) -> Path:
        """The folder of the processes' log files, beside the run folder."""
        path = self.path.resolve()
        return path.with_name(path.name + LOGS)

    @property
    def replies(self) -> Path:
        """The folder of what judges replied, beside the run folder."""
        path = self.path.resolve()
        return path.with_name(path.name + REPLIES)

    def log(self, rank: int) -> Path:
        """The log file of one process."""
        return self.logs / f"rank_{rank}.log"

    @property
    def best(self) -> Path:
        """Says which checkpoint belongs to the best evaluation so far."""
        return self.checkpoints / "best.json"

    def holds_run(self) -> bool:
        """Whether a run has left results here; a run that was refused before it started has not."""
        return self.metrics.exists() or self.checkpoints.exists()

    def make(self) -> None:
        """Make the folder itself.

        Raises:
            RunFolderError: it cannot be made.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def own_entries(self) -> list[Path]:
        """All that a run and the commands that read it write here, the configuration first."""
        files = [self.config, self.metrics, self.summary, self.refused, self.filtered]
        files += [self.trackers, self.path / "report.html"]
        files += [*sorted(self.path.glob("errors.*")), self.path / "judge_cache.jsonl"]
        folders = [self.rollouts, self.evaluations, self.checkpoints, self.weights, self.tensorboard]
        return [path for path in (*files, *folders) if path.exists()]

    def set_aside(self) -> Path | None:
        """Move the run that is here to a folder beside this one, `RUN.old`, `RUN.old2`, ...; None if there is none.

        It is gathered under another name first, so a kill never leaves a run in two places: the next call goes on.

        Raises:
            RunFolderError: it cannot be moved.
        """
        with writing(self.path):
            for entry in self.own_entries():
                self._gathered.mkdir(exist_ok=True)
                entry.rename(self._gathered / entry.name)
        return self.finish_setting_aside()

    def finish_setting_aside(self) -> Path | None:
        """Give what `set_aside` has gathered its name; None if nothing is gathered."""
        if not self._gathered.exists():
            return None
        with writing(self.path):
            aside = self._gathered.rename(free_name(self.path.resolve(), OLD))
            for folder, suffix in ((self.logs, LOGS), (self.replies, REPLIES)):
                if folder.is_dir():
                    folder.rename(free_name(aside, suffix))
            sync_folder(aside.parent)
        return aside

    @property
    def _gathered(self) -> Path:
        path = self.path.resolve()
        return path.with_name(path.name + OLD + PARTIAL)

    def write_config(self, config_text: str) -> None:
        """Write `config.yaml`, unless it says just this."""
        try:
            if self.config.read_text(encoding="utf-8") == config_text:
                return
        except (OSError, UnicodeDecodeError):
            pass  # missing or damaged: it is written
        write_whole(self.config, config_text)

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of `step` lies."""
        return self.checkpoints / step_name(step)

    def weights_of(self, step: int) -> Path:
        """Where the weights alone of `step` lie."""
        return self.weights / step_name(step)

    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint, None before the first; whether it is whole, `manifest.damage` says."""
        return max(((step, path) for step, path in steps_in(self.checkpoints) if path.is_dir()), default=(0, None))[1]

    def keep_checkpoint(self, partial: Path, final: Path) -> None:
        """Give a finished checkpoint its name; one that had it before is removed after that."""
        before = final.with_name(final.name + REPLACED) if final.exists() else None
        if before is not None:
            final.rename(before)
        partial.rename(final)
        sync_folder(final.parent)
        if before is not None:
            remove_listed(before)

    def prune_checkpoints(self, keep: int, best: int | None) -> None:
        """Remove all but the newest `keep` checkpoints and the `best` one; what others put in them stays in `.old`."""
        for step, path in steps_in(self.checkpoints)[:-keep]:
            if step != best:
                drop(path)

    def prune_weights(self, keep: int) -> None:
        """Remove all but the newest `keep` folders of weights alone; as `prune_checkpoints`."""
        for _, path in steps_in(self.weights)[:-keep]:
            drop(path)

    def make_room(self, size: int, limit: int, best: int | None) -> int:
        """Remove the oldest checkpoints and folders of weights until `size` bytes more make no more than `limit`.

        The newest checkpoint and the `best` one stay.

        Returns:
            The bytes of what is left.
        """
        checkpoints = steps_in(self.checkpoints)
        free = [each for each in checkpoints[:-1] if each[0] != best]
        left = sum(bytes_in(path) for _, path in (*checkpoints, *steps_in(self.weights)))
        for _, path in sorted([*steps_in(self.weights), *free]):
            if left + size <= limit:
                break
            left -= bytes_in(path)
            drop(path)
        return left

    def evaluation(self, step: int) -> Path:
        """Where the results of the benchmarks after `step` lie."""
        return self.evaluations / step_name(step)

    def write_best(self, best: Mapping[str, Any]) -> None:
        """Write `best.json`: step, metric, value, and the checkpoint's folder."""
        write_whole(self.best, json_text({**best, "checkpoint": step_name(best["step"])}, indent=1) + "\n")

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """One more line in `metrics.jsonl`."""
        append_line(self.metrics, json.dumps(jsonable(record)))

    def write_rollouts(self, step: int, records: Iterable[Mapping[str, Any]], rank: int = 0, ranks: int = 1) -> None:
        """The file of this rank: one JSON line per completion of `step`, sorted by `rollout_files.place`."""
        with writing(self.rollouts):
            self.rollouts.mkdir(exist_ok=True)
        write_whole(self.rollouts / rollout_name(step, rank, ranks), rollout_frame(records))

    def prune_rollouts(self, keep: int) -> None:
        """Remove the rollout files of all but the newest `keep` steps that have some."""
        with writing(self.rollouts):
            files = own_files(self.rollouts)
            newest = sorted({step for step, _ in files})[-keep:]
            for step, file in files:
                if step < newest[0]:
                    file.unlink()

    def write_filtered(self, problems: Iterable[Mapping[str, Any]]) -> None:
        """Write `filtered.jsonl`: one JSON line per problem that the curriculum leaves out now."""
        write_whole(self.filtered, "".join(json_text(problem) + "\n" for problem in problems))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        write_whole(self.summary, json_text(summary, indent=2) + "\n")

    def tracker_identity(self, tracker: str) -> str | None:
        """What a tracker knows this run by, kept in `trackers.json` from its first start on; None before."""
        return self._tracker_identities().get(tracker)

    def keep_tracker_identity(self, tracker: str, identity: str) -> str:
        """Keep what a tracker knows this run by; returns it."""
        write_whole(self.trackers, json_text(self._tracker_identities() | {tracker: identity}, indent=1) + "\n")
        return identity

    def _tracker_identities(self) -> dict[str, str]:
        try:
            known = json.loads(self.trackers.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        return {name: value for name, value in known.items() if isinstance(value, str)} if type(known) is dict else {}

    def recorded_steps(self) -> dict[int, bytes]:
        """The line of `metrics.jsonl` of each step; one that a kill cut off at the end is left out.

        Raises:
            RunFolderError: another line is damaged.
        """
        lines = [line for line in enumerate(self._metrics_bytes().split(b"\n"), start=1) if line[1].strip()]
        found: dict[int, bytes] = {}
        for number, line in lines:
            step = step_recorded(line)
            if step is not None:
                found[step] = line
            elif (number, line) != lines[-1]:
                raise RunFolderError(
                    f"{self.metrics}, line {number} is damaged: restore the file, or take the line out and resume again"
                )
        return found

    def _metrics_bytes(self) -> bytes:
        try:
            return self.metrics.read_bytes() if self.metrics.exists() else b""
        except OSError as error:
            raise RunFolderError(f"cannot read {self.metrics}: {error.strerror}; mend or remove it") from None

    def rewind(self, step: int) -> list[int]:
        """Drop what was written after `step`: a resumed run writes it again, to the same values.

        Returns:
            The steps up to there that `metrics.jsonl` does not tell of.

        Raises:
            RunFolderError: `metrics.jsonl` is damaged, or something cannot be written.
        """
        recorded = self.recorded_steps()
        kept = b"".join(line + b"\n" for number, line in recorded.items() if number <= step)
        if self.metrics.exists() and kept != self._metrics_bytes():
            write_whole(self.metrics, kept)
        with writing(self.path):
            for number, file in own_files(self.rollouts):
                if number > step and file.is_file():
                    file.unlink()
            for number, folder in steps_in(self.evaluations):
                if number > step and folder.is_dir():
                    remove_evaluation(folder)
            for number, folder in steps_in(self.weights):
                if number > step:
                    drop(folder)
        return [number for number in range(1, step + 1) if number not in recorded]

    def sweep(self) -> None:
        """Remove what a kill left unfinished: `.partial` files and checkpoints, and those being removed."""
        with writing(self.path):
            written = (self.config, self.metrics, self.summary, self.refused, self.filtered, self.trackers, self.best)
            for file in written:
                file.with_name(file.name + PARTIAL).unlink(missing_ok=True)
            for _, file in own_files(self.rollouts, PARTIAL):
                file.unlink()
        self.sweep_checkpoints()

    def sweep_checkpoints(self) -> None:
        """Remove unfinished checkpoints, and those being removed."""
        with writing(self.checkpoints):
            for _, folder in steps_in(self.checkpoints, PARTIAL):
                shutil.rmtree(folder)
            for _, folder in steps_in(self.weights, PARTIAL):
                shutil.rmtree(folder)
            for _, folder in steps_in(self.weights, REPLACED):
                remove_listed(folder)
            for step, folder in steps_in(self.checkpoints, REPLACED):
                if self.checkpoint(step).exists():
                    remove_listed(folder)
                else:  # a kill came before the other one had the name
                    folder.rename(self.checkpoint(step))
            for folder in (*self.checkpoints.glob(f"step_*{OLD}*"), *self.weights.glob(f"step_*{OLD}*")):
                if step_of(folder.name.partition(OLD)[0]) is not None and folder.is_dir():
                    remove_listed(folder)


def drop(folder: Path) -> None:
    """Remove a checkpoint or a folder of weights, under another name first; what others put in it stays in `.old`."""
    if folder.is_dir() and not folder.is_symlink():
        remove_listed(folder.rename(free_name(folder, OLD)))


def bytes_in(folder: Path) -> int:
    """What the files below `folder` take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def step_recorded(line: bytes) -> int | None:
    """The step that a line of `metrics.jsonl` tells of, None if it is damaged."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int and step >= 0 else None


def remove_evaluation(folder: Path) -> None:
    """Remove the results of one evaluation, and its folder if nothing else lies there."""
    for pattern in EVALUATION_FILES:
        for file in folder.glob(pattern):
            file.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
