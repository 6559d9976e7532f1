"""MathVista: its questions, its official scoring in both integer rules, and its nine aggregates.

Officially a language model reads the answer out of the response and rules judge it. Here the reward's extractor reads
it (or the extraction stored in an output file is taken, `stage="equality"`), and the rules are the official ones of
https://github.com/lupantech/MathVista (evaluation/calculate_score.py), in our own words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mmhicra.core.errors import DataError, brief
from mmhicra.core.records import AnswerKind
from mmhicra.evaluate.benchmarks.cards import Card, read_card
from mmhicra.evaluate.benchmarks.cells import choices_of, object_of, required, text_of
from mmhicra.evaluate.scoring.records import Item, Response, SampleRecord, Stage
from mmhicra.evaluate.scoring.robust import blank_record, named_options, read_answer
from mmhicra.rewards.answers import Extraction, final_text
from mmhicra.rewards.fallback_extraction import number_stated
from mmhicra.rewards.notation import LONGEST_ANSWER
from mmhicra.rewards.options import LETTERS
from mmhicra.rewards.values import read_value

IntegerRule = Literal["legacy", "current"]

KEYS = ("question_type", "answer_type", "language", "source", "category", "task", "context", "grade", "skills")
"""The keys of the official score files, in their order."""

_KINDS: dict[str, AnswerKind] = {"integer": "number", "float": "number", "list": "text", "text": "text"}
_BRACKETED = re.compile(r"\(([a-zA-Z])\)")


@dataclass(frozen=True)
class MathVista:
    """The benchmark.

    Attributes:
        integer_rule: `current` truncates (`5.0` and `5.7` are 5), as the published code does; `legacy` takes whole
            numbers only, as the labels stored with the 2023 outputs do.
    """

    integer_rule: IntegerRule = "current"
    name: str = "mathvista"
    response_fields: tuple[str, ...] = ("execution", "response")
    """A file of programs (`output_*_code.json`) holds what each printed; the program itself is no answer."""
    extraction_field: str = "extraction"
    label_field: str = "true_false"
    id_field: str = "pid"

    @property
    def card(self) -> Card:
        """What ships about it."""
        return read_card(self.name)

    def read_item(self, cells: Mapping[str, Any], where: str) -> Item:
        """One row of `testmini.json`, of the hub's parquet, or of an output file.

        Raises:
            DataError: a column is missing.
        """
        choices = choices_of(cells.get("choices"))
        metadata = object_of(cells, "metadata", where)
        skills = metadata.get("skills") or ()
        if not isinstance(skills, Sequence) or isinstance(skills, str) or not all(isinstance(s, str) for s in skills):
            raise DataError(f"{where}: skills in 'metadata' is {brief(skills)}, not a list of words: mend the row")
        question_type, answer_type = required(cells, "question_type", where), required(cells, "answer_type", where)
        if question_type == "multi_choice" and not choices:
            raise DataError(
                f"{where} is a choice question without choices ({brief(cells.get('choices'))}): mend the row"
            )
        groups = {key: text_of(metadata.get(key)) for key in KEYS[2:-1]}
        groups |= {"question_type": question_type, "answer_type": answer_type}
        return Item(
            id=required(cells, "pid", where),
            question=required(cells, "question", where),
            answer=required(cells, "answer", where),
            kind="choice" if question_type == "multi_choice" else _KINDS.get(answer_type, "text"),
            choices=choices if question_type == "multi_choice" else (),
            groups={key: (groups[key],) for key in KEYS[:-1]} | {"skills": tuple(skills)},
            cluster=required(cells, "pid", where),
            facts={name: cells.get(name) for name in ("precision", "unit", "query", "answer_type")}
            | {"image": cells.get("decoded_image") or cells.get("image")},
        )

    def score_official(self, item: Item, response: Response, stage: Stage) -> SampleRecord:
        """The official verdict on one response."""
        extraction = (
            read_answer(item, response, stage) if stage == "equality" else extract_by_rules(item, response.text)
        )
        record = blank_record(item, response, extraction)
        if extraction.method == "no stored extraction":
            return replace(record, why="no stored extraction")
        text = extraction.text or ""
        prediction, nearest = normalise(item, text, self.integer_rule)
        correct = prediction == item.answer
        why = "equals the gold" if correct else "another answer" if prediction is not None else "not of the answer type"
        several = item.kind == "choice" and len(text) <= LONGEST_ANSWER and len(named_options(text, item)) > 1
        return replace(
            record, correct=correct, normalised=prediction, why=why, nearest_choice=nearest, ambiguous=several
        )

    def official_scores(self, records: Sequence[SampleRecord]) -> dict[str, Any]:
        """`scores.json` as the official code writes it: accuracies as fractions, per key sorted by accuracy."""
        right = sum(record.correct for record in records)
        scores: dict[str, Any] = {"average": _cell(right, len(records))}
        for key in KEYS:
            counts: dict[str, list[int]] = {}
            for record in records:
                for value in record.groups[key]:
                    count = counts.setdefault(value, [0, 0])
                    count[0] += record.correct
                    count[1] += 1
            cells = {value: _cell(*count) for value, count in counts.items()}
            scores[key] = dict(sorted(cells.items(), key=lambda cell: -cell[1]["accuracy"]))
        return scores


def extract_by_rules(item: Item, response: str) -> Extraction:
    """What a language model would read out: the official shortcuts, then the reward's extractor, typed."""
    answer_type = item.facts.get("answer_type")
    if response in item.choices and response:
        return Extraction(response, "is a choice")
    if answer_type in ("integer", "float") and (number := _plain_number(response, answer_type)) is not None:
        return Extraction(number, "is a number")
    found = read_answer(item, Response(item.id, response))
    if found.text is None or len(found.text) > LONGEST_ANSWER:
        return Extraction(None, found.method)
    if item.kind == "choice":
        named = named_options(found.text, item)
        return Extraction(LETTERS[min(named)], found.method) if len(named) == 1 else found
    return Extraction(_typed_number(found.text, answer_type), found.method) if item.kind == "number" else found


