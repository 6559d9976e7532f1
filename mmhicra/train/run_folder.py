"""The run folder: where a run's configuration, metrics, rollouts, checkpoints and summary lie.

config.yaml  refused.jsonl  metrics.jsonl  summary.json  rollouts/step_000001.jsonl  tensorboard/
evaluations/step_000050/   what the benchmarks gave
checkpoints/step_000050/   a Hugging Face folder, with `trainer_state/` in it
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmhicra.refusals import RunFolderRefusal

PARTIAL = ".partial"
"""Suffix of a checkpoint that is being written; one left behind by a kill is thrown away."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write (no permission, full disk) into one line that names the path.

    torch and safetensors wrap the system's error in their own classes, so those are looked through.

    Raises:
        RunFolderRefusal: the write failed for a reason that lies outside the program.
    """
    try:
        yield
    except OSError as error:
        raise RunFolderRefusal(
            f"cannot write {path}: {error.strerror or error}; free or choose another run_folder"
        ) from error
    except Exception as error:
        if not any(sign in str(error) for sign in ("os error", "PytorchStreamWriter", "No space left")):
            raise
        reason = "No space left on device" if "space" in str(error) or "Writer" in str(error) else str(error)
        raise RunFolderRefusal(f"cannot write {path}: {reason}; free or choose another run_folder") from error


class RunFolder:
    """Names and writes what lies in a run folder; on several ranks only the main one writes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self.refused = self.path / "refused.jsonl"
        self.rollouts = self.path / "rollouts"
        self.evaluations = self.path / "evaluations"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"

    def holds_run(self) -> bool:
        """Whether a run has left results here; one that was refused at the door has not."""
        return self.metrics.exists() or self.checkpoints.exists()

    def create(self, config_text: str, *, overwrite: bool) -> None:
        """Make the folder and write the resolved configuration.

        Raises:
            RunFolderRefusal: it holds a run already and `overwrite` is off, or it cannot be written.
        """
        if self.holds_run() and not overwrite:
            raise RunFolderRefusal(
                f"{self.path} already holds a run: add --resume to continue it, --overwrite to replace it, "
                "or choose another --set run_folder=..."
            )
        with writing(self.path):
            if self.holds_run():
                self._clear()
            self.path.mkdir(parents=True, exist_ok=True)
        self.write_config(config_text)

    def write_config(self, config_text: str) -> None:
        """Write `config.yaml`."""
        with writing(self.config):
            self.config.write_text(config_text, encoding="utf-8")

    def _clear(self) -> None:
        own = (self.config, self.metrics, self.summary, self.refused)
        for file in (*own, *self.path.glob("errors.*"), *self.path.glob("judge_cache.jsonl")):
            file.unlink(missing_ok=True)
        for folder in (self.rollouts, self.evaluations, self.checkpoints, self.tensorboard):
            if folder.exists():
                shutil.rmtree(folder)

    def latest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, None before the first."""
        complete = [p for p in self.checkpoints.glob("step_*") if p.suffix != PARTIAL]
        return max(complete, default=None)

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of `step` lies."""
        return self.checkpoints / f"step_{step:06d}"

    @property
    def best(self) -> Path:
        """Says which checkpoint belongs to the best evaluation so far."""
        return self.checkpoints / "best.json"

    def write_best(self, best: Mapping[str, Any]) -> None:
        """Write `best.json`: step, metric, value, and the checkpoint's folder."""
        with writing(self.best):
            named = {**best, "checkpoint": self.checkpoint(best["step"]).name}
            self.best.write_text(json.dumps(jsonable(named), indent=1) + "\n", encoding="utf-8")

    def evaluation(self, step: int) -> Path:
        """Where the results of the benchmarks after `step` lie."""
        return self.evaluations / f"step_{step:06d}"

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """One more line in `metrics.jsonl`."""
        with writing(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(jsonable(record)) + "\n")

    def rewind(self, step: int) -> None:
        """Drop what was written after `step`: a resumed run writes it again, to the same values."""
        if self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            with writing(self.metrics):
                self.metrics.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        for file in self.rollouts.glob("step_*.jsonl"):
            if int(file.stem.removeprefix("step_")) > step:
                file.unlink()
        for folder in self.evaluations.glob("step_*"):
            if int(folder.name.removeprefix("step_")) > step:
                shutil.rmtree(folder)

    def write_rollouts(self, step: int, records: Iterable[Mapping[str, Any]]) -> None:
        """One JSON line per completion of `step`."""
        path = self.rollouts / f"step_{step:06d}.jsonl"
        with writing(path):
            self.rollouts.mkdir(exist_ok=True)
            text = "".join(json.dumps(jsonable(record), ensure_ascii=False) + "\n" for record in records)
            path.write_text(text, encoding="utf-8")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        with writing(self.summary):
            self.summary.write_text(json.dumps(jsonable(summary), indent=2) + "\n", encoding="utf-8")


def jsonable(value: Any) -> Any:
    """`value` with non-finite floats as None, which JSON can say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value
