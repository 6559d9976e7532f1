"""Where a field of the configuration is written, so that a remedy can name the line to change."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from mmhicra.config import RunConfig
from mmhicra.core.yaml_text import YamlError, compose_yaml, write_yaml
from mmhicra.doctor.findings import Remedy


class ConfigLines:
    """The lines of a configuration file by dotted name, `--set` overrides and defaults included.

    Args:
        path: the YAML file.
        overrides: of the command line.
        config: as resolved, if it could be.
    """

    def __init__(self, path: str, overrides: Sequence[str], config: RunConfig | None = None) -> None:
        self.path = path
        self.flags = "".join(f" --set {shlex.quote(override)}" for override in overrides)
        self.overrides = {name.strip(): name for name in (o.partition("=")[0] for o in overrides)}
        self.tree = config.model_dump() if config else {}
        self.lines = _lines_of(Path(path))

    def place(self, name: str) -> str:
        """Where `name` is set: `configs/tiny.yaml:16`, `--set`, or the section it would go to."""
        if any(name == given or name.startswith(given + ".") for given in self.overrides):
            return "--set"
        if name in self.lines:
            return f"{self.path}:{self.lines[name]}"
        section = name.rpartition(".")[0]
        while section and section not in self.lines:
            section = section.rpartition(".")[0]
        return f"{self.path}:{self.lines[section]}, add under {section}" if section else f"{self.path}, add"

    def value(self, name: str) -> Any:
        """What `name` is now; None if the configuration could not be resolved."""
        found: Any = self.tree
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found

    def show(self, remedy: Remedy) -> str:
        """One line: where, and what to write there."""
        if remedy.command:
            return f"run: {remedy.command}"
        if remedy.field is None:
            return remedy.words or ""
        now = self.value(remedy.field)
        now_text = "" if now is None or isinstance(now, dict) else f" (now {_plain(now)})"
        place = self.place(remedy.field)
        after = f"; {remedy.words}" if remedy.words and remedy.value is not None else ""
        _, adds, section = place.partition(", add under ")
        if adds or place.endswith(", add"):
            # What is added to a file is shown as it is typed there, dotted names being no YAML.
            inside = remedy.field.removeprefix(f"{section}.")
            value = f"({remedy.words or '...'})" if remedy.value is None else _plain(remedy.value)
            return f"{place}: {_nested(inside, value)}{now_text}{after}"
        said = remedy.words or "..." if remedy.value is None else _plain(remedy.value)
        return f"{place}: {remedy.field}: {said}{now_text}{after}"


def named_field(message: str) -> str | None:
    """The first field of the configuration that a message names, e.g. `data.max_pixels`."""
    return next((name for name in re.findall(r"[a-z]\w*(?:\.\w+)+", message) if _is_field(name)), None)


def _is_field(name: str) -> bool:
    held: Any = RunConfig()
    for part in name.split("."):
        if held is None:  # a section that is left out
            return True
        if not isinstance(held, BaseModel) or part not in type(held).model_fields:
            return False
        held = getattr(held, part)
    return True


def _plain(value: Any) -> str:
    """A value as YAML writes it on one line."""
    return write_yaml(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()


def _nested(name: str, value: str) -> str:
    """`a.b.c` and a value as YAML on one line: `a: {b: {c: value}}`."""
    first, *others = name.split(".")
    for part in reversed(others):
        value = f"{{{part}: {value}}}"
    return f"{first}: {value}"


def _lines_of(path: Path) -> dict[str, int]:
    """Dotted name -> line from 1; empty if the file cannot be read, which is said elsewhere."""
    try:
        root = compose_yaml(path.read_text(encoding="utf-8"))
    except (OSError, YamlError, UnicodeDecodeError):
        return {}
    lines: dict[str, int] = {}
    waiting: list[tuple[str, Any]] = [("", root)]
    seen: set[int] = set()
    while waiting:
        prefix, node = waiting.pop()
        if isinstance(node, yaml.MappingNode) and id(node) not in seen:  # an alias is the node that it repeats
            seen.add(id(node))
            for key, value in node.value:
                name = f"{prefix}.{key.value}" if prefix else str(key.value)
                lines[name] = key.start_mark.line + 1
                waiting.append((name, value))
    return lines
