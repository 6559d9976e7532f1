"""Benchmarks that are rows with a question and an answer, and nothing official to compute: EMMA and the text sets.

Their card says which column holds what; they are scored robustly, since no rules of theirs are the field's custom.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmhicra.core.errors import ConfigError
from mmhicra.core.records import AnswerKind
from mmhicra.evaluate.benchmarks.cards import Card
from mmhicra.evaluate.benchmarks.cells import choices_of, required, text_of
from mmhicra.evaluate.scoring.records import Item, Response, SampleRecord, Stage

_NUMBERED_IMAGE = re.compile(r"<image_(\d+)>")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class ColumnBenchmark:
    """A benchmark that its card's `columns` describe.

    Roles: `question`, `answer`, and where there are any `id` (else the row's number), `choices`, `images` (a list of
    columns), `context` (put before the question), `unit` (put after it), `groups` (a list of columns that aggregates
    are made by).
    """

    card: Card
    response_fields: tuple[str, ...] = ("response",)
    extraction_field: str = "extraction"
    label_field: str = "correct"

    @property
    def name(self) -> str:
        """As in `NAMES`."""
        return self.card.name

    @property
    def id_field(self) -> str:
        """Column with the item's id."""
        return self._column("id") or "id"

    def read_item(self, cells: Mapping[str, Any], where: str) -> Item:
        """One row.

        Raises:
            DataError: a column is missing.
        """
        identity = text_of(cells.get(self.id_field, cells.get("id"))) or where.rpartition(":")[2]
        answer = self._answer(cells, where)
        # The list stands in every row of some sets, empty or None where nothing is to be chosen.
        choices = choices_of(cells.get(self._column("choices") or ""))
        kind: AnswerKind = "choice" if choices else "number" if _NUMBER.fullmatch(answer) else "math"
        images = [cells.get(column) for column in self._columns("images")]
        return Item(
            id=identity,
            question=self._question(cells, where),
            answer=answer,
            kind=kind,
            choices=choices,
            groups={column: (text_of(cells.get(column)),) for column in self._columns("groups")},
            cluster=identity,
            facts={"image": [image for image in images if image is not None and image != ""]},
        )

    def score_official(self, item: Item, response: Response, stage: Stage) -> SampleRecord:
        """There is nothing official.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self.name} has no official rules to score by: use --mode robust")

    def official_scores(self, records: Sequence[SampleRecord]) -> dict[str, Any]:
        """Nothing official."""
        return {}

    def _question(self, cells: Mapping[str, Any], where: str) -> str:
        question = required(cells, self._column("question") or "question", where)
        context = text_of(cells.get(self._column("context") or ""))
        unit = text_of(cells.get(self._column("unit") or ""))
        written = f"{question} (Unit: {unit})" if unit else question
        return _NUMBERED_IMAGE.sub(r"<image\1>", f"{context}\n{written}".strip())

    def _answer(self, cells: Mapping[str, Any], where: str) -> str:
        column = self._column("answer") or "answer"
        cell = cells.get(column)
        if isinstance(cell, str) and cell.startswith("["):
            try:
                cell = ast.literal_eval(cell)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                return cell
        if isinstance(cell, Sequence) and not isinstance(cell, str):
            cell = ", ".join(map(str, cell))
        answer = required({column: cell}, column, where).strip()
        whole = re.fullmatch(r"(-?\d+)\.0", answer)  # AMC23 stores 27 as 27.0
        return whole[1] if whole else answer

    def _column(self, role: str) -> str | None:
        return (self.card.columns or {}).get(role)

    def _columns(self, role: str) -> Sequence[str]:
        return (self.card.columns or {}).get(role) or ()
