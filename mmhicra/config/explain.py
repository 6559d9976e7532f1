"""What every field of the configuration means, from the docstrings beside it: as text, Markdown or JSON Schema."""

from __future__ import annotations

import difflib
import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mmhicra.config import RunConfig
from mmhicra.config.base import NamedOrPlugin
from mmhicra.core.errors import ConfigError
from mmhicra.core.yaml_text import write_yaml

_HEAD = """\
# Configuration

Made by `mmhicra config --markdown` from the docstrings of the fields; a test keeps it true. A field is set in the YAML
file, as `--set train.steps=20`, or as `--train.steps 20`. None is written `null`. `mmhicra config --explain train.loss`
says the same in a terminal; `mmhicra config --schema` prints a JSON Schema, with which editors complete and check YAML.
"""
_SIGNS = {Gt: ">", Ge: ">=", Lt: "<", Le: "<="}


@dataclass(frozen=True)
class Explained:
    """One field or section.

    Attributes:
        name: dotted, e.g. `train.loss.clip_high`; a list's entries are `eval.benchmarks[].name`.
        about: its docstring; of a section that of the field and of the section itself.
        values: what it takes, e.g. `number > 0, < 1` or `token or sequence`.
        default: as YAML; empty for a section, and for a field that must be given.
        section: whether it has fields of its own.
    """

    name: str
    about: str
    values: str
    default: str
    section: bool


def explain_all() -> list[Explained]:
    """Every section and field, in the order of the classes."""
    return list(_walk(RunConfig, ""))


def explain(name: str) -> str:
    """A field, or a section with all its fields, for a terminal.

    Raises:
        ConfigError: there is no such field.
    """
    everything = explain_all()
    name = name.strip().rstrip(".")
    found = [each for each in everything if each.name == name or each.name.startswith((name + ".", name + "[]."))]
    if not found:
        near = difflib.get_close_matches(name, [each.name for each in everything], n=3, cutoff=0.4)
        last = [each.name for each in everything if each.name.rpartition(".")[2] == name.rpartition(".")[2]]
        meant = list(dict.fromkeys([*last, *near]))[:4]
        hint = f": did you mean {', '.join(meant)}?" if meant else ": `mmhicra config` lists all fields"
        raise ConfigError(f"configuration: there is no field {name}{hint}")
    return "\n\n".join(_as_text(each) for each in found) + "\n"


def list_fields() -> str:
    """All fields with their defaults and the first sentence on each, aligned."""
    fields = [each for each in explain_all() if not each.section]
    width = max(len(each.name) for each in fields)
    shown = max(min(len(each.default), 16) for each in fields)
    lines = [
        f"{each.name:{width}}  {_brief(each.default, 16):{shown}}  {_first_sentence(each.about)}".rstrip()
        for each in fields
    ]
    return "\n".join(lines) + "\n"


def as_markdown() -> str:
    """The reference page: a table for every section."""
    parts = [_HEAD]
    everything = explain_all()
    top = Explained("", (RunConfig.__doc__ or "").strip(), "", "", True)
    for section in [top, *(each for each in everything if each.section)]:
        own = [each for each in everything if not each.section and _parent(each.name) == section.name]
        if not own:
            continue
        heading = f"`{section.name}`" if section.name else "At the top"
        parts.append(f"## {heading}\n\n{section.about}\n\n| field | default | values | |\n|---|---|---|---|\n")
        for each in own:
            cells = (
                f"`{each.name.rpartition('.')[2]}`",
                _code(each.default) or "must be given",
                each.values,
                each.about,
            )
            parts[-1] += "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"
    return "\n".join(parts)


def schema() -> str:
    """JSON Schema of the whole configuration."""
    tree = RunConfig.model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **tree}, indent=2) + "\n"


def _walk(model: type[BaseModel], before: str) -> Iterator[Explained]:
    for key, field in model.model_fields.items():
        name, inner = f"{before}{key}", _sections_in(field.annotation)
        about = _clean(field.description or "")
        if inner is None:
            yield Explained(name, about, _values(field), _default(field), False)
            continue
        in_list = get_origin(field.annotation) is list
        optional = "" if in_list or field.annotation is inner else " None by default."
        yield Explained(name, f"{about} {_clean(inner.__doc__ or '')}{optional}".strip(), "", "", True)
        yield from _walk(inner, f"{name}[]." if in_list else f"{name}.")


def _sections_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, alone, in a list or with None beside it."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _values(field: FieldInfo) -> str:
    return _type_text(field.annotation, field.metadata)


def _type_text(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(inner[0], (*inner[1:], *metadata))
    if origin in (Union, UnionType):
        texts = [_type_text(part, metadata if part is not type(None) else ()) for part in inner]
        return " or ".join(dict.fromkeys(texts))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is list:
        return f"list of {_type_text(inner[0])}"
    if origin is dict:
        return f"map of {_type_text(inner[0])} to {_type_text(inner[1])}"
    if annotation is type(None):
        return "none"
    if annotation is Any:
        return "anything"
    if own := next((each for each in metadata if isinstance(each, NamedOrPlugin)), None):
        return ", ".join(f"`{name}`" for name in own.known) + f", or {own.forms}"
    names = {bool: "true or false", int: "integer", float: "number", str: "text"}
    return names[annotation] + "".join(f", {bound}" for bound in _bounds(metadata))


def _bounds(metadata: list[Any] | tuple[Any, ...]) -> Iterator[str]:
    for each in metadata:
        for part in getattr(each, "metadata", None) or [each]:
            if isinstance(part, tuple(_SIGNS)):
                ((_, value),) = vars(part).items() if hasattr(part, "__dict__") else [_slot(part)]
                yield f"{_SIGNS[type(part)]} {value}"


def _slot(bound: Any) -> tuple[str, Any]:
    name = next(name for name in ("gt", "ge", "lt", "le") if hasattr(bound, name))
    return name, getattr(bound, name)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined and field.default_factory is None:
        return ""
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    return write_yaml({"x": value}, width=10**6).removeprefix("x:").strip()


def _as_text(each: Explained) -> str:
    required = not each.default and not each.section
    named = (("default", each.default), ("takes", each.values.replace("`", "")))
    facts = ["must be given"] * required + [f"{what} {text}" for what, text in named if text]
    head = each.name + (f"  ({'; '.join(facts)})" if facts else "")
    return head + "\n" + textwrap.fill(each.about, 100, initial_indent="    ", subsequent_indent="    ")


def _parent(name: str) -> str:
    return name.rpartition(".")[0].removesuffix("[]")


def _clean(text: str) -> str:
    return " ".join(text.split())


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0]


def _brief(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
