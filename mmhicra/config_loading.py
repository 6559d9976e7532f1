"""Read a run configuration: YAML file, then `--set a.b=value` overrides, then every check."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mmhicra.config import RunConfig
from mmhicra.refusals import ConfigRefusal


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers: PyYAML reads `1e-6` as text, and a duplicate key as its last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        doubled = sorted({str(key) for key in keys if keys.count(key) > 1})
        if doubled:
            raise yaml.constructor.ConstructorError(None, None, f"key given twice: {doubled[0]}", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of `path` (None: all defaults) with `a.b=value` overrides applied in order.

    Raises:
        ConfigRefusal: the file cannot be read, or a field is unknown, mistyped or contradicts another; one
            line for each, with the dotted name, the value seen and what is allowed.
    """
    tree = read_yaml(Path(path)) if path is not None else {}
    for override in overrides:
        apply_override(tree, override)
    return build_config(tree)


def build_config(tree: dict[str, Any]) -> RunConfig:
    """Check a plain tree and make the typed one. Raises ConfigRefusal like `load_config`."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        lines = [_describe(detail) for detail in error.errors(include_url=False)]
        raise ConfigRefusal("\n".join(f"configuration: {line}" for line in lines)) from None


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True, width=110)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigRefusal for a missing, broken or non-mapping file."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigRefusal(f"cannot read the configuration {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigRefusal(f"configuration {path} is not YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigRefusal(f"configuration {path} must be a mapping of sections, got a {type(tree).__name__}")
    return tree


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set `a.b=value` in `tree` (changed in place); the value is read as YAML.

    Raises:
        ConfigRefusal: there is no `=`, or a part of the name is not a section.
    """
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigRefusal(f"--set {override}: write it as section.field=value, e.g. --set train.steps=20")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigRefusal(f"--set {override}: the value is not YAML: {' '.join(str(error).split())}") from None
    section = tree
    for depth, key in enumerate(keys[:-1]):
        if section.get(key) is None:
            section[key] = {}
        section = section[key]
        if not isinstance(section, dict):
            raise ConfigRefusal(f"--set {override}: {'.'.join(keys[: depth + 1])} is a value, not a section")
    section[keys[-1]] = value


def _describe(detail: ErrorDetails) -> str:
    """One line for one pydantic error: dotted name, value seen, what is allowed."""
    keys = [str(key) for key in detail["loc"]]
    name = ".".join(keys) or "the whole"
    if detail["type"] == "extra_forbidden":
        known = _fields_at(keys[:-1])
        near = difflib.get_close_matches(keys[-1], known, n=1)
        hint = f"did you mean {'.'.join([*keys[:-1], near[0]])}?" if near else f"known here: {', '.join(known)}"
        return f"{name} is not a known field; {hint}"
    if detail["type"] == "value_error":
        section = "" if not keys else f"{name}: "
        return section + detail["msg"].removeprefix("Value error, ")
    return f"{name} is {_shorten(detail['input'])}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


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


def _shorten(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
