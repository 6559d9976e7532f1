"""MathVerse: its questions in six versions, the one official rule that needs no model, and its aggregates.

Officially a language model reads the answer out of the response and another call judges it. Without one there is the
official `--quick_match`, string equality, which is what mode `official` means here; mode `robust` is the judge of this
suite, and the one to use. `ALL` is the mean over the five versions with an image; Text Only is never part of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmhicra.evaluate.benchmarks.cards import Card, read_card
from mmhicra.evaluate.benchmarks.cells import object_of, required
from mmhicra.evaluate.scoring.records import Item, Response, SampleRecord, Stage
from mmhicra.evaluate.scoring.robust import blank_record, read_answer
from mmhicra.rewards.options import options_named

TEXT_ONLY = "Text Only"
VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")

_CHOICES = re.compile(r"\n\s{0,9}Choices?\s{0,3}:?\s{0,9}\n")
_INLINE_OPTION = re.compile(r"(?<!\S)([A-H])[.:]\s")
_OPTION = re.compile(r"(?:^|\n)\s{0,9}\(?([A-H])\s{0,3}[:.)、]\s{0,9}")


@dataclass(frozen=True)
class MathVerse:
    """The benchmark."""

    name: str = "mathverse"
    response_fields: tuple[str, ...] = ("response", "model_answer")
    extraction_field: str = "extraction"
    label_field: str = "judgment"
    id_field: str = "sample_index"

    @property
    def card(self) -> Card:
        """What ships about it."""
        return read_card(self.name)

    def read_item(self, cells: Mapping[str, Any], where: str) -> Item:
        """One row of `testmini.json`, of the hub's builds, or of an output file.

        Raises:
            DataError: a column is missing.
        """
        metadata = object_of(cells, "metadata", where)
        subject, subfield = str(metadata.get("subject", "")), str(metadata.get("subfield", ""))
        version = required(cells, "problem_version", where)
        # Vision Only has its question in the image; `question_for_eval` has it in words.
        question = str(cells.get("question_for_eval") or cells.get("question") or cells.get("query_cot") or "")
        answer = required(cells, "answer", where)
        choices = read_options(question) if cells.get("question_type") == "multi-choice" else ()
        if cells.get("question_type") == "multi-choice" and not choices:
            choices = tuple("ABCDEFGH")  # written in the image only: letters are all there is
        if choices and not options_named(answer, choices):
            choices = ()
        return Item(
            id=required(cells, "sample_index", where),
            question=question,
            answer=answer,
            kind="choice" if choices else "math",
            choices=choices,
            groups={
                "version": (version,),
                "subject": (subject,),
                "subject-subfield": (f"{subject}-{subfield}",),
                "version x subject": (f"{version} / {subject}",),
            },
            cluster=required(cells, "problem_index", where),
            facts={
                "query_wo": cells.get("query_wo"),
                "query_cot": cells.get("query_cot"),
                "asked": cells.get("question") or "",
                "image": cells.get("decoded_image") or cells.get("image"),
            },
        )

    def score_official(self, item: Item, response: Response, stage: Stage) -> SampleRecord:
        """`--quick_match`: the answer is the gold, letter by letter."""
        extraction = read_answer(item, response, stage)
        record = blank_record(item, response, extraction)
        answer = (extraction.text or "").strip()
        correct = bool(answer) and answer == item.answer.strip()
        return replace(
            record, correct=correct, normalised=answer, why="the same string" if correct else "another string"
        )

    def official_scores(self, records: Sequence[SampleRecord]) -> dict[str, str]:
        """Per version and over all five, as the official code prints them: `285/788=36.17%`."""
        counts: dict[str, list[int]] = {}
        for record in records:
            (version,) = record.groups["version"]
            for key in (f"-{version}", *(["-all"] if version != TEXT_ONLY else [])):
                count = counts.setdefault(key, [0, 0])
                count[0] += record.correct
                count[1] += 1
        return {key: f"{right}/{all_}={round(right / all_ * 100, 2)}%" for key, (right, all_) in sorted(counts.items())}


def read_options(question: str) -> tuple[str, ...]:
    """The options of a question, `Choices:\\nA:40°\\nB:60°` or `A. 40° B. 60°`; empty unless they run A, B, ..."""
    heading = _CHOICES.search(question)
    listed = question[heading.end() :] if heading else question
    found = list((_OPTION if heading else _INLINE_OPTION).finditer(listed))
    ends = [option.start() for option in found[1:]] + [len(listed)]
    letters = "".join(option[1] for option in found)
    if len(found) < 2 or letters != "ABCDEFGH"[: len(found)]:
        return ()
    return tuple(listed[option.end() : end].strip() for option, end in zip(found, ends, strict=True))
