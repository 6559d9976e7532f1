"""What a person should know about each benchmark, read from `eval/cards`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from mmhicra.config.loading import read_yaml
from mmhicra.core.errors import ConfigError, brief
from mmhicra.core.names import BenchmarkName
from mmhicra.core.resources import evaluation_path
from mmhicra.evaluate.scoring.records import Mode

NAMES: tuple[str, ...] = get_args(BenchmarkName)


@dataclass(frozen=True)
class Card:
    """The fields of a card.

    Attributes:
        name: as in `NAMES`; of the user's own, a name for files and metrics.
        title: as its makers write it.
        hub: hub ids, `owner/name` or `owner/name:configuration`; several are read one after another.
        git: where its makers keep it.
        split: of the hub ids.
        items: questions in that split, over all hub ids; 0 if it is not known.
        licence: of the questions.
        metric: what the headline is.
        official: what the official scorer does, in one line.
        prompts: their names, the usual one first.
        modes: ways of scoring that there are.
        columns: role -> column, for benchmarks that are read by their columns alone (`columns.py`).
    """

    name: str
    title: str
    hub: tuple[str, ...] = ()
    git: str = ""
    split: str = "test"
    items: int = 0
    licence: str = ""
    metric: str = "accuracy over the questions"
    official: str = ""
    prompts: tuple[str, ...] = ("boxed",)
    modes: tuple[Mode, ...] = ("official", "robust")
    columns: Mapping[str, Any] | None = None


def read_card(name: str) -> Card:
    """The card that ships with a benchmark."""
    return _card(yaml.safe_load(evaluation_path(f"cards/{name}.yaml").read_text(encoding="utf-8")))


def read_own_card(path: Path) -> Card:
    """A card of the user's own: `name` and `title`, and what differs from its defaults, robust mode among them.

    Raises:
        ConfigError: the file cannot be read, or a field is missing, unknown or of another type.
    """
    fields = {"modes": ["robust"], "columns": {"question": "question", "answer": "answer"}, **read_yaml(path)}
    known = {field.name: field for field in dataclasses.fields(Card)}
    if unknown := [name for name in fields if name not in known]:
        raise ConfigError(f"card {path}: {unknown[0]} is not a field; there are {', '.join(known)}")
    if missing := [name for name in ("name", "title") if not fields.get(name)]:
        raise ConfigError(f"card {path} has no {missing[0]}: give it one")
    kinds = {"hub": (str, list), "prompts": list, "modes": list, "columns": dict, "items": int}
    for name, value in fields.items():
        if not isinstance(value, kinds.get(name, str)):
            raise ConfigError(f"card {path}: {name} is {brief(value)}, not of the type that other cards have")
    if fields["modes"] != ["robust"]:
        raise ConfigError(f"card {path}: modes is {fields['modes']}: a card alone is scored in robust mode only")
    if wrong := set(fields.get("prompts", ())) - {"boxed", "cot"}:
        raise ConfigError(f"card {path}: there is no prompt {wrong.pop()!r}: a card alone has boxed and cot")
    card = _card(fields)
    check_own(card, str(path))
    return card


def check_own(card: Card, where: str) -> None:
    """Raise ConfigError if a card of the user's own has a name that ships, or none that a file can have."""
    if card.name in NAMES or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}", card.name):
        reason = "that of a benchmark that ships" if card.name in NAMES else "not of letters, digits, _ . and -"
        raise ConfigError(f"card {where}: the name {brief(card.name)} is {reason}: give it another")
    if "robust" not in card.modes or set(card.modes) - {"official", "robust"} or not card.prompts:
        raise ConfigError(f"card {where}: modes must be robust, or official and robust, and prompts not empty")


def _card(fields: dict[str, Any]) -> Card:
    hub = fields.get("hub", ())
    fields["hub"] = (hub,) if isinstance(hub, str) else tuple(hub)
    for field in ("prompts", "modes"):
        if field in fields:
            fields[field] = tuple(fields[field])
    return Card(**fields)
