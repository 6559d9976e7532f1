"""What a person should know about each benchmark, read from `eval/cards`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import yaml

from mmhicra.core.names import BenchmarkName
from mmhicra.core.resources import evaluation_path
from mmhicra.evaluate.scoring.records import Mode

NAMES: tuple[str, ...] = get_args(BenchmarkName)


@dataclass(frozen=True)
class Card:
    """The fields of a card.

    Attributes:
        name: as in `NAMES`.
        title: as its makers write it.
        hub: hub ids, `owner/name` or `owner/name:configuration`; several are read one after another.
        git: where its makers keep it.
        split: of the hub ids.
        items: questions in that split, over all hub ids.
        licence: of the questions.
        metric: what the headline is.
        official: what the official scorer does, in one line.
        prompts: their names, the usual one first.
        modes: ways of scoring that there are.
        columns: role -> column, for benchmarks that are read by their columns alone (`columns.py`).
    """

    name: str
    title: str
    hub: tuple[str, ...]
    git: str
    split: str
    items: int
    licence: str
    metric: str
    official: str
    prompts: tuple[str, ...]
    modes: tuple[Mode, ...] = ("official", "robust")
    columns: Mapping[str, Any] | None = None


def read_card(name: str) -> Card:
    """The card that ships with a benchmark."""
    fields = yaml.safe_load(evaluation_path(f"cards/{name}.yaml").read_text(encoding="utf-8"))
    hub = fields["hub"]
    fields["hub"] = (hub,) if isinstance(hub, str) else tuple(hub)
    for field in ("prompts", "modes"):
        if field in fields:
            fields[field] = tuple(fields[field])
    return Card(**fields)
