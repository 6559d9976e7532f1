"""Read a run configuration: YAML file, then `--set a.b=value` overrides, then every check."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mmhicra.config import RunConfig
from mmhicra.config.base import MOST
from mmhicra.core.errors import ConfigError, brief, one_line
from mmhicra.core.yaml_text import MOST_BYTES, YamlError, read_yaml_text, write_yaml

ALONE = {"data": {"max_prompt_tokens": 8192}, "eval": {"max_new_tokens": 4096}}
"""What holds where a model is evaluated without a run's configuration; else the defaults of training hold."""
MOST_NAMED = 10
"""Mistakes of one configuration that are named; of more, only their number is said."""
_LONGEST_NAME = 60
"""Characters of a field's name that are shown, and searched for a field that is meant."""
_DEEPEST_NAME = 8
"""Parts of a dotted name that `--set` takes; the deepest field has four."""


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of `path` (None: all defaults) with `a.b=value` overrides applied in order.

    Raises:
        ConfigError: the file cannot be read, or a field is unknown, mistyped or contradicts another; one
            line for each, with the dotted name, the value seen and what is allowed.
    """
    tree = read_yaml(Path(path)) if path is not None else {}
    for override in overrides:
        apply_override(tree, override)
    config = build_config(tree)
    if "gradient_checkpointing" in (tree.get("model") or {}):
        kind = config.model.checkpointing
        print(f"mmhicra: model.gradient_checkpointing is read as model.checkpointing: {kind}", file=sys.stderr)
    return config


def build_config(tree: dict[str, Any]) -> RunConfig:
    """Check a plain tree and make the typed one. Raises ConfigError like `load_config`."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        lines = [one_line(_describe(detail)) for detail in error.errors(include_url=False)[:MOST_NAMED]]
        if error.error_count() > MOST_NAMED:
            lines.append(f"{error.error_count() - MOST_NAMED} more fields are wrong")
        raise ConfigError("\n".join(f"configuration: {line}" for line in lines)) from None


UNADAPTED: dict[str, Any] = {
    **{"model.lora": None, "model.adapter": None, "model.adapter_mode": "continue", "model.quantize": None},
    **{"log.checkpoint_model": "full", "train.loss.kl_reference": "start"},
}
"""What a configuration says of the adapters of its own model, taken back where another model is named."""


def evaluation_config(
    tree: dict[str, Any] | None, changes: Mapping[str, Any], overrides: Sequence[str] = ()
) -> RunConfig:
    """What `mmhicra eval` and `mmhicra.evaluate` go by.

    Args:
        tree: of a run's configuration (changed in place); None has the limits of an evaluation without a run.
        changes: dotted name -> value.
        overrides: `a.b=value`, applied last.

    Raises:
        ConfigError: see `load_config`.
    """
    tree = {name: dict(part) for name, part in ALONE.items()} if tree is None else tree
    # The last is of training alone: a limit that evaluation has no use for.
    training = {"model.shard": False, "parallel": {}, "model.vision_cache": None, "train.tokens_per_micro_batch": MOST}
    for name, value in {**training, **changes}.items():
        set_field(tree, name, value)
    for override in overrides:
        apply_override(tree, override)
    return build_config(tree)


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML that `load_config` reads back to an equal one."""
    return write_yaml(config.model_dump(), width=110)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, empty, broken, beyond the limits of `yaml_text`, or holds no mapping.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or error
        ships = "; `mmhicra configs` lists those that ship" if isinstance(error, FileNotFoundError) else ""
        raise ConfigError(f"cannot read the configuration {path}: {reason}{ships}") from None
    try:
        tree = read_yaml_text(content.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"configuration {path} is not UTF-8 ({error}): save it as UTF-8") from None
    except YamlError as error:
        raise ConfigError(f"configuration {path} {error}") from None
    if tree is None:
        raise ConfigError(f"configuration {path} is empty: write fields into it, or {{}} for all defaults")
    if not isinstance(tree, dict):
        raise ConfigError(f"configuration {path} must be a mapping of sections, got a {type(tree).__name__}")
    return tree


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set `a.b=value` in `tree` (changed in place); the value is read as YAML.

    Raises:
        ConfigError: there is no `=`, or a part of the name is not a section.
    """
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    shown = one_line(override[:100]) + ("..." if len(override) > 100 else "")
    if not equals or not all(keys) or len(keys) > _DEEPEST_NAME:
        raise ConfigError(f"--set {shown}: write it as section.field=value, e.g. --set train.steps=20")
    try:
        value = read_yaml_text(text)
    except YamlError as error:
        raise ConfigError(f"--set {shown}: the value {error}") from None
    set_field(tree, ".".join(keys), value, said=f"--set {shown}")


def set_field(tree: dict[str, Any], name: str, value: Any, said: str = "configuration") -> None:
    """Set the field of a dotted name in `tree` (changed in place), whatever of its sections is there.

    Args:
        tree: of a configuration.
        name: e.g. `train.steps`.
        value: its new value.
        said: what begins the message of a refusal.

    Raises:
        ConfigError: a part of the name is not a section.
    """
    *sections, field = name.split(".")
    place = tree
    for depth, key in enumerate(sections, start=1):
        if place.get(key) is None:
            place[key] = {}
        place = place[key]
        if not isinstance(place, dict):
            raise ConfigError(f"{said}: {'.'.join(sections[:depth])} is a value, not a section")
    place[field] = value


def _describe(detail: ErrorDetails) -> str:
    """One line for one pydantic error: dotted name, value seen, what is allowed."""
    keys = [str(key)[:_LONGEST_NAME] for key in detail["loc"]]
    name = ".".join(keys) or "the whole"
    if detail["type"] in ("extra_forbidden", "invalid_key"):
        known = _fields_at(keys[:-1])
        near = difflib.get_close_matches(keys[-1], known, n=1)
        hint = f"did you mean {'.'.join([*keys[:-1], near[0]])}?" if near else f"known here: {', '.join(known)}"
        return f"{name} is not a known field; {hint}"
    if detail["type"] == "value_error":
        section = "" if not keys else f"{name}: "
        return section + detail["msg"].removeprefix("Value error, ")
    return f"{name} is {brief(detail['input'])}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _fields_at(keys: Sequence[str]) -> list[str]:
    """The field names of the section at `keys`."""
    section: type[BaseModel] = RunConfig
    for key in keys:
        field = section.model_fields.get(key)
        if field is None:
            continue  # a list index
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), section)
    return list(section.model_fields)
