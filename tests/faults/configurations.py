"""Configurations: YAML trees, `--set` strings and raw bytes.

Nonsense is an accepted number that is not finite or beyond any use, text that cannot be a name or a path, and a
configuration that does not survive being written down and read back.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import random
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from faults import mutate
from faults.fuzz import Nonsense, Target, scalars

from mmhicra.config.loading import dump_config, load_config

CONFIGS = Path(__file__).parents[2] / "configs"
LARGEST = 1e12
"""Beyond any count, size or seed of a run, and far beyond any weight or rate."""
HOSTILE = (
    "seed: 0b_",
    "run_folder: 2026-02-30",
    "seed: " + "9" * 5000,
    "[" * 3000,
    "{" * 3000,
    "a: &a [*a]",
    "- 1\n- 2",
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)),
    "\n".join(f"k{n}: 1" for n in range(20000)),
    "seed: [" + "1," * 200000 + "]",
    "!!python/object/apply:os.system ['true']",
    "? [a]\n: 1",
    "seed: 0o99",
    "seed: 1_0",
    "seed: 190:20:30",
    "run_folder: !!binary aGk=",
    "run_folder: !!set {a}",
    "seed: 0x",
    "<<: 1",
    "<<: {seed: 3}",
    "run_folder: =",
    "--- 1\n--- 2",
    "%YAML 9.9\n---\nseed: 1",
    "\ufeffseed: 1",
    "seed: .inf",
    "train: {steps: 1e3}",
)


@cache
def complete() -> dict[str, Any]:
    """Every field with a value."""
    return yaml.safe_load(dump_config(load_config(CONFIGS / "tiny.yaml")))


@cache
def shipped() -> list[str]:
    """The configurations that ship, as text."""
    return [path.read_text(encoding="utf-8") for path in sorted(CONFIGS.glob("*.yaml"))]


def write(rng: random.Random, folder: Path) -> None:
    """`config.yaml`, and `sets.json` with the overrides."""
    sets: list[str] = []
    text = rng.choice(shipped()).encode()
    kind = rng.randrange(10)
    if kind < 3:
        tree = mutate.change(complete() if kind else yaml.safe_load(text), rng, rng.randint(1, 3))
        text = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")
    elif kind < 6:
        names = [".".join(map(str, path)) for path in mutate.paths(complete())]
        for _ in range(rng.randint(1, 3)):
            name = rng.choice(names) if rng.random() < 0.9 else mutate.text(rng)
            sets.append(f"{name}{rng.choice(['=', '=', '=', '=', ''])}{written(rng)}")
    elif kind >= 8:
        text = yaml.safe_dump(other_number(complete(), rng), sort_keys=False).encode()
    elif kind == 6:
        text = mutate.spoil_bytes(text, rng)
    else:
        text = rng.choice(HOSTILE).encode()
    (folder / "config.yaml").write_bytes(text)
    (folder / "sets.json").write_text(json.dumps(sets))


def other_number(tree: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """One number of a whole configuration replaced by an odd one of its own type."""
    tree = copy.deepcopy(tree)
    places = []
    for path in mutate.paths(tree):
        inner = functools.reduce(lambda part, key: part[key], path, tree)
        if isinstance(inner, int | float) and not isinstance(inner, bool):
            places.append((path, inner))
    (*outer, last), inner = rng.choice(places)
    if isinstance(inner, float):
        odd: Any = rng.choice([math.nan, math.inf, -math.inf, 1e300, 1e20, -1.0, 0.0, 1e-300, 1.5, 0.5, 2.0, 1e6])
    else:
        odd = rng.choice([2**64, 2**63, -1, 0, 1, 10**30, 100_000, 10**9, 3])
    functools.reduce(lambda part, key: part[key], outer, tree)[last] = odd
    return tree


def written(rng: random.Random) -> str:
    """A value as somebody types it."""
    if rng.random() < 0.4:
        return rng.choice(
            [
                ".nan",
                ".inf",
                "-.inf",
                "1e999",
                "1e20",
                "-1",
                "0",
                "[1.5, 2]",
                "18446744073709551616",
                "~",
                "100000",
                "'a\\0b'",
                '"a\\0b"',
                "[",
                "{a: 1}",
                "2026-02-30",
                "yes",
                "1e-30",
            ]
        )
    odd = mutate.value(rng)
    return odd if isinstance(odd, str) else json.dumps(odd)


def attempt(folder: Path) -> None:
    """Read the configuration; look at what was accepted."""
    config = load_config(folder / "config.yaml", json.loads((folder / "sets.json").read_text()))
    for name, leaf in scalars(config.model_dump()):
        largest = LARGEST if name != "seed" else 2**63 - 1
        if isinstance(leaf, int | float) and not abs(leaf) <= largest:
            raise Nonsense(f"{name} may be {leaf!r}")
        if isinstance(leaf, str):
            refuse_unwritable(name, leaf)
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise Nonsense(f"{name} may be {leaf!r}")
    copy = folder / "again.yaml"
    copy.write_text(dump_config(config), encoding="utf-8")
    if load_config(copy) != config:
        raise Nonsense("the configuration is another one when written and read back")


def refuse_unwritable(name: str, text: str) -> None:
    """Raises Nonsense for text that is no path, name or UTF-8."""
    if "\x00" in text:
        raise Nonsense(f"{name} may hold a NUL: {text!r}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Nonsense(f"{name} may hold what UTF-8 cannot: {text!r}") from None


TARGET = Target("config", write, attempt)
