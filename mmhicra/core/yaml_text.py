"""YAML as configurations need it: plain values by the rules of YAML 1.2, within limits that hostile text cannot pass.

PyYAML follows YAML 1.1: `2026-02-30` is a date, `010` is 8, `1:30` is 90, and `1e-6` is text. Here dates are text,
integers are decimal or hexadecimal, and `1e-6` is a float. What `write_yaml` writes reads back equal.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from mmhicra.core.errors import one_line

MOST_BYTES = 2**18
"""Size of the longest file that is read. A resolved configuration has 3 kB."""
MOST_VALUES = 5000
"""Keys, values and sections of a file with every alias written out. A resolved configuration has about 250."""
DEEPEST = 24
"""Levels of nesting. A resolved configuration has 5."""
_MOST_DIGITS = 40
"""Digits that an integer may have; a signed 64-bit integer has 19."""

_PREFIX = "tag:yaml.org,2002:"
_PLAIN: dict[str, tuple[re.Pattern[str], str]] = {
    "bool": (re.compile(r"^(?:yes|no|true|false|on|off)$", re.IGNORECASE), "yYnNtTfFoO"),
    "null": (re.compile(r"^(?:~|null|)$", re.IGNORECASE), "~nN"),
    "int": (re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"), "-+0123456789"),
    "float": (
        re.compile(r"^(?:[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?|[-+]?\.inf|\.nan)$", re.IGNORECASE),
        "-+0123456789.",
    ),
    "merge": (re.compile(r"^<<$"), "<"),
}
"""By the name of its tag: which plain text it is, and the characters that such a text starts with."""


class YamlError(Exception):
    """A text that is not YAML, or beyond the limits of this module. The message is one line that starts with a verb."""


class _Loader(yaml.SafeLoader):
    """Composes nodes, of which no more than the limits are made."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.count += 1
        _check_limits(self.depth, self.count)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes the text that `_Loader` would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # PyYAML reads these as line breaks, and loses them from plain text that it wrote itself.
        style = '"' if any(c in data for c in "\x85\u2028\u2029\r") else None
        return self.represent_scalar(_PREFIX + "str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {}
for _name, (_pattern, _first) in _PLAIN.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_PREFIX + _name, _pattern, [*_first, *([""] if _name == "null" else [])])


def read_yaml_text(text: str) -> Any:
    """The value of one YAML document, None for an empty one; aliases are written out, so that nothing is shared.

    Raises:
        YamlError: broken, longer, deeper or larger than the limits of this module, a key given twice, or a tag.
    """
    root = compose_yaml(text)
    return None if root is None else _Values().of(root)


def compose_yaml(text: str) -> yaml.Node | None:
    """The nodes of one YAML document, which know their lines. Raises YamlError like `read_yaml_text`."""
    _check_length(len(text))
    try:
        return _Loader(text).get_single_node()
    except yaml.YAMLError as error:
        raise YamlError(f"is not YAML: {one_line(str(error))}") from None


def write_yaml(value: Any, **options: Any) -> str:
    """YAML that `read_yaml_text` reads back to an equal value.

    Args:
        value: of dicts, lists, text, numbers, booleans and None.
        options: of `yaml.dump`, e.g. `width`.
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **options)


def _check_length(length: int) -> None:
    if length > MOST_BYTES:
        raise YamlError(f"has more than {MOST_BYTES // 1024} KiB, which no configuration has")


def _check_limits(depth: int, count: int) -> None:
    if depth > DEEPEST:
        raise YamlError(f"is nested more than {DEEPEST} levels deep, which no configuration is")
    if count > MOST_VALUES:
        raise YamlError(f"has more than {MOST_VALUES} values, which no configuration has")


class _Values:
    """Makes values of nodes, each anew where an alias repeats it, and counts them and their characters."""

    def __init__(self) -> None:
        self.count = 0
        self.characters = 0

    def of(self, node: yaml.Node, depth: int = 1) -> Any:
        self.count += 1
        _check_limits(depth, self.count)
        if isinstance(node, yaml.MappingNode):
            self._check_tag(node, "map")
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, "seq")
            return [self.of(child, depth + 1) for child in node.value]
        self.characters += len(node.value)
        _check_length(self.characters)
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[Any, Any]:
        own: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _PREFIX + "merge":
                value = self.of(value_node, depth + 1)
                for other in reversed(value if isinstance(value, list) else [value]):
                    if not isinstance(other, dict):
                        raise YamlError(f"is not YAML: << takes a mapping or a list of them{_place(value_node)}")
                    merged |= other
                continue
            key = self.of(key_node, depth + 1)
            if isinstance(key, dict | list):
                raise YamlError(f"has a key that is a list or a mapping{_place(key_node)}")
            if key in own:
                raise YamlError(f"has a key given twice: {str(key)[:60]}{_place(key_node)}")
            own[key] = self.of(value_node, depth + 1)
        return merged | own

    @staticmethod
    def _check_tag(node: yaml.Node, kind: str) -> None:
        if node.tag != _PREFIX + kind:
            raise YamlError(f"has a tag that is not known here, {node.tag[:60]}{_place(node)}")


def _scalar(node: yaml.Node) -> Any:
    kind, text = node.tag.removeprefix(_PREFIX), str(node.value)
    if kind == "str":
        return text
    if kind not in _PLAIN or kind == "merge" or not _PLAIN[kind][0].match(text):
        raise YamlError(f"has a tag that is not known here or does not fit, {node.tag[:60]}{_place(node)}")
    if kind == "bool":
        return text.lower() in ("yes", "true", "on")
    if kind == "null":
        return None
    if kind == "int":
        if len(text) > _MOST_DIGITS:
            raise YamlError(f"has an integer of {len(text)} digits{_place(node)}")
        return int(text.replace("_", ""), 16 if "x" in text else 10)
    special = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
    return float(special.get(text.lower(), text))


def _place(node: yaml.Node) -> str:
    return f" (line {node.start_mark.line + 1})"
