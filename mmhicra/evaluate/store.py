"""Responses on disk as they come in: a run that was killed goes on where it was and generates nothing twice.

Beside `NAME.responses.jsonl`, a line per response, `NAME.generation.json` says how they came about. The former is an
output file like any other to `mmhicra eval score`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmhicra.core.errors import DataError, RunFolderError
from mmhicra.core.files import write_whole, writing
from mmhicra.evaluate.questions import QuestionSet
from mmhicra.evaluate.scoring.records import Response

WAY_OUT = "free the disk, or name another folder with --out"


class ResponseStore:
    """The responses to one set of questions, in order, whole batches at a time.

    Args:
        folder: where the two files go.
        questions: what is asked.
        generation: how; a store that was begun in another way is refused.
        n: responses to each question.
        at_a_time: questions in a batch.

    Raises:
        RunFolderError: what is there was generated in another way, or belongs to other questions.
        DataError: the folder cannot be written.
    """

    def __init__(
        self, folder: Path, questions: QuestionSet, generation: Mapping[str, Any], n: int, at_a_time: int
    ) -> None:
        self.path = folder / f"{questions.name}.responses.jsonl"
        self.generation_path = folder / f"{questions.name}.generation.json"
        self.questions = questions
        self.n = n
        self._refuse_other_generation(json.loads(json.dumps(generation)))
        lines = self._whole_lines()
        kept = len(questions.items) * n
        if len(lines) < kept:
            kept = len(lines) // (at_a_time * n) * at_a_time * n
        self._keep(lines[:kept], cut=kept < len(lines))
        self.responses = [self._read(number, line) for number, line in enumerate(lines[:kept])]

    @property
    def answered(self) -> int:
        """Questions that are answered, from the first on."""
        return len(self.responses) // self.n

    @property
    def whole(self) -> bool:
        """Whether nothing is left to generate."""
        return self.answered == len(self.questions.items)

    def by_question(self) -> list[list[Response]]:
        """The responses to each answered question."""
        return [self.responses[start : start + self.n] for start in range(0, len(self.responses), self.n)]

    def append(self, answered: Sequence[Sequence[Response]]) -> None:
        """Keep one batch, on disk before anything else is done with it.

        Raises:
            DataError: the file cannot be written.
        """
        try:
            with self.path.open("ab") as file:
                file.write(_lines(self.questions, answered))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from None
        self.responses += [response for some in answered for response in some]

    def _read(self, number: int, line: bytes) -> Response:
        item = self.questions.items[number // self.n]
        cells = json.loads(line)
        if (cells[self.questions.benchmark.id_field], cells["sample"]) != (item.id, number % self.n):
            raise RunFolderError(
                f"{self.path}, line {number + 1} answers another question than {item.id}: the file was changed; "
                "remove it, or name another folder with --out"
            )
        cut_off = cells["finish_reason"] == "length"
        return Response(item.id, cells["response"], truncated=cut_off, sample=cells["sample"], tokens=cells["tokens"])

    def _refuse_other_generation(self, generation: dict[str, Any]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.generation_path.exists():
                text = json.dumps(generation, indent=1, ensure_ascii=False) + "\n"
                write_whole(self.generation_path, text, WAY_OUT)
                self.path.unlink(missing_ok=True)
                return
            before = json.loads(self.generation_path.read_text(encoding="utf-8"))
        except OSError as error:
            raise _unwritable(self.path, error) from None
        changed = [
            f"{name} was {old!r}, is {new!r}"
            for name in sorted(before.keys() | generation.keys())
            if (old := before.get(name)) != (new := generation.get(name))
        ]
        if changed:
            raise RunFolderError(
                f"{self.path.parent} holds responses of another evaluation of {self.questions.name} "
                f"({'; '.join(changed)}): name another folder with --out, or add --overwrite"
            )

    def _whole_lines(self) -> list[bytes]:
        """The lines of the file; one that a kill cut short is no line."""
        return self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []

    def _keep(self, lines: Sequence[bytes], cut: bool) -> None:
        """Take off what stands after `lines`: the beginning of a batch that was never finished."""
        size = sum(len(line) + 1 for line in lines)
        if self.path.exists() and (cut or self.path.stat().st_size > size):
            os.truncate(self.path, size)


def write_responses(path: Path, questions: QuestionSet, answered: Sequence[Sequence[Response]]) -> None:
    """Write all responses at once, as a store would have.

    Raises:
        RunFolderError: the file cannot be written.
    """
    with writing(path, WAY_OUT):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _lines(questions, answered), WAY_OUT)


def remove_stored(folder: Path, benchmark: str) -> None:
    """Remove the responses to one benchmark, and how they came about."""
    for kind in ("responses.jsonl", "generation.json"):
        (folder / f"{benchmark}.{kind}").unlink(missing_ok=True)


def _lines(questions: QuestionSet, answered: Sequence[Sequence[Response]]) -> bytes:
    lines = [
        {
            questions.benchmark.id_field: response.id,
            "sample": response.sample,
            "response": response.text,
            "finish_reason": "length" if response.truncated else "stop",
            "tokens": response.tokens,
        }
        for some in answered
        for response in some
    ]
    # A response may hold lone surrogates, which no encoding has but JSON's own.
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return text.encode("utf-8", "backslashreplace")


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be written ({error.strerror}): name another folder with --out")
