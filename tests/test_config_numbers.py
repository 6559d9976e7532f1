"""Every number of the configuration has bounds: a walk over all fields, so that a new one cannot forget them."""

import math
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from mmhicra.config import RunConfig
from mmhicra.config.loading import build_config
from mmhicra.core.errors import ConfigError

ABSURD = {
    int: [10**30, -(10**30), 10**5000, True, 1.5, math.nan],
    float: [math.inf, -math.inf, math.nan, 1e300, -1e300, 10**30, 10**5000, True, "1"],
    str: ["a\0b", "\ud800", 7],
}


def fields_of(section, path=()):
    """Path and type of every number and text under `section`, in lists and optional sections too."""
    found = []
    for name, field in section.model_fields.items():
        found += leaves_of(field.annotation, (*path, name))
    return found


def leaves_of(kind: Any, path):
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return fields_of(kind, path)
    if kind in ABSURD:
        return [(path, kind)]
    if get_origin(kind) is Annotated:
        return leaves_of(get_args(kind)[0], path)
    if get_origin(kind) in (Union, UnionType):
        return [leaf for part in get_args(kind) for leaf in leaves_of(part, path)]
    if get_origin(kind) is list:
        return leaves_of(get_args(kind)[0], (*path, 0))
    return []


FIELDS = fields_of(RunConfig)


def test_the_walk_finds_the_fields():
    names = {".".join(map(str, path)) for path, _ in FIELDS}
    assert names >= {
        "seed", "train.optimizer.learning_rate", "train.optimizer.betas.0", "train.loss.siren.coefficient",
        "reward.custom.0.weight", "eval.benchmarks.0.limit", "hicra.adaptive.target", "rollout.vllm.kv_cache_gib",
    }  # fmt: skip
    numbers = [kind for _, kind in FIELDS if kind is not str]
    assert len(numbers) > 70


@pytest.mark.parametrize(("path", "kind"), FIELDS, ids=[".".join(map(str, path)) for path, _ in FIELDS])
def test_absurd_values_are_refused_by_name(path, kind):
    for value in ABSURD[kind]:
        tree: Any = value
        for part in reversed(path):
            tree = [tree] if part == 0 else {part: tree}
        with pytest.raises(ConfigError) as refusal:
            build_config(tree)
        # Pydantic names an item of a list of texts by its list where the whole list is looked through.
        name = ".".join(str(part) for part in path)
        named = [line for line in str(refusal.value).splitlines() if f"configuration: {name}" in line]
        if path[-1] == 0 and kind is str:
            named = [line for line in str(refusal.value).splitlines() if name.removesuffix(".0") in line]
        assert named, f"{name} took {value!r:.40}: {refusal.value}"
        assert all(len(line) < 400 for line in named)
