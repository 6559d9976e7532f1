"""Small mistakes that the tests have to notice, as data: `areas/*.toml`, a file per area.

A mutant replaces a text, which stands exactly once in its file, by another. Mutants that change nothing that a user or
a test could see (equivalent ones) do not belong in the list.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
AREAS = Path(__file__).parent / "areas"


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        area: the name of its file in `areas`.
        file: the source file, from the repository's root.
        text: what is replaced; several lines may be given.
        replacement: by what.
        tests: pytest's names of the tests that should notice, the likeliest first.
        why: what a user would suffer.
    """

    area: str
    file: str
    text: str
    replacement: str
    tests: tuple[str, ...]
    why: str

    @property
    def title(self) -> str:
        """One line that says which it is."""
        old, new = (" ".join(text.split()) for text in (self.text, self.replacement))
        return f"{self.file}: {old} -> {new or '(nothing)'}"

    def plant(self, source: str) -> str:
        """`source` with the mistake.

        Raises:
            ValueError: the text does not stand exactly once in it, or nothing would change.
        """
        count = source.count(self.text)
        if count != 1:
            raise ValueError(f"{self.title}: the text stands {count} times in the file, not once: mend the list")
        if self.text == self.replacement:
            raise ValueError(f"{self.title}: changes nothing")
        return source.replace(self.text, self.replacement)


def load_mutants(area: str | None = None, folder: Path = AREAS) -> list[Mutant]:
    """All mutants, or those of one area, in the order of the files of `folder`.

    Raises:
        ValueError: there is no such area, or an entry lacks something.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    if area is not None and area not in files:
        raise ValueError(f"no area {area}: choose from {', '.join(files)}")
    found: list[Mutant] = []
    for name in [area] if area is not None else files:
        tree = tomllib.loads(files[name].read_text(encoding="utf-8"))
        defaults = {key: value for key, value in tree.items() if key != "mutant"}
        for entry in tree["mutant"]:
            whole = {**defaults, **entry}
            lacking = {"file", "text", "replacement", "tests", "why"} - whole.keys()
            if lacking:
                raise ValueError(f"{files[name]}: {entry.get('text')!r} lacks {', '.join(sorted(lacking))}")
            whole["tests"] = tuple(whole["tests"])
            found.append(Mutant(area=name, **whole))
    return found
