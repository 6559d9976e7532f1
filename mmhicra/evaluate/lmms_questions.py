"""Questions from any source, in the form in which the hub serves them and lmms-eval's tasks expect them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import datasets

from mmhicra.data.images import read_images
from mmhicra.data.sources import find_source
from mmhicra.evaluate.benchmarks import make_benchmark
from mmhicra.evaluate.cells import choices_of, text_of
from mmhicra.evaluate.prompts import mathvista_query
from mmhicra.refusals import ConfigRefusal, DataRefusal

IMAGE_COLUMN = {"mathvista": "decoded_image", "mathverse": "image", "mathvision": "decoded_image"}
"""Where each benchmark's data set keeps the image itself."""

_METADATA = {
    "mathvista": (
        *("split", "language", "img_width", "img_height", "source"),
        *("category", "task", "context", "grade", "skills"),
    ),
    "mathverse": ("split", "source", "subject", "subfield"),
}


def hub_form(
    name: str,
    source: str,
    split: str,
    *,
    with_images: bool,
    images: str | None = None,
    ids: Collection[str] | None = None,
    limit: int | None = None,
) -> datasets.Dataset:
    """The questions of a source as a data set of the benchmark's columns on the hub.

    Args:
        name: of the benchmark.
        source: a file, a folder or a hub id; an output file that carries its questions will do.
        split: of the source.
        with_images: without them responses can be scored, but not made.
        images: what relative image paths are relative to; the folder of the file that names them if None. A path
            that leads nowhere from there counts by its file name alone.
        ids: only these questions; None takes all.
        limit: only the first so many.

    Raises:
        ConfigRefusal: the benchmark has no such form.
        DataRefusal: a row is not of the benchmark, an image is missing, or nothing is left.
    """
    if name not in IMAGE_COLUMN:
        raise ConfigRefusal(f"lmms-eval's tasks are for {', '.join(IMAGE_COLUMN)}, not for {name}")
    benchmark = make_benchmark(name)
    table = find_source(source, "--questions").table(split)
    folder = Path(images).expanduser() if images else table.folder
    rows: list[dict[str, Any]] = []
    for row in table.rows():
        if row.fault:
            raise DataRefusal(f"{row.where}: {row.fault}; mend or remove the row")
        item = benchmark.read_item(row.cells, row.where)
        if ids is not None and item.id not in ids:
            continue
        cells = _COLUMNS[name](row.cells)
        if name == "mathvista" and not cells["query"]:
            cells["query"] = mathvista_query(item)
        if with_images:
            cells[IMAGE_COLUMN[name]] = _image(item.facts.get("image"), folder, f"{row.where} (id {item.id})")
        rows.append(cells)
        if len(rows) == limit:
            break
    if not rows:
        raise DataRefusal(f"{source} has none of the questions asked for: name their source with --questions")
    form = datasets.Dataset.from_list(rows)
    return form.cast_column(IMAGE_COLUMN[name], datasets.Image()) if with_images else form


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


def _image(cell: Any, folder: Path | None, where: str) -> dict[str, Any] | None:
    """As `datasets` keeps an image; None for a question without one."""
    images = read_images(cell, folder, where)
    if not images:
        return None
    payload = images[0].payload
    if isinstance(payload, Path):
        if folder is not None and not payload.is_file():
            payload = folder / payload.name
        try:
            payload = payload.read_bytes()
        except OSError as error:
            raise DataRefusal(
                f"{where}: image {images[0].reference} cannot be read ({error.strerror}): name its folder with --images"
            ) from None
    return {"bytes": payload, "path": None}
