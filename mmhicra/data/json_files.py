"""JSON and JSON Lines files, gzipped or not: one bad line costs that line, never the file."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmhicra.core.errors import DataError, brief
from mmhicra.data.rows import Row

_CHUNK = 1 << 20
LONGEST_LINE = 256 << 20
"""Bytes of one JSON line. A row with a few images in base64 has some megabytes."""
LARGEST_EXPANSION, SUSPICIOUS = 200, 64 << 20
"""A gzipped file is refused once it has expanded to more than so many times its size and to more than so many bytes.
JSON expands 3 to 20 times; gzip can do 1,032."""


def read_json(name: str, file: Path, lines: bool, before: int = 0) -> list[Row]:
    """The rows of a file.

    Args:
        name: what messages call it.
        file: `.jsonl` or `.json`, gzipped if it ends in `.gz`.
        lines: one object a line, rather than one list of objects.
        before: rows of the split in the files before this one.

    Raises:
        DataError: the file cannot be read, expands beyond reason, or is one JSON text and broken.
    """
    try:
        if lines:
            return list(_json_lines(name, _chunks(name, file), before))
        content = b"".join(_chunks(name, file))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} cannot be read ({error}): mend or replace the file") from None
    entries = _parse(content)
    if isinstance(entries, Exception):
        first = content.lstrip().split(b"\n", 1)[0]
        if isinstance(_parse(first), dict):  # JSON Lines are often named .json
            return list(_json_lines(name, [content], before))
        raise DataError(f"{name} is not JSON ({entries}): mend the file") from None
    if isinstance(entries, dict) and entries and all(isinstance(entry, dict) for entry in entries.values()):
        entries = list(entries.values())  # MathVista's files map the problem's id to the problem
    if not isinstance(entries, list):
        raise DataError(f"{name} must hold a list of objects: write one object per row")
    return [_json_row(name, number, entry, before) for number, entry in enumerate(entries, start=1)]


def _chunks(name: str, file: Path) -> Iterator[bytes]:
    """The file's bytes, unpacked, a megabyte at a time.

    Raises:
        DataError: it expands beyond reason.
    """
    size, total = file.stat().st_size, 0
    packed = file.suffix == ".gz"
    with gzip.open(file) if packed else file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            total += len(chunk)
            if packed and total > max(SUSPICIOUS, LARGEST_EXPANSION * size):
                raise DataError(
                    f"{name} expands from {size:,} bytes to more than {LARGEST_EXPANSION} times as many, as no JSON "
                    "does: look into it, unpack it yourself and name the unpacked file"
                )
            yield chunk


def _json_lines(name: str, chunks: Iterable[bytes], before: int) -> Iterator[Row]:
    """A row for every line that is not blank; memory holds one line and one chunk besides the rows."""
    number, parts, length = 1, [], 0
    for chunk in chunks:
        if not parts and not chunk.strip():  # blank lines by the million
            number += chunk.count(b"\n")
            continue
        first, *others = chunk.split(b"\n")
        length += len(first)
        parts.append(first if length <= LONGEST_LINE else b"")
        for following in others:
            yield from _row_of_line(name, number, parts, length, before)
            number, parts, length = number + 1, [following] if following else [], len(following)
    yield from _row_of_line(name, number, parts, length, before)


def _row_of_line(name: str, number: int, parts: list[bytes], length: int, before: int) -> Iterator[Row]:
    if length > LONGEST_LINE:
        fault = f"row unreadable: a line of {length:,} bytes, more than {LONGEST_LINE:,}; name its images by path"
        yield Row(name, number, fault=fault, before=before)
    elif (line := b"".join(parts)).strip():
        yield _json_row(name, number, _parse(line), before)


def _parse(text: bytes) -> Any:
    """The value of a JSON text, or the error that says why it has none."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except ValueError as error:
        return error
    except RecursionError:
        return ValueError("nested too deeply")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a key that is there twice, JSON's readers keep the last value and say nothing.

    Raises:
        ValueError: names the key.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(brief(name) for name in names if names.count(name) > 1)} is there twice")
    return made


def _json_row(name: str, number: int, entry: Any, before: int) -> Row:
    if isinstance(entry, dict):
        return Row(name, number, entry, before=before)
    said = str(entry) if isinstance(entry, ValueError) else f"a {type(entry).__name__}, not an object"
    return Row(name, number, fault=f"row unreadable: {said}", before=before)
