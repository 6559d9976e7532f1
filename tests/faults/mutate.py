"""Random changes to text, bytes and JSON trees, shared by the fuzzers."""

from __future__ import annotations

import copy
import random
from typing import Any

NUMBERS: tuple[Any, ...] = (
    0,
    1,
    -1,
    2,
    7,
    0.5,
    -0.0,
    1e-300,
    1e300,
    1e20,
    2**31,
    2**63,
    2**64,
    10**30,
    float("nan"),
    float("inf"),
    float("-inf"),
    True,
)
TEXTS: tuple[str, ...] = (
    "",
    " ",
    "x",
    "0",
    "null",
    "none",
    "auto",
    "\x00",
    "a\x00b",
    "\u202e",
    "é",
    "日本",
    "😀",
    "\ud800",
    "nan",
    "inf",
    "../..",
    "/",
    "~",
    "/dev/null",
    "C:\\x",
    "file:///etc/passwd",
    "http://127.0.0.1:9/x",
    "<image>",
    "<|im_end|>",
    "%s",
    "{}",
    "{{ 1/0 }}",
    "2026-02-30",
    "0b_",
    "1e400",
    "x" * 300,
    "\n",
    "\r\n",
    "\t",
    "'",
    '"',
    "\\",
    "$",
    "`",
)
ANY: tuple[Any, ...] = (None, [], {}, [[]], {"a": 1}, [None], [1, 2, 3], *NUMBERS, *TEXTS)


def value(rng: random.Random) -> Any:
    """Any JSON-like value, mostly an odd one."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(NUMBERS)
    if kind == 1:
        return rng.choice(TEXTS)
    if kind == 2:
        return rng.uniform(-10, 10) * 10 ** rng.randint(-12, 12)
    if kind == 3:
        return rng.randint(-(10 ** rng.randint(1, 25)), 10 ** rng.randint(1, 25))
    if kind == 4:
        return text(rng)
    return copy.deepcopy(rng.choice(ANY))


def text(rng: random.Random) -> str:
    """Short text of odd characters."""
    return "".join(
        rng.choice(TEXTS)
        if rng.random() < 0.3
        else chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x20, 0x2FFF))))
        for _ in range(rng.randrange(1, 12))
    )


def paths(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the values of a tree stand, inner ones included."""
    found = [at] if at else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, inner in items:
        found += paths(inner, (*at, key))
    return found


def change(tree: Any, rng: random.Random, times: int = 1) -> Any:
    """A copy of a tree with some values replaced, removed, renamed or added."""
    tree = copy.deepcopy(tree)
    for _ in range(times):
        places = paths(tree)
        if not places:
            return value(rng)
        *outer, last = rng.choice(places)
        inner = tree
        for key in outer:
            inner = inner[key]
        kind = rng.randrange(8)
        if kind == 0:
            del inner[last]
        elif kind == 1 and isinstance(inner, dict):
            inner[text(rng)] = inner.pop(last)
        elif kind == 2 and isinstance(inner, dict):
            inner[text(rng)] = value(rng)
        elif kind == 3 and isinstance(inner[last], str) and inner[last]:
            inner[last] = spoil_text(inner[last], rng)
        elif kind == 4 and isinstance(inner[last], int | float):
            inner[last] = inner[last] * rng.choice([-1, 0, 10, 1e6, 0.5]) if abs(inner[last]) < 1e300 else 0
        else:
            inner[last] = value(rng)
    return tree


def spoil_text(whole: str, rng: random.Random) -> str:
    """Text with a piece removed, doubled or put in."""
    start = rng.randrange(len(whole))
    end = min(len(whole), start + rng.randrange(1, 8))
    return whole[:start] + rng.choice(["", whole[start:end] * 2, text(rng)]) + whole[end:]


def spoil_bytes(whole: bytes, rng: random.Random) -> bytes:
    """Bytes cut short, with bits turned over, or with a piece removed, zeroed, doubled or made up."""
    kind = rng.randrange(7)
    if not whole or kind == 0:
        return whole[: rng.randrange(len(whole) + 1)]
    start = rng.randrange(len(whole))
    end = min(len(whole), start + rng.choice([1, 1, 4, 16, 256, 4096]))
    if kind == 1:
        turned = whole[start] ^ (1 << rng.randrange(8))
        return whole[:start] + bytes([turned]) + whole[start + 1 :]
    piece = {2: b"", 3: bytes(end - start), 4: whole[start:end] * 2, 5: rng.randbytes(end - start), 6: b"\xff\xfe\x00"}
    return whole[:start] + piece[kind] + whole[end:]