def normalise(item: Item, extraction: str, integer_rule: IntegerRule) -> tuple[str | None, bool]:
    """The official normalisation: the string compared with the gold, and whether it is only the nearest choice."""
    answer_type = item.facts.get("answer_type")
    if item.kind == "choice":
        return _choice(item.choices, extraction.strip()[:LONGEST_ANSWER])
    try:
        if answer_type == "integer":
            return str(int(float(extraction)) if integer_rule == "current" else int(extraction)), False
        if answer_type == "float":
            return str(round(float(extraction), int(item.facts["precision"]))), False
    except (ValueError, TypeError, OverflowError):
        return None, False
    return extraction, False


def levenshtein(one: str, other: str) -> int:
    """Edits (insert, delete, replace) that turn one string into the other."""
    before = list(range(len(other) + 1))
    for row, left in enumerate(one, 1):
        now = [row]
        for column, right in enumerate(other, 1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (left != right)))
        before = now
    return before[-1]


def _choice(choices: tuple[str, ...], extraction: str) -> tuple[str, bool]:
    bracketed = _BRACKETED.search(extraction)
    letter = bracketed[1].upper() if bracketed else extraction
    if len(letter) == 1 and 0 <= LETTERS.find(letter) < len(choices):
        return choices[LETTERS.index(letter)], False
    distances = [levenshtein(letter, choice) for choice in choices]
    return choices[distances.index(min(distances))], True


def _plain_number(response: str, answer_type: str) -> str | None:
    text = final_text(response) or ""
    try:
        return str(int(text)) if answer_type == "integer" else str(float(text))
    except ValueError:
        return None


def _typed_number(text: str, answer_type: Any) -> str:
    """`text` as a number that Python reads, as a language model asked for "the final value" would write it."""
    value = read_value(text)
    if value is None:
        return number_stated(text) or text
    amount = float(value.amount)
    whole = amount.is_integer() and answer_type == "integer"
    return str(int(amount)) if whole else str(amount)


def _cell(correct: int, total: int) -> dict[str, Any]:
    return {"accuracy": correct / total if total else 0.0, "correct": correct, "total": total}
