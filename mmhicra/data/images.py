"""Image cells of any common form -> `ProblemImage`, undecoded; and the check that decodes each once."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mmhicra.core.deep_grey import is_deep
from mmhicra.core.errors import DataError
from mmhicra.core.records import Problem, ProblemImage
from mmhicra.data.encoded import decode_bytes_cell, decode_text, read_list
from mmhicra.data.text import fault_in, shorten

MOVING = re.compile(r".*\.(mp4|avi|mov|mkv|webm|m4v|mpe?g|flv|wmv|wav|mp3|flac|ogg|m4a|aac)(\?.*)?", re.I | re.DOTALL)
"""The endings of video and audio files."""
_PATH_KEYS = ("path", "url", "image", "image_url", "file_name", "filename", "image_path")
_LONGEST_NAME, _LONGEST_PATH = 255, 1000
"""The most bytes of one part of a path, as file systems allow them, and of a whole path."""

DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""The errors that Pillow raises for a damaged image, depending on the format and the place of the damage."""
_ODD_DAMAGE = (AttributeError, KeyError, IndexError, TypeError, OverflowError, AssertionError, RecursionError)
"""The errors that its plugins raise besides, for headers that contradict themselves."""


def read_images(cell: Any, folder: Path | None, where: str) -> tuple[ProblemImage, ...]:
    """The images of one cell: none, one, or a list of them.

    Args:
        cell: None, an image or a list of images, each a PIL image, encoded bytes, a `{"bytes", "path"}`
            mapping as `datasets` keeps it, a path, or base64 text with or without a `data:` prefix. A list may be
            written as text.
        folder: what relative paths are relative to; None if there is nothing.
        where: `file:row`, for images without a name of their own.

    Raises:
        DataError: an image is of no known form, or is only a link.
    """
    if isinstance(cell, str) and cell.lstrip()[:1] == "[" and (listed := read_list(cell)) is not None:
        cell = listed
    if isinstance(cell, Mapping) and (columns := _lists_in(cell)):
        cell = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    cells = list(cell) if isinstance(cell, list | tuple) else [cell]
    if cells and all(isinstance(one, list | tuple) for one in cells):
        cells = [image for inner in cells for image in inner]
    present = [one for one in cells if one is not None and one != "" and one != {}]
    return tuple(read_image(one, folder, f"{where}#image{n}") for n, one in enumerate(present, start=1))


def _lists_in(cell: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The lists of `{"bytes": [...], "path": [...]}`, as Arrow keeps a sequence of images; empty for one image."""
    held = {key: value for key, value in cell.items() if key in ("bytes", *_PATH_KEYS)}
    columns = {key: value for key, value in held.items() if isinstance(value, list) and not _are_numbers(value)}
    return columns if columns and len(columns) == len(held) and len({len(v) for v in columns.values()}) == 1 else {}


def _are_numbers(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, int) for value in values)


def read_image(cell: Any, folder: Path | None, reference: str) -> ProblemImage:
    """One image, held as it came. Arguments and errors as in `read_images`."""
    if isinstance(cell, bytes | bytearray | memoryview):
        return ProblemImage(bytes(cell), reference)
    if isinstance(cell, Image.Image):
        return ProblemImage(cell, reference)
    if isinstance(cell, Mapping):
        name = cell.get("path")
        if cell.get("bytes") is not None:
            try:
                data = decode_bytes_cell(cell["bytes"])
            except ValueError as error:
                raise DataError(f"image unreadable: the bytes of {reference} are {error}") from None
            named = isinstance(name, str) and name and fault_in(name) is None
            return ProblemImage(data, f"{reference} ({Path(str(name)).name[:100]})" if named else reference)
        cell = next((cell[key] for key in _PATH_KEYS if cell.get(key)), None)
    if isinstance(cell, Path):
        cell = str(cell)
    if isinstance(cell, str):
        return _read_text(cell.strip(), folder, reference)
    raise DataError(f"image unreadable: {reference} is a {type(cell).__name__}, not a path, bytes or base64")


def _read_text(text: str, folder: Path | None, reference: str) -> ProblemImage:
    """Tell path, link and base64 apart: base64 has no dot, and `/9j/...` is a JPEG, not an absolute path."""
    if text.startswith(("http://", "https://")):
        raise DataError(f"image is a link: {reference}; download it and give its path")
    try:
        data = decode_text(text)
    except ValueError:
        raise DataError(f"image unreadable: {reference} is not whole base64") from None
    if data is not None:
        return ProblemImage(data, reference)
    encoded = text.encode("utf-8", "backslashreplace")
    if not text or len(encoded) > _LONGEST_PATH or max(map(len, encoded.split(b"/"))) > _LONGEST_NAME:
        raise DataError(f"image unreadable: {reference} is neither a path nor base64 ({len(text)} characters)")
    if fault := fault_in(text):
        raise DataError(f"image unreadable: the path {shorten(text, 80)} of {reference}: {fault}")
    if MOVING.fullmatch(text):
        raise DataError(f"row has a video: {shorten(text, 80)} ({reference}): mmhicra trains on images only")
    path = Path(text.removeprefix("file://"))
    if text.startswith("~/"):
        path = path.expanduser()
    if not path.is_absolute():
        if folder is None:
            raise DataError(f"image path has no folder: {text}; set data.image_folder to the downloaded images")
        path = folder / path
    return ProblemImage(path, text)


def refuse_broken_images(problem: Problem, seen: Counter[str] | None = None) -> str | None:
    """Decode every image once; the reason if one is missing or broken, else None.

    Args:
        problem: whose images.
        seen: counts the images that are not shown as they came: `pages`, of which the first is taken, and `deep`.
    """
    for image in problem.images:
        try:
            if isinstance(image.payload, Path) and not image.payload.is_file():
                return f"image missing: {image.reference} (looked for {image.payload})"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its size, which has a limit, and of its metadata
                image.open()
                mode, several = _header(image)
        except Image.UnidentifiedImageError:
            return f"image broken: {image.reference} (no image format we know)"
        except DAMAGE as error:
            return f"image broken: {image.reference} ({getattr(error, 'strerror', None) or error})"
        except _ODD_DAMAGE as error:
            return f"image broken: {image.reference} ({type(error).__name__}: {error})"
        if seen is not None:
            seen["pages"] += several
            seen["deep"] += is_deep(mode)
    return None


def _header(image: ProblemImage) -> tuple[str, bool]:
    """Mode and whether there are several pages; damage behind the first page, which is all that is used, is passed."""
    try:
        return image.header()
    except DAMAGE:
        return "", True


def describe_images(seen: Counter[str]) -> list[str]:
    """A line for each way in which images are not shown as they came, from the counts of `refuse_broken_images`."""
    notes = []
    if seen["pages"]:
        notes.append(f"{seen['pages']} images have several pages or frames: the first of each is used")
    if seen["deep"]:
        notes.append(f"{seen['deep']} grey images of more than 8 bits are scaled to 8")
    return notes
