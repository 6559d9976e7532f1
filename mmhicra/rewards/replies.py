"""A judge's replies on disk, with the step that each was first asked for: a run that goes on asks nothing twice.

They lie beside the run folder, `RUN.replies/JUDGE.0.jsonl`, a file for each rank, because the order of their lines
tells of the network. What a step counts as asked, from the cache or not, is told from the steps of the lines, so that a
run that was killed and went on says the same of its cost as one that was not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmhicra.core.endpoint import Reply, ReplyCache
from mmhicra.core.errors import RunFolderError
from mmhicra.core.files import writing


class StepCache(ReplyCache):
    """Replies of one judge, of which a step sees its own and those of the steps before it, on whatever rank.

    Nothing is written before `begin_step`: until then the run that is in the folder may be another one, which is about
    to be moved aside.

    Args:
        folder: of the replies; None keeps them in memory.
        name: of the judge.
        rank: of this process.

    Raises:
        RunFolderError: a line of a file is no reply, or a file cannot be read.
    """

    def __init__(self, folder: Path | None, name: str, rank: int = 0) -> None:
        self.folder = folder
        self.name = name
        self.step = 0
        self._begun = False
        self._steps: dict[str, int] = {}
        self._unwritten: dict[str, str] = {}
        self._read_until: dict[Path, int] = {}
        self._held: list[Mapping[str, Any]] = []
        super().__init__((folder or Path()) / f"{name}.{rank}.jsonl")
        self._read_others(before=None)

    def begin_step(self, step: int) -> None:
        """The step that is asked for from now on; every rank has finished the one before.

        Raises:
            RunFolderError: a file cannot be read or written.
        """
        self.step = step
        if self._begun or self.folder is None:
            self._read_others(before=step)
            return
        early = {key: (model, self._replies[key]) for key, model in self._unwritten.items()}
        self._begun = True
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True, parents=True)
        self._replies, self._steps, self._read_until, self._held = {}, {}, {}, []
        if self.path.exists():
            self._read()
        self._read_others(before=None)
        for key, (model, reply) in early.items():
            if key not in self._replies:
                self._steps[key] = 0
                super().put(key, model, reply)

    def put(self, key: str, model: str, reply: Reply) -> None:
        """Keep a reply, on disk once a step has begun."""
        self._steps[key] = self.step
        if self._begun:
            super().put(key, model, reply)
        else:
            self._unwritten[key] = model
            self._replies[key] = reply

    def step_of(self, key: str) -> int:
        """The step that a reply was first asked for; 0 is before the first."""
        return self._steps[key]

    def facts(self, key: str) -> dict[str, Any]:
        """The step stands in the line of a reply."""
        return {"step": self._steps[key]}

    def _take(self, kept: Mapping[str, Any]) -> None:
        step = kept["step"]
        if type(step) is not int:
            raise TypeError(f"step is {step!r}")
        super()._take(kept)
        self._steps[kept["key"]] = step

    def _read(self) -> None:
        if self.folder is not None:
            super()._read()

    def _read_others(self, before: int | None) -> None:
        """Take up other ranks' replies of the steps before one; those of later steps are held back until then."""
        if self.folder is None:
            return
        found, self._held = self._held, []
        for path in sorted(self.folder.glob(f"{self.name}.*.jsonl")):
            if path != self.path:
                found += self._new_lines(path)
        for kept in found:
            if before is not None and kept["step"] >= before:
                self._held.append(kept)
            elif kept["key"] not in self._replies:  # of several replies to a question our own is the one
                self._take(kept)

    def _new_lines(self, path: Path) -> list[Mapping[str, Any]]:
        """The lines of another rank's file since the last call; one that is not whole yet is left for the next."""
        start = self._read_until.get(path, 0)
        try:
            with path.open("rb") as file:
                file.seek(start)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read_until[path] = start + len(whole)
            lines = [json.loads(line) for line in whole.splitlines()]
            if not all({"key", "step"} <= line.keys() for line in lines):
                raise ValueError
        except (OSError, ValueError, AttributeError, RecursionError):
            raise RunFolderError(f"{path} holds a line that is no kept reply: delete that line") from None
        return lines
