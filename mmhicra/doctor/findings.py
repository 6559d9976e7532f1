"""What a check finds: facts, faults with their remedies, and what it could not check. Plain data, JSON-able."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["well", "doubtful", "faulty", "not checked"]

MARKS: dict[State, str] = {"well": "✓", "doubtful": "!", "faulty": "✗", "not checked": "–"}


@dataclass(frozen=True)
class Remedy:
    """What to change: a line of the configuration, or a command, or something else in words.

    Attributes:
        field: dotted name of a configuration field, e.g. `data.max_pixels`.
        value: what to set it to; None if that is for the user to say.
        command: to run.
        words: what cannot be said by either.
    """

    field: str | None = None
    value: Any = None
    command: str | None = None
    words: str | None = None


@dataclass(frozen=True)
class Fault:
    """Something that stops the run, or spoils what it learns.

    Attributes:
        kind: what kind it is, e.g. `prompt over length`; the same for the same mistake.
        what: one line that names the file, field or sample, and both values where two differ.
        remedies: any one of them mends it.
    """

    kind: str
    what: str
    remedies: tuple[Remedy, ...]


@dataclass(frozen=True)
class Grid:
    """A table for the terminal; the numbers behind it are in `facts`."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class CheckResult:
    """What one check of the configuration found.

    Attributes:
        name: for `--json`.
        title: for a person.
        summary: one line, what was found.
        facts: numbers and names, JSON-able.
        grids: tables for the terminal.
        notes: what is worth knowing and stops nothing.
        doubts: what lets the run start and may spoil what it learns; such a check is not well.
        because: why it was not made, empty if it was.
        passable: whether later checks can build on it although it has faults.
    """

    name: str
    title: str
    summary: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    grids: list[Grid] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    because: str = ""
    passable: bool = True

    @property
    def state(self) -> State:
        """Well, doubtful, faulty or not checked; what was begun and not finished is faulty."""
        if self.faults:
            return "faulty"
        if self.because:
            return "not checked"
        return "doubtful" if self.doubts else "well"

    def blame(self, kind: str, what: str, *remedies: Remedy) -> None:
        """Add a fault."""
        self.faults.append(Fault(kind, " ".join(what.split()), remedies))


@dataclass(frozen=True)
class Report:
    """All checks of one configuration or model, and the verdict over them.

    Attributes:
        config: the configuration file, or the model.
        version: of mmhicra.
        checks: in their order.
        start: the command to go on with, if it is not to train with `config`.
    """

    config: str
    version: str
    checks: Sequence[CheckResult]
    start: str = ""

    @property
    def faults(self) -> list[Fault]:
        """The faults of all checks, in their order."""
        return [fault for check in self.checks for fault in check.faults]

    @property
    def healthy(self) -> bool:
        """Whether every check was made and none has a fault."""
        return all(check.state in ("well", "doubtful") for check in self.checks)

    @property
    def doubts(self) -> list[str]:
        """The doubts of all checks, in their order."""
        return [doubt for check in self.checks for doubt in check.doubts]
