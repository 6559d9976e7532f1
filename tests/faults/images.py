"""Image files of every mode and format, whole and damaged.

Nonsense is an image that opens but has lost what it showed: a whole file must give the picture that was drawn, scaled
from the range of its mode, and a damaged one must open alike each time or be refused.
"""

from __future__ import annotations

import io
import json
import random
import struct
from pathlib import Path

import numpy as np
from faults import mutate
from faults.fuzz import Nonsense, Target
from PIL import Image

from mmhicra.core.errors import UserError
from mmhicra.core.records import Problem, ProblemImage
from mmhicra.data.dataset import check_problems

SAVES: dict[str, tuple[str, ...]] = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("L", "P", "RGB"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "RGB", "CMYK", "I;16", "I", "F", "LAB"),
    "BMP": ("1", "L", "P", "RGB"),
    "PPM": ("L", "RGB", "I;16"),
}
ALIKE = 0.9
"""Correlation of the grey levels of an opened image with what was drawn."""


def drawn(rng: random.Random) -> np.ndarray:
    """A grey ramp with a bright and a dark square, (height, width) in [0, 1]."""
    height, width = rng.randint(24, 60), rng.randint(24, 60)
    levels = np.linspace(0.1, 0.9, width)[None, :].repeat(height, 0)
    levels[4:12, 4:12], levels[12:20, 12:20] = 1.0, 0.0
    return levels


def as_mode(levels: np.ndarray, mode: str, rng: random.Random) -> Image.Image:
    """The drawing in one of Pillow's modes, over the range that files of that mode have."""
    eight = Image.fromarray((levels * 255).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray((levels * rng.choice([4095, 65535])).astype(np.uint16))
    if mode == "I":
        return Image.fromarray((levels * rng.choice([255, 4095, 65535])).astype(np.int32))
    if mode == "F":
        return Image.fromarray((levels * rng.choice([1.0, 255.0, 65535.0])).astype(np.float32))
    if mode == "LAB":
        neutral = np.full((*levels.shape, 3), 128, np.uint8)
        neutral[..., 0] = levels * 255
        return Image.frombytes("LAB", levels.shape[::-1], neutral.tobytes())
    return eight.convert("RGB").convert(mode) if mode in ("CMYK", "P", "RGBA") else eight.convert(mode)


def write(rng: random.Random, folder: Path) -> None:
    """`image` and `facts.json`: the drawing, and whether the file is whole."""
    format_ = rng.choice(list(SAVES))
    mode = rng.choice(SAVES[format_])
    levels = drawn(rng)
    buffer = io.BytesIO()
    try:
        as_mode(levels, mode, rng).save(buffer, format_)
    except (OSError, ValueError):  # a version of Pillow that cannot write this mode
        mode, buffer = "L", io.BytesIO()
        as_mode(levels, mode, rng).save(buffer, "PNG")
    content = buffer.getvalue()
    whole = rng.random() < 0.4
    for _ in range(0 if whole else rng.randint(1, 3)):
        content = mutate.spoil_bytes(content, rng)
    if not whole and rng.random() < 0.05:
        content = rng.choice([b"", b"BM", huge_png(), b"II*\x00" + b"\xff" * 40, b"%!PS-Adobe EPSF\n", b"GIF89a"])
    (folder / "image").write_bytes(content)
    facts = {"format": format_, "mode": mode, "whole": whole, "levels": np.round(levels, 3).tolist()}
    (folder / "facts.json").write_text(json.dumps(facts))


def huge_png() -> bytes:
    """A header that promises 400 million pixels."""
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\x00" * 1000))
        + chunk(b"IEND", b"")
    )


def attempt(folder: Path) -> None:
    """Check the problem that has the image, as a run does; open it as a run does."""
    facts = json.loads((folder / "facts.json").read_text())
    content = (folder / "image").read_bytes()
    payload = content if facts["whole"] else folder / "image"
    problem = Problem("p", "<image>?", (ProblemImage(payload, "image"),), "1", source="made.jsonl:1")
    good, refused = check_problems([problem], [])
    if facts["whole"] and refused:
        raise Nonsense(f"a whole {facts['mode']} {facts['format']} is refused: {refused[0].reason}")
    if refused:
        raise UserError(refused[0].reason)
    for each in good:
        image = each.images[0].open()
        if (
            image.mode != "RGB"
            or image.size != each.images[0].size()
            or image.tobytes() != each.images[0].open().tobytes()
        ):
            raise Nonsense(f"opens as {image.mode} {image.size}, {each.images[0].size()} by its header")
        if facts["whole"]:
            refuse_lost(np.asarray(image.convert("L"), float), np.array(facts["levels"]), facts)


def refuse_lost(shown: np.ndarray, levels: np.ndarray, facts: dict) -> None:
    """Raises Nonsense if the picture is not what was drawn."""
    if facts["mode"] == "1":
        return  # dithered
    likeness = np.corrcoef(shown.ravel(), levels.ravel())[0, 1] if shown.std() > 0 else 0.0
    if not likeness > ALIKE or np.ptp(shown) < 100:
        raise Nonsense(
            f"a {facts['mode']} {facts['format']} has lost its picture: likeness {likeness:.2f}, "
            f"levels {shown.min():.0f} to {shown.max():.0f}"
        )


TARGET = Target("images", write, attempt)
