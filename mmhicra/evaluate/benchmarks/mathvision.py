"""MathVision (MATH-V): its questions, official scoring and aggregates by subject and level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmhicra.evaluate.benchmarks.cards import Card, read_card
from mmhicra.evaluate.benchmarks.cells import choices_of, required
from mmhicra.evaluate.benchmarks.mathvision_rules import extract_official, is_correct
from mmhicra.evaluate.scoring.records import Item, Response, SampleRecord, Stage
from mmhicra.evaluate.scoring.robust import blank_record
from mmhicra.rewards.answers import Extraction, final_text

_LONGEST_RESPONSE = 100_000
"""Characters of a response that the official rules search; a longer one keeps its end, where answers stand."""


@dataclass(frozen=True)
class MathVision:
    """The benchmark."""

    name: str = "mathvision"
    response_fields: tuple[str, ...] = ("response",)
    extraction_field: str = "model_answer"
    label_field: str = "correct"
    id_field: str = "id"

    @property
    def card(self) -> Card:
        """What ships about it."""
        return read_card(self.name)

    def read_item(self, cells: Mapping[str, Any], where: str) -> Item:
        """One row of `test.jsonl` or of the hub's parquet.

        Raises:
            DataError: a column is missing.
        """
        choices = choices_of(cells.get("options"))
        subject, level = required(cells, "subject", where), required(cells, "level", where)
        answer = required(cells, "answer", where)
        return Item(
            id=required(cells, "id", where),
            question=required(cells, "question", where),
            answer=answer.replace("\x0crac", r"\frac"),  # question 2830 lost a backslash
            kind="choice" if choices else "math",
            choices=choices,
            groups={"level": (level,), "subject": (subject,), "subject x level": (f"{subject}_level{level}",)},
            cluster=required(cells, "id", where),
            facts={"answer": answer, "image": cells.get("decoded_image") or cells.get("image")},
        )

    def score_official(self, item: Item, response: Response, stage: Stage) -> SampleRecord:
        """The official verdict on one response."""
        if stage == "equality":
            extraction = Extraction(response.extraction, "stored extraction")
        else:
            extraction = Extraction(extract_official(response.text[-_LONGEST_RESPONSE:]), _method(response.text))
        record = blank_record(item, response, extraction)
        answer = extraction.text
        if answer is None:
            return replace(record, method="no stored extraction", why="no stored extraction")
        correct = is_correct(answer, str(item.facts["answer"]), item.choices)
        return replace(
            record,
            correct=correct,
            normalised=answer,
            why="equals the gold" if correct else "another answer",
            truncated=record.truncated or final_text(response.text) is None,
            fallback=extraction.method == "whole response",
        )

    def official_scores(self, records: Sequence[SampleRecord]) -> dict[str, str]:
        """The result file as the official code writes it: `436/3040=14.34%`, keys sorted."""
        counts: dict[str, list[int]] = {}
        for record in records:
            (level,), (subject,) = record.groups["level"], record.groups["subject"]
            keys = ("-all", f"-level{level}", subject, f"{subject}_level{level}", f"-level{level}_{subject}")
            for key in keys:
                count = counts.setdefault(key, [0, 0])
                count[0] += record.correct
                count[1] += 1
        return {key: f"{right}/{all_}={round(right / all_ * 100, 2)}%" for key, (right, all_) in sorted(counts.items())}


def _method(response: str) -> str:
    """The place where the official rules find the answer; what they do not recognise is an answer as a whole."""
    if "oxed{" in response:
        return "boxed"
    if "answer is" in response or "answer should be" in response:
        return "phrase"
    return "bare" if len(response) <= 80 else "whole response"
