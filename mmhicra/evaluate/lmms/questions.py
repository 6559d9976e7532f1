"""Questions from any source, in the form in which the hub serves them and lmms-eval's tasks expect them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from mmhicra.core.errors import ConfigError, DataError
from mmhicra.data.sources import find_source
from mmhicra.evaluate.benchmarks.cards import read_card
from mmhicra.evaluate.benchmarks.cells import choices_of, text_of
from mmhicra.evaluate.benchmarks.prompts import mathvista_query
from mmhicra.evaluate.benchmarks.registry import make_benchmark
from mmhicra.evaluate.scoring.records import Item

IMAGE_COLUMN = {"mathvista": "decoded_image", "mathverse": "image", "mathvision": "decoded_image"}
"""The column of each benchmark's data set that keeps the image itself."""

_METADATA = {
    "mathvista": (
        *("split", "language", "img_width", "img_height", "source"),
        *("category", "task", "context", "grade", "skills"),
    ),
    "mathverse": ("split", "source", "subject", "subfield"),
}


def hub_form(name: str, items: Sequence[Item], source: str | None = None, split: str | None = None) -> datasets.Dataset:
    """Questions as a data set of the benchmark's columns on the hub, in the order of `items`.

    Args:
        name: of the benchmark.
        items: the questions; with their images if they are to be answered and not only scored.
        source: where they were read: a file, a folder or a hub id, or an output file that carries its questions; the
            card's hub ids if None.
        split: of the source; the card's if None.

    Raises:
        ConfigError: the benchmark has no such form.
        DataError: an image cannot be read.
    """
    if name not in IMAGE_COLUMN:
        raise ConfigError(f"lmms-eval is driven for {', '.join(IMAGE_COLUMN)}, not for {name}: leave {name} out")
    card, id_field = read_card(name), make_benchmark(name).id_field
    cells: dict[str, Mapping[str, Any]] = {}
    for place in (source,) if source else card.hub:
        table = find_source(place, "--questions").table(split or card.split)
        cells |= {text_of(row.cells.get(id_field)): row.cells for row in table.rows()}
    rows = [_COLUMNS[name](cells[item.id]) for item in items]
    if name == "mathvista":
        for row, item in zip(rows, items, strict=True):
            row["query"] = row["query"] or mathvista_query(item)
    if not any(item.images for item in items):
        return datasets.Dataset.from_list(rows)
    for row, item in zip(rows, items, strict=True):
        row[IMAGE_COLUMN[name]] = _image(name, item)
    return datasets.Dataset.from_list(rows).cast_column(IMAGE_COLUMN[name], datasets.Image())


def save(questions: datasets.Dataset, split: str, folder: Path) -> Path:
    """Write them such that lmms-eval's `load_from_disk` reads them; returns the folder."""
    datasets.DatasetDict({split: questions}).save_to_disk(str(folder))
    return folder


def _mathvista(cells: Mapping[str, Any]) -> dict[str, Any]:
    # A float on the hub, an integer in the official JSON.
    precision = cells.get("precision")
    return {
        "pid": text_of(cells.get("pid")),
        "question": text_of(cells.get("question")),
        "choices": list(choices_of(cells.get("choices"))) or None,
        "unit": cells.get("unit"),
        "precision": None if precision is None else float(precision),
        "answer": text_of(cells.get("answer")),
        "question_type": cells.get("question_type"),
        "answer_type": cells.get("answer_type"),
        "metadata": _metadata("mathvista", cells),
        "query": text_of(cells.get("query")),
    }


def _mathverse(cells: Mapping[str, Any]) -> dict[str, Any]:
    texts = ("sample_index", "problem_index", "problem_version", "question", "answer", "question_type")
    row: dict[str, Any] = {name: text_of(cells.get(name)) for name in texts}
    row |= {name: text_of(cells.get(name)) for name in ("query_wo", "query_cot")}
    row["question_for_eval"] = text_of(cells.get("question_for_eval") or cells.get("question"))
    return row | {"metadata": _metadata("mathverse", cells)}


def _mathvision(cells: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": text_of(cells.get("id")),
        "question": text_of(cells.get("question")),
        "options": list(choices_of(cells.get("options"))),
        "answer": text_of(cells.get("answer")),
        "level": int(cells["level"]),
        "subject": text_of(cells.get("subject")),
    }


_COLUMNS = {"mathvista": _mathvista, "mathverse": _mathverse, "mathvision": _mathvision}


def _metadata(name: str, cells: Mapping[str, Any]) -> dict[str, Any]:
    stored = cells.get("metadata") or {}
    return {key: stored.get(key) for key in _METADATA[name]}


def _image(name: str, item: Item) -> dict[str, Any] | None:
    """The image as `datasets` keeps it; None for a question without one."""
    if not item.images:
        return None
    payload = item.images[0].payload
    if isinstance(payload, Path):
        try:
            payload = payload.read_bytes()
        except OSError as error:
            reference = item.images[0].reference
            raise DataError(
                f"{name}, question {item.id}: image {reference} cannot be read ({error.strerror}): "
                "name the folder with --images"
            ) from None
    if not isinstance(payload, bytes):
        payload = _png(payload)
    return {"bytes": payload, "path": None}


def _png(image: Image.Image) -> bytes:
    """A decoded image as a file's bytes."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()
