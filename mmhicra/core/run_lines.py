"""What the lines of a run's files must hold for the commands that read them; further fields are left alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from mmhicra.core.compressed import Undecodable, read_lines
from mmhicra.core.errors import brief, one_line

Numbers = list[float] | None


class _Reward(TypedDict):
    verdict: str
    why: NotRequired[str | None]
    gold: NotRequired[str | None]
    extracted: NotRequired[str | None]
    method: NotRequired[str | None]
    total: NotRequired[float | None]


class _Rollout(TypedDict):
    step: int
    prompt: str
    completion: int
    kept: bool
    task: str
    question: str
    images: list[str]
    response: str
    ids: list[int]
    finish_reason: str | None
    planning: list[list[int]]
    advantage: float | None
    reward: _Reward | None
    choices: NotRequired[list[str]]
    decoded: NotRequired[str]
    token_spans: NotRequired[list[list[int]]]
    grams: NotRequired[list[list[str | int]]]
    advantages: NotRequired[Numbers]
    engine_logprobs: NotRequired[Numbers]
    old_logprobs: NotRequired[Numbers]
    entropy: NotRequired[Numbers]


class _Answered(TypedDict):
    verdict: str
    gold: str


class _Failed(TypedDict):
    step: int
    prompt: str
    completion: int
    task: str
    question: str
    images: list[str]
    response: str
    finish_reason: str | None
    reward: _Answered


class _Judged(TypedDict):
    step: int
    prompt: str
    completion: int
    kind: str
    why: str


class _Step(TypedDict):
    step: int


_ROLLOUT, _FAILED, _JUDGED, _STEP = map(TypeAdapter, (_Rollout, _Failed, _Judged, _Step))

Fault = Callable[[dict[str, Any]], str | None]
"""What is wrong with a record, None if nothing is."""


def rollout_fault(record: dict[str, Any]) -> str | None:
    """What is wrong with a line of a rollout file."""
    return _fault(_ROLLOUT, record) or _spans_fault(record)


def failed_fault(record: dict[str, Any]) -> str | None:
    """What is wrong with a line of a rollout file for a command that reads failures only."""
    return _fault(_FAILED, record)


def judged_fault(record: dict[str, Any]) -> str | None:
    """What is wrong with a line of `errors.jsonl`."""
    return _fault(_JUDGED, record)


def step_fault(record: dict[str, Any]) -> str | None:
    """What is wrong with a line of `metrics.jsonl`."""
    return _fault(_STEP, record)


@dataclass(frozen=True)
class Damage:
    """The lines of a file that cannot be used.

    Attributes:
        count: how many.
        line: the first of them, from 1.
        reason: what is wrong with it.
        cut: it is the last one alone, which a kill cut off.
    """

    count: int
    line: int
    reason: str
    cut: bool


class JsonLines:
    """The objects of a JSON Lines file, one at a time; what cannot be used is left out and counted.

    Args:
        path: of the file, `.gz` or `.zst` if it is compressed.
        fault: what else makes a record unusable.

    Raises:
        OSError: while it is read.
    """

    def __init__(self, path: Path, fault: Fault = lambda record: None) -> None:
        self.path, self.fault = path, fault
        self.damaged: list[tuple[int, str]] = []
        self.last = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (record for _, record in self.numbered())

    def numbered(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number of its line, from 1, with every object."""
        try:
            for number, line in enumerate(read_lines(self.path), start=1):
                self.last = number
                if not line.strip():
                    continue
                record, reason = self._read(line)
                if reason is not None:
                    self.damaged.append((number, reason))
                elif record is not None:
                    yield number, record
        except Undecodable as error:
            self.damaged.append((self.last + 1, f"from here on the compressed file is damaged: {error}"))

    @property
    def damage(self) -> Damage | None:
        """What was left out, once all was read."""
        if not self.damaged:
            return None
        line, reason = self.damaged[0]
        cut = len(self.damaged) == 1 and line == self.last and reason.startswith("not JSON")
        return Damage(len(self.damaged), line, reason, cut)

    def _read(self, line: bytes) -> tuple[dict[str, Any] | None, str | None]:
        try:
            record = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            return None, f"not JSON: {one_line(str(error), 100)}"
        if not isinstance(record, dict):
            return None, "not a JSON object"
        return record, self.fault(record)


def _fault(adapter: TypeAdapter[Any], record: dict[str, Any]) -> str | None:
    try:
        adapter.validate_python(record, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"][:3])
        if first["type"] == "missing":
            return f"no {name}"
        return f"{name} is {brief(first['input'], 40)}"
    return None


def _spans_fault(record: dict[str, Any]) -> str | None:
    """Lengths and places that have to fit each other."""
    tokens, spans = len(record["ids"]), record.get("token_spans")
    if spans is not None and (len(spans) != tokens or any(len(span) != 2 for span in spans)):
        return "token_spans do not fit ids"
    if any(len(span) != 2 or not 0 <= span[0] <= span[1] <= tokens for span in record["planning"]):
        return "planning does not fit ids"
    for gram in record.get("grams", []):
        if [type(part) for part in gram] != [str, str, int, int] or not 0 <= gram[2] < gram[3] <= len(spans or ()):
            return "grams do not fit ids"
    if record.get("grams") and "decoded" not in record:
        return "no decoded"
    for name in ("advantages", "engine_logprobs", "old_logprobs", "entropy"):
        if record.get(name) and len(record[name]) != tokens:
            return f"{name} do not fit ids"
    return None
