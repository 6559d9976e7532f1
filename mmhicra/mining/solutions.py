"""Correct solutions out of a run's rollouts or any JSON Lines: the corpus that Strategic Grams are mined from."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmhicra.core.errors import DataError
from mmhicra.core.rollout_files import FOLDER, RolloutLines, StepFiles, rollout_steps
from mmhicra.hicra.grams import normalise
from mmhicra.mining.ngrams import Progress

TEXT_FIELDS = ("response", "solution", "completion", "model_output", "output", "generation", "generated_text", "text")
CORRECT_FIELDS = ("reward.verdict", "verdict", "correct", "is_correct", "accuracy", "acc", "score", "reward")
"""Names of fields that are searched in this order in the first record; `a.b` is field b of the object in field a."""
PROMPT_FIELDS = ("question", "prompt", "problem", "query", "instruction")
"""Names of fields with the question, which is never mined: not as the text, and not where a text begins with it."""
RIGHT = frozenset({"right", "correct", "true", "yes", "pass", "passed"})
WRONG = frozenset({"wrong", "incorrect", "false", "no", "fail", "failed", "no-answer", "gold-unusable"})
"""Words that are verdicts, in any case of letters. Of a number, 0.5 and more is right."""
SOLUTION_WORDS = 8
"""If more than half of the texts have fewer words than this, they are final answers and no solutions."""


@dataclass
class Corpus:
    """Distinct correct solutions and how they were come by.

    Attributes:
        texts: the solutions, without their questions.
        text_field: where they were.
        correct_field: where their verdicts were, None if all were said to be correct.
        counts: how many rows were `read`, and of them `wrong`, `empty`, `duplicate` or `used`;
            and in how many of those a copy of the question was cut off (`question_cut`).
        files: per file its path, its SHA-256 and its rows.
    """

    texts: list[str] = field(default_factory=list)
    text_field: str = ""
    correct_field: str | None = None
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("read", "wrong", "empty", "duplicate", "used", "question_cut"), 0)
    )
    files: list[dict[str, Any]] = field(default_factory=list)


def read_solutions(
    sources: Sequence[str | Path],
    *,
    text_field: str | None = None,
    correct_field: str | None = None,
    all_correct: bool = False,
    progress: Progress = lambda phase, done, total: None,
) -> Corpus:
    """The distinct correct solutions in run folders and JSON Lines files (plain, `.gz` or `.zst`).

    Args:
        sources: run folders (their `rollouts/`) or files.
        text_field: where the solution is; by default the first of `TEXT_FIELDS` that the first record has.
        correct_field: where the verdict is (true or false, a number, a word); by default from `CORRECT_FIELDS`.
        all_correct: every solution is correct, there is no verdict to look for.
        progress: called after every file.

    Raises:
        DataError: a file, a field or a verdict cannot be read, no correct solution is left, or the texts
            are final answers.
    """
    if text_field in PROMPT_FIELDS:
        raise DataError(f"text field {text_field!r}: questions are never mined: name the field of the solutions")
    corpus = Corpus(text_field=text_field or "", correct_field=correct_field)
    seen: set[str] = set()
    found = solution_files(sources)
    for number, files in enumerate(found, start=1):
        rows: Counter[str] = Counter()
        for where, record in read_records(files):
            if not corpus.text_field:
                corpus.text_field = detect_field(record, TEXT_FIELDS, "--text-field", where)
            if not corpus.correct_field and not all_correct:
                corpus.correct_field = detect_field(record, CORRECT_FIELDS, "--correct-field (or --all)", where)
            outcome = _take(record, corpus, seen, all_correct, where)
            corpus.counts["read"] += 1
            corpus.counts[outcome] += 1
            rows[where.rpartition(":")[0]] += 1
        for path in files.paths:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            corpus.files.append({"path": str(path), "sha256": digest, "rows": rows[str(path)]})
        progress("reading solutions", number, len(found))
    if not corpus.texts:
        counts = ", ".join(f"{count} {name}" for name, count in corpus.counts.items() if name != "question_cut")
        raise DataError(f"{', '.join(map(str, sources))}: no correct solution to mine ({counts}): give more")
    short = sum(len(text.split()) < SOLUTION_WORDS for text in corpus.texts)
    if 2 * short > len(corpus.texts):
        looks = f"{short} of {len(corpus.texts)} texts have fewer than {SOLUTION_WORDS} words, like final answers"
        raise DataError(f"field {corpus.text_field!r}: {looks}: name the field of whole solutions by --text-field")
    return corpus


def solution_files(sources: Sequence[str | Path]) -> list[StepFiles]:
    """The rollout files of run folders, step by step, and the files themselves.

    Raises:
        DataError: one is missing, or a folder holds no rollouts.
    """
    found: list[StepFiles] = []
    for source in map(Path, sources):
        if not source.is_dir():
            found.append(StepFiles(0, (source,)))
            continue
        steps = rollout_steps(source / FOLDER)
        if not steps:
            raise DataError(f"{source}: no {FOLDER}/step_*.jsonl.zst in this folder: name a run folder or a file")
        found += steps
    missing = next((path for files in found for path in files.paths if not path.is_file()), None)
    if missing:
        raise DataError(f"{missing}: no such file: name a run folder or a JSON Lines file")
    return found


def read_records(files: StepFiles) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of JSON Lines files, each with `file:line`; blank lines are none.

    Raises:
        DataError: a file cannot be read, or a line is no JSON object.
    """
    lines = files.lines()
    try:
        for found in lines.located():
            refuse_damage(lines)
            yield found
    except OSError as error:
        name = error.filename or files.paths[0]
        raise DataError(f"{name}: cannot be read ({error}): give JSON Lines, plain, .gz or .zst") from None
    refuse_damage(lines)


