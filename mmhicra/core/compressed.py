"""Lines of text files, plain or compressed: gzip (`.gz`) and Zstandard (`.zst`), by the ending of their name."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import zstandard

ZSTD, GZIP = ".zst", ".gz"
LEVEL = 9
"""Of Zstandard: docs/reference/run_folder.md has sizes and times of others."""
CHUNK = 2**20
"""Bytes of a compressed file that are read at a time."""


class Undecodable(ValueError):
    """A compressed file is cut off or damaged; the lines before are whole."""


def zstd_frame(data: bytes) -> bytes:
    """One frame that says how long `data` is and has their checksum; equal data give equal frames."""
    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(data)


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, each with its line end; the last one may have none.

    Raises:
        OSError: the file cannot be read.
        Undecodable: it is compressed, and cut off or damaged.
    """
    if path.suffix == ZSTD:
        yield from _zstd_lines(path)
    elif path.suffix == GZIP:
        with path.open("rb") as file, gzip.open(file) as lines:
            try:
                yield from lines
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise Undecodable(str(error)) from None
    else:
        with path.open("rb") as lines:
            yield from lines


def _zstd_lines(path: Path) -> Iterator[bytes]:
    """As `read_lines`. Several frames, one after the other, are one text, as `zstdcat` has it."""
    decoder, rest, cut = zstandard.ZstdDecompressor().decompressobj(), b"", True
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            while data:
                try:
                    rest += decoder.decompress(data)
                except zstandard.ZstdError as error:
                    raise Undecodable(str(error).removeprefix("zstd decompressor error: ")) from None
                data, cut = decoder.unused_data, not decoder.eof
                if decoder.eof:
                    decoder = zstandard.ZstdDecompressor().decompressobj()
            *whole, rest = rest.split(b"\n")
            yield from (line + b"\n" for line in whole)
    if cut:
        raise Undecodable("cut off")
    if rest:
        yield rest
