"""Item, Response, SampleRecord: the nouns of scoring stored responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mmhicra.core.records import AnswerKind, ProblemImage

SCORER_VERSION = "4"
"""Raised whenever a rule changes that can change a verdict; stands in every result file."""

Mode = Literal["official", "robust"]
Stage = Literal["response", "equality"]


@dataclass(frozen=True)
class Item:
    """One question of a benchmark.

    Attributes:
        id: as response files name it.
        question: its text, without the options.
        answer: the gold, as the benchmark stores it.
        kind: how the robust mode compares.
        choices: the options, in the order A, B, C, ...
        groups: what aggregates are made by: key -> the values this item counts for.
        cluster: items with the same value are versions of one problem.
        facts: the benchmark's own columns.
        images: undecoded, only where questions are read to be answered.
    """

    id: str
    question: str
    answer: str
    kind: AnswerKind = "math"
    choices: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cluster: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[ProblemImage, ...] = ()


@dataclass(frozen=True)
class Response:
    """What a model said to one item.

    Attributes:
        id: of the item.
        text: the response.
        extraction: the answer that the file's makers read out of it, None if there is none.
        label: their verdict, None if there is none.
        truncated: the file says that it was cut off.
        sample: which of several responses to the item, from 0.
        tokens: its length, None if it is not known.
    """

    id: str
    text: str
    extraction: str | None = None
    label: bool | None = None
    truncated: bool = False
    sample: int = 0
    tokens: int | None = None


@dataclass(frozen=True)
class SampleRecord:
    """One verdict and how it came about.

    Attributes:
        id: of the item.
        correct: the verdict.
        extracted: the answer read out of the response, None if there is none.
        method: the rule that found it.
        normalised: what was compared with the gold.
        gold: the gold.
        why: the reason in one phrase.
        empty: the response is blank.
        truncated: it was cut off: the file says so, or its thinking never ends.
        fallback: no answer was declared; one was guessed, or the whole response taken.
        nearest_choice: the official rules took the option with the nearest spelling.
        ambiguous: several options were named.
        gold_unusable: the gold cannot be compared with.
        groups: as in the item.
        cluster: as in the item.
        label: the verdict stored in the response file, None if there is none.
        sample: which of several responses to the item, from 0.
        vote: what responses are counted as the same answer by, None if there is no answer.
        judged: a language model decided.
    """

    id: str
    correct: bool
    extracted: str | None
    method: str
    normalised: str | None
    gold: str
    why: str
    empty: bool = False
    truncated: bool = False
    fallback: bool = False
    nearest_choice: bool = False
    ambiguous: bool = False
    gold_unusable: bool = False
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cluster: str = ""
    label: bool | None = None
    sample: int = 0
    vote: str | None = None
    judged: bool = False

    def as_dict(self) -> dict[str, Any]:
        """A line of the per-sample file."""
        return asdict(self)


FLAGS = ("empty", "truncated", "fallback", "nearest_choice", "ambiguous", "gold_unusable")
"""What is counted beside every score."""
