"""One number for a data set: a resumed run refuses to go on with other problems."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from mmhicra.core.records import Problem, ProblemImage


def digest_problems(problems: Iterable[Problem]) -> str:
    """SHA-256 over all that a run reads of its problems, in order: another digest, another data set.

    That is id, question, answer, kind, task, choices, facts, images and the system turn. Files and encoded bytes count
    as they are, without being decoded; images that came decoded, generated ones among them, count by their pixels.
    """
    digest = hashlib.sha256()
    for problem in problems:
        images = [digest_image(image) for image in problem.images]
        more = [problem.system] if problem.system else []  # older checkpoints know of none
        parts = [problem.id, problem.question, problem.answer, problem.kind, problem.task, problem.choices, images]
        facts = json.dumps(problem.facts, sort_keys=True, default=repr) if problem.facts else ""
        digest.update(json.dumps([*parts, *more]).encode() + facts.encode() + b"\n")
    return digest.hexdigest()


def digest_image(image: ProblemImage) -> str:
    """SHA-256 of one image; a file that is gone has a digest of its own."""
    payload = image.payload
    if isinstance(payload, Path):
        try:
            with payload.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return "missing"
    if isinstance(payload, bytes):
        return hashlib.sha256(payload).hexdigest()
    pixels = image.open()
    return hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).hexdigest()
