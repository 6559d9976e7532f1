"""How large the images are, how many tokens they take, and what the pixel limits do to them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from mmhicra.config import DataConfig
from mmhicra.config.data import NOT_READ
from mmhicra.doctor.findings import CheckResult, Grid
from mmhicra.doctor.problems import Reader
from mmhicra.vlm.processing import ImageSize, warn_of_shrinking

EDGES = (0, 64, 128, 224, 336, 448, 672, 1024, 1536, 2048, 4096, 10**6)
"""Sides of a square with as many pixels as the image."""
BAR = 14


def check_images(reader: Reader) -> CheckResult:
    """A histogram by pixels, with tokens per image and what is resized."""
    check = CheckResult("images", "Images")
    limits = reader.config.data
    images = [image for size in reader.sizes.values() for image in size.images]
    if not images:
        check.summary = f"no problem has an image, as data.columns.images: {limits.columns.images} says"
        if limits.columns.images != NOT_READ:
            check.summary = "no problem has an image"
            check.doubts.append("a model that sees is trained on text alone")
        return check
    classes = [_class(images, low, high, limits) for low, high in pairwise(EDGES)]
    classes = [c for c in classes if c["images"]]
    tokens = [image.tokens for image in images]
    shrunk, enlarged = sum(c["shrunk"] for c in classes), sum(c["enlarged"] for c in classes)
    free = sum(image.width * image.height * image.tokens / (image.new_width * image.new_height) for image in images)
    check.facts = {
        "images": len(images),
        "tokens": {"least": min(tokens), "median": statistics.median(tokens), "most": max(tokens)},
        "shrunk": shrunk,
        "enlarged": enlarged,
        "tokens_unlimited": round(free / len(images)),
        "histogram": classes,
    }
    check.summary = (
        f"{len(images)} images of {_range(min(tokens), max(tokens))} tokens (median {statistics.median(tokens):g}); "
        f"{shrunk} are above data.max_pixels and shrunk, {enlarged} are below data.min_pixels and enlarged"
    )
    most = max(c["images"] for c in classes)
    rows = [
        (
            f"{c['above']}² to {c['up_to']}²" if c["up_to"] < EDGES[-1] else f"above {c['above']}²",
            "█" * max(1, round(BAR * c["images"] / most)),
            str(c["images"]),
            _range(c["least"], c["most"]),
            f"{c['median']:g}",
            str(c["shrunk"] or ""),
            str(c["enlarged"] or ""),
        )
        for c in classes
    ]
    check.grids = [Grid("", ("pixels", "", "images", "tokens", "median", "shrunk", "enlarged"), rows)]
    if warning := warn_of_shrinking(images, limits):
        check.doubts.append(warning)
    if shrunk:
        check.notes.append(
            f"without data.max_pixels ({limits.max_pixels}) an image would take {free / len(images):.0f} tokens in the "
            f"mean, instead of {statistics.fmean(tokens):.0f}"
        )
    return check


def _class(images: Sequence[ImageSize], low: int, high: int, limits: DataConfig) -> dict[str, Any]:
    held = [image for image in images if low**2 < image.width * image.height <= high**2]
    tokens = [image.tokens for image in held] or [0]
    return {
        "above": low,
        "up_to": high,
        "images": len(held),
        "least": min(tokens),
        "median": statistics.median(tokens),
        "most": max(tokens),
        "shrunk": sum(image.width * image.height > limits.max_pixels for image in held),
        "enlarged": sum(image.width * image.height < limits.min_pixels for image in held),
    }


def _range(low: int, high: int) -> str:
    return f"{low} to {high}" if low < high else str(low)
