"""Files of Strategic Grams: JSON, lists and plain text.

Nonsense is an accepted library whose grams are blank or cannot be written down and read back to the same hash, or a
gram that does not mark the text it stands in.
"""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

from faults import mutate
from faults.fuzz import Nonsense, Target

from mmhicra.core.resources import asset_path
from mmhicra.hicra.grams import GramLibrary, normalise


@cache
def shipped() -> bytes:
    """A library that ships."""
    return asset_path("strategic_grams/published_249.json").read_bytes()


def write(rng: random.Random, folder: Path) -> None:
    """`grams.json` or `grams.txt`."""
    kind, tree = rng.randrange(5), json.loads(shipped())
    tree["grams"] = rng.sample(tree["grams"], 6)
    if kind == 0:
        content = mutate.spoil_bytes(shipped(), rng)
    elif kind == 1:
        content = json.dumps(mutate.change(tree, rng, rng.randint(1, 3))).encode()
    elif kind == 2:
        content = json.dumps([mutate.value(rng) if rng.random() < 0.3 else mutate.text(rng) for _ in range(4)]).encode()
    elif kind == 3:
        content = rng.choice(
            [
                b"[" * 100_000,
                b"",
                b"{}",
                b"[]",
                b'{"grams": 1}',
                b'"x"',
                b'\xef\xbb\xbf["so"]',
                b"1e999",
                b'{"grams": ["a", "a"]}',
                b'["\\ud800"]',
                b'["x", NaN]',
                b"9" * 6000,
            ]
        )
    else:
        lines = [mutate.text(rng) for _ in range(rng.randrange(6))]
        content = "\n".join(lines).encode("utf-8", "surrogatepass")
    (folder / rng.choice(["grams.json", "grams.json", "grams.txt"])).write_bytes(content)


def attempt(folder: Path) -> None:
    """Load the library, save it, load it again."""
    (path,) = folder.iterdir()
    library = GramLibrary.load(path)
    for gram in library.grams:
        if not normalise(gram.text):
            raise Nonsense(f"a blank gram: {gram.text!r}")
    library.save(folder / "again.json")
    again = GramLibrary.load(folder / "again.json")
    if again.content_hash != library.content_hash or len(again) != len(library):
        raise Nonsense(f"{len(library)} grams are {len(again)} others when saved and loaded")


TARGET = Target("grams", write, attempt)
