"""Every field's default and what it may be set to, against a list of them: a change of either has to be meant."""

import json
from pathlib import Path

from mmhicra.config import RunConfig
from mmhicra.config.loading import load_config

TABLE = Path(__file__).parent / "config_table.txt"
"""A line a field: name, default, allowed values; `]0, 1]` is above 0 and at most 1."""


def allowed(schema, kinds):
    """What a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(allowed(part, kinds) for part in schema["anyOf"])
    if "$ref" in schema:
        return "section"
    if "enum" in schema or "const" in schema:
        return " ".join(map(str, schema.get("enum", [schema.get("const")])))
    if schema["type"] == "array":
        least, most = schema.get("minItems", 0), schema.get("maxItems", "any")
        return f"list of {least} to {most} ({allowed(schema['items'], kinds)})"
    if schema["type"] == "object":
        inside = schema["additionalProperties"]
        return f"map of text to ({'anything' if inside is True else allowed(inside, kinds)})"
    if schema["type"] not in ("integer", "number"):
        return {"string": "text", "boolean": "false true", "null": "null"}[schema["type"]]
    if not schema.keys() - {"type", "title"}:
        return schema["type"]
    low, high = (schema.get(name) for name in ("minimum", "maximum"))
    above, below = (schema.get(name) for name in ("exclusiveMinimum", "exclusiveMaximum"))
    # A narrower field keeps the bounds of its kind beside its own.
    begin = f"[{low:.12g}" if low is not None and (above is None or low > above) else f"]{above:.12g}"
    end = f"{high:.12g}]" if high is not None and (below is None or high < below) else f"{below:.12g}["
    return f"{schema['type']} {begin}, {end}"


def lines(schema, kinds, path=""):
    """The lines of a section and of those inside it."""
    for name, field in schema["properties"].items():
        default = json.dumps(field["default"]) if "default" in field else "required"
        parts = [field, *field.get("anyOf", []), field.get("items", {})]
        inside = next((part["$ref"].rpartition("/")[2] for part in parts if "$ref" in part), None)
        yield f"{path}{name} | {'section' if inside and '$ref' in field else default} | {allowed(field, kinds)}"
        if inside:
            yield from lines(kinds[inside], kinds, f"{path}{name}.")


def test_defaults_and_bounds_are_those_of_the_table():
    schema = RunConfig.model_json_schema()
    assert list(lines(schema, schema["$defs"])) == TABLE.read_text(encoding="utf-8").splitlines()


def test_without_a_file_the_configuration_is_the_table():
    tree = load_config(None).model_dump()
    checked = 0
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        name, default, _ = line.split(" | ")
        *path, last = name.split(".")
        at = tree
        for part in path:
            at = at.get(part) if isinstance(at, dict) else None
        if isinstance(at, dict) and default not in ("section", "required"):
            assert at[last] == json.loads(default), name
            checked += 1
    assert checked > 90