def refuse_damage(lines: RolloutLines) -> None:
    """Raise DataError if a line was left out."""
    for path, damage in lines.damages:
        raise DataError(f"{path}:{damage.line}: {damage.reason}: give one JSON object a line, in UTF-8")


def field_of(record: dict[str, Any], name: str, option: str, where: str) -> Any:
    """What the field `a` or `a.b` holds.

    Raises:
        DataError: the record does not have it.
    """
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise DataError(f"{where}: no field {name!r} among {', '.join(_names(record))}: name it by {option}")
        value = value[part]
    return value


def detect_field(record: dict[str, Any], candidates: Sequence[str], option: str, where: str) -> str:
    """The first of the candidates that the record has.

    Raises:
        DataError: it has none.
    """
    names = _names(record)
    for name in candidates:
        if name in names:
            return name
    raise DataError(f"{where}: none of {', '.join(candidates)} among its fields {', '.join(names)}: give {option}")


def _take(record: dict[str, Any], corpus: Corpus, seen: set[str], all_correct: bool, where: str) -> str:
    """Add the record's solution to the corpus if it is correct and new; what became of it."""
    text = field_of(record, corpus.text_field, "--text-field", where)
    if not isinstance(text, str):
        raise DataError(f"{where}: {corpus.text_field} is {type(text).__name__}, not text: mend it or --text-field")
    if not all_correct and corpus.correct_field:
        verdict = field_of(record, corpus.correct_field, "--correct-field (or --all)", where)
        if not _is_right(verdict, f"{where}: {corpus.correct_field}"):
            return "wrong"
    solution = _without_question(text, record)
    key = normalise(solution)
    if not key:
        return "empty"
    if key in seen:
        return "duplicate"
    seen.add(key)
    corpus.texts.append(solution)
    corpus.counts["question_cut"] += len(solution) < len(text)
    return "used"


def _without_question(text: str, record: dict[str, Any]) -> str:
    for name in PROMPT_FIELDS:
        question = record.get(name)
        if isinstance(question, str) and question.strip() and text.lstrip().startswith(question.strip()):
            return text.lstrip()[len(question.strip()) :]
    return text


def _is_right(verdict: object, where: str) -> bool:
    if isinstance(verdict, str) and verdict.strip().lower() in RIGHT | WRONG:
        return verdict.strip().lower() in RIGHT
    if isinstance(verdict, bool | int | float):
        return verdict >= 0.5
    known = ", ".join(sorted(RIGHT | WRONG))
    raise DataError(f"{where} is {verdict!r}: use true or false, a number, or one of {known}")


def _names(record: dict[str, Any]) -> list[str]:
    """Its fields, and the fields of objects in them as `a.b`."""
    inner = [f"{name}.{key}" for name, value in record.items() if isinstance(value, dict) for key in value]
    return [name for name, value in record.items() if not isinstance(value, dict)] + inner
