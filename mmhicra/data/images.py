"""Image cells of any common form -> `ProblemImage`, undecoded; and the check that decodes each once."""

from __future__ import annotations

import binascii
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mmhicra.records import Problem, ProblemImage
from mmhicra.refusals import DataRefusal

_BASE64 = re.compile(r"[A-Za-z0-9+/]{40,}={0,2}")
"""The smallest image files have about 30 bytes, which are 40 base64 characters."""
_LONGEST_PATH = 1000


def read_images(cell: Any, folder: Path | None, where: str) -> tuple[ProblemImage, ...]:
    """The images of one cell: none, one, or a list of them.

    Args:
        cell: None, an image or a list of images, each a PIL image, encoded bytes, a `{"bytes", "path"}`
            mapping as `datasets` keeps it, a path, or base64 text with or without a `data:` prefix.
        folder: what relative paths are relative to; None if there is nothing.
        where: `file:row`, for images without a name of their own.

    Raises:
        DataRefusal: an image is of no known form, or is only a link.
    """
    cells = list(cell) if isinstance(cell, list | tuple) else [cell]
    present = [one for one in cells if one is not None and one != ""]
    return tuple(read_image(one, folder, f"{where}#image{n}") for n, one in enumerate(present, start=1))


def read_image(cell: Any, folder: Path | None, reference: str) -> ProblemImage:
    """One image, held as it came. Arguments and errors as in `read_images`."""
    if isinstance(cell, bytes | bytearray | memoryview):
        return ProblemImage(bytes(cell), reference)
    if isinstance(cell, Image.Image):
        return ProblemImage(cell, reference)
    if isinstance(cell, Mapping):
        if cell.get("bytes") is not None:
            name = cell.get("path")
            return ProblemImage(bytes(cell["bytes"]), f"{reference} ({Path(name).name})" if name else reference)
        cell = cell.get("path") or cell.get("url")
    if isinstance(cell, Path):
        cell = str(cell)
    if isinstance(cell, str):
        return _read_text(cell.strip(), folder, reference)
    raise DataRefusal(f"image unreadable: {reference} is a {type(cell).__name__}, not a path, bytes or base64")


def _read_text(text: str, folder: Path | None, reference: str) -> ProblemImage:
    """Tell path, link and base64 apart: base64 has no dot, and `/9j/...` is a JPEG, not an absolute path."""
    if text.startswith(("http://", "https://")):
        raise DataRefusal(f"image is a link: {reference}; download it and give its path")
    packed = "".join(text.split())
    if packed.startswith("data:") or _BASE64.fullmatch(packed):
        try:
            return ProblemImage.from_base64(packed, reference)
        except (ValueError, binascii.Error):
            raise DataRefusal(f"image unreadable: {reference} is not whole base64") from None
    if not text or len(text) > _LONGEST_PATH:
        raise DataRefusal(f"image unreadable: {reference} is neither a path nor base64 ({len(text)} characters)")
    path = Path(text.removeprefix("file://")).expanduser()
    if not path.is_absolute():
        if folder is None:
            raise DataRefusal(f"image path has no folder: {text}; set data.image_folder to the downloaded images")
        path = folder / path
    return ProblemImage(path, text)


def refuse_broken_images(problem: Problem) -> str | None:
    """Decode every image once; the reason if one is missing or broken, else None."""
    for image in problem.images:
        if isinstance(image.payload, Path) and not image.payload.is_file():
            return f"image missing: {image.reference} (looked for {image.payload})"
        try:
            image.open()
        except Image.UnidentifiedImageError:
            return f"image broken: {image.reference} (no image format we know)"
        except (
            OSError,
            SyntaxError,
            ValueError,
            EOFError,
            struct.error,
            zlib.error,
            Image.DecompressionBombError,
        ) as error:
            # Pillow reports damage by any of these, depending on the format and the place of the damage.
            return f"image broken: {image.reference} ({getattr(error, 'strerror', None) or error})"
    return None
