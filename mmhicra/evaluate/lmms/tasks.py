"""What the task files in `eval/tasks` call: a row of the hub's data set -> prompt, image and verdicts.

Nothing of lmms-eval is imported: it calls these functions, from several threads, with the rows of any of its data sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from PIL import Image

from mmhicra.core.records import IMAGE_PLACEHOLDER, ProblemImage
from mmhicra.data.images import read_images
from mmhicra.data.questions import place_images
from mmhicra.evaluate.benchmarks.prompts import write_prompt
from mmhicra.evaluate.benchmarks.registry import Benchmark, make_benchmark
from mmhicra.evaluate.scoring.records import Item, Mode, Response, SampleRecord
from mmhicra.evaluate.scoring.score import TIME_LIMIT, headline_records, score_pairs
from mmhicra.rewards.workers import Verifier

MODES: tuple[Mode, ...] = ("official", "robust")
"""The metrics of every task."""

Doc = Mapping[str, Any]
Messages = list[dict[str, Any]]


def visuals(doc: Doc) -> list[Image.Image]:
    """The images of a row, decoded to RGB, transparent pixels on white.

    Raises:
        DataError: the row names an image file instead of holding the image, as the hub's data sets do.
    """
    return [image.open() for image in _images(doc)]


def mathvista_text(doc: Doc, options: Mapping[str, Any]) -> str:
    """The prompt named by `options["prompt"]`, for models that take text and images apart."""
    return _text("mathvista", doc, options)


def mathverse_text(doc: Doc, options: Mapping[str, Any]) -> str:
    """The prompt named by `options["prompt"]`, for models that take text and images apart."""
    return _text("mathverse", doc, options)


def mathvision_text(doc: Doc, options: Mapping[str, Any]) -> str:
    """The prompt named by `options["prompt"]`, for models that take text and images apart."""
    return _text("mathvision", doc, options)


def mathvista_messages(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, Any]) -> Messages:
    """The same prompt as a chat, its image where the question names it."""
    return _messages("mathvista", doc, lmms_eval_specific_kwargs)


def mathverse_messages(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, Any]) -> Messages:
    """The same prompt as a chat, its image where the question names it."""
    return _messages("mathverse", doc, lmms_eval_specific_kwargs)


def mathvision_messages(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, Any]) -> Messages:
    """The same prompt as a chat, its image where the question names it."""
    return _messages("mathvision", doc, lmms_eval_specific_kwargs)


def mathvista_results(doc: Doc, results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Both modes' verdicts on the responses to one row."""
    return _results("mathvista", doc, results)


def mathverse_results(doc: Doc, results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Both modes' verdicts on the responses to one row."""
    return _results("mathverse", doc, results)


def mathvision_results(doc: Doc, results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Both modes' verdicts on the responses to one row."""
    return _results("mathvision", doc, results)


def accuracy(verdicts: Sequence[Mapping[str, Any]]) -> float:
    """The headline, 0 to 1: the mean over all rows, and for MathVerse without Text Only."""
    records = [read_record(verdict) for verdict in verdicts]
    benchmark = make_benchmark(verdicts[0]["benchmark"])
    counted = {id(record) for record in headline_records(benchmark, records)}
    scores = [verdict["score"] for verdict, record in zip(verdicts, records, strict=True) if id(record) in counted]
    return sum(scores) / len(scores)


def read_record(verdict: Mapping[str, Any]) -> SampleRecord:
    """The record that one metric of one sample carries."""
    cells = {field.name: verdict[field.name] for field in fields(SampleRecord)}
    cells["groups"] = {key: tuple(values) for key, values in cells["groups"].items()}
    return SampleRecord(**cells)


def _text(benchmark: str, doc: Doc, options: Mapping[str, Any]) -> str:
    return write_prompt(benchmark, _item(make_benchmark(benchmark), doc), options["prompt"])


def _messages(benchmark: str, doc: Doc, options: Mapping[str, Any]) -> Messages:
    question, images = place_images(_text(benchmark, doc, options), _images(doc), merged=True)
    before, *after = question.split(IMAGE_PLACEHOLDER)
    content: Messages = [{"type": "text", "text": before}] if before else []
    for image, text in zip(images, after, strict=True):
        content.append({"type": "image", "url": image.open()})
        content += [{"type": "text", "text": text}] if text else []
    return [{"role": "user", "content": content}]


def _images(doc: Doc) -> tuple[ProblemImage, ...]:
    where = f"row {doc.get('pid') or doc.get('sample_index') or doc.get('id')}"
    return read_images(doc.get("decoded_image") or doc.get("image"), None, where)


def _results(name: str, doc: Doc, results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Mode -> the record of the first response, and `score`: the mean over all responses."""
    benchmark = make_benchmark(name)
    item = _item(benchmark, doc)
    pairs = [(item, Response(item.id, text)) for text in results]
    verdicts: dict[str, dict[str, Any]] = {}
    for mode in MODES:
        records = score_pairs(benchmark, pairs, mode, verifier=_verifier() if mode == "robust" else None)
        score = sum(record.correct for record in records) / len(records)
        verdicts[mode] = {"benchmark": name, "score": score, **records[0].as_dict()}
    return verdicts


def _item(benchmark: Benchmark, doc: Doc) -> Item:
    return benchmark.read_item(doc, f"a row of {benchmark.name}")


@cache
def _verifier() -> Verifier:
    """One for the process: lmms-eval scores row by row and never says when it is done."""
    return Verifier(time_limit=TIME_LIMIT)
