"""Rows that cannot be used: each is listed with its place and its reason, none is dropped unseen."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mmhicra.core.errors import DataError
from mmhicra.core.files import write_whole, writing
from mmhicra.data.text import printable, shorten

LONGEST_ID = 1000
"""Characters of an id in the list; no problem has a longer one."""
QUESTION_START = 80
"""Characters of the question that the list shows."""


@dataclass(frozen=True)
class RefusedRow:
    """One row that is not trained or evaluated on.

    Attributes:
        source: the file or split it is in.
        row: its line in JSON Lines, else its place in the file; from 1.
        id: the problem's id, or empty if it has none yet.
        reason: `what is wrong: details`.
        question: its first characters.

    All texts can be printed and written, whatever the row holds: a row is refused for a lone surrogate, too.
    """

    source: str
    row: int
    id: str
    reason: str
    question: str

    def __post_init__(self) -> None:
        for name in ("source", "id", "question"):
            object.__setattr__(self, name, printable(getattr(self, name))[:LONGEST_ID])
        object.__setattr__(self, "reason", shorten(self.reason))

    @property
    def where(self) -> str:
        """`file:row`."""
        return f"{self.source}:{self.row}"

    @property
    def kind(self) -> str:
        """What is wrong, without the details: `N prompt tokens exceed ...`."""
        return re.sub(r"\d+", "N", self.reason.split(":", 1)[0])


def start_of(question: object) -> str:
    """The first characters of a question on one line; nothing for what is not text."""
    text = " ".join(question.split()) if isinstance(question, str) else ""
    return text if len(text) <= QUESTION_START else text[:QUESTION_START] + "..."


def write_refused(path: Path, rows: Sequence[RefusedRow]) -> None:
    """Write `refused.jsonl`, one object per row; an empty file says that every row was used.

    Raises:
        RunFolderError: it cannot be written.
    """
    lines = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows]
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(lines))


def summarise_refused(rows: Sequence[RefusedRow]) -> list[str]:
    """One line per kind of reason, the most frequent first: `3: image missing (first: train.jsonl:12)`."""
    counts = Counter(row.kind for row in rows)
    first = {row.kind: row for row in reversed(rows)}
    ranked = sorted(counts, key=lambda kind: (-counts[kind], kind))
    return [f"{counts[kind]}: {kind} (first: {first[kind].where})" for kind in ranked]


def refuse_if_too_many(name: str, refused: Sequence[RefusedRow], used: int, allowed: float, listed: str = "") -> None:
    """Stop if no row of a source can be used, or a larger share than allowed cannot.

    Raises:
        DataError: one line with the counts, the first refused row and its reason, and the way to mend it.
    """
    rows = len(refused) + used
    if not refused or (used and len(refused) / rows <= allowed):
        return
    first = f"first {refused[0].where}: {refused[0].reason}{listed}"
    if not used:
        settings = "data.preset, data.columns and data.image_folder"
        raise DataError(f"{name}: none of its {rows} rows can be used, {first}; mend them, or look into {settings}")
    raise DataError(
        f"{name}: {len(refused)} of {rows} rows ({len(refused) / rows:.1%}) cannot be used, {first}; "
        f"mend them, or raise data.max_refused_share (now {allowed:g}) to train without them"
    )
