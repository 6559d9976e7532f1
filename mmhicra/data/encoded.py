"""Images that come as text or as numbers: base64 in all its habits, and lists written as text."""

from __future__ import annotations

import ast
import base64
import binascii
import json
import re
from collections.abc import Sequence
from typing import Any

_DATA_LINK = re.compile(r"data:[^,;]*(?:;[^,;]+)*;base64,", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{40,}={0,2}")
"""At least 40 characters of base64: the smallest image files have about 30 bytes."""
_URL_SAFE = re.compile(r"[A-Za-z0-9_-]{40,}={0,2}")
_BYTES_LITERAL = re.compile(r"b(['\"]).*\1", re.DOTALL)
_COMMA, _GAP = re.compile(r"""['"]\s*,"""), re.compile(r"""(['"])\s+(['"])""")
"""Between the texts of a list, as JSON and Python write it and as numpy does: `['a' 'b']`."""
_LONGEST_LITERAL = 100_000
_MAGIC = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF8",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
    b"II+\x00",
    b"MM\x00+",
    b"\x00\x00\x00\x0cjP  ",
    b"P5",
    b"P6",
)


def looks_like_image(data: bytes) -> bool:
    """Whether encoded bytes begin as image files do."""
    in_container = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    in_box = data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"heif")
    return data.startswith(_MAGIC) or in_container or in_box


def decode_text(text: str) -> bytes | None:
    """The bytes of base64 text: plain or URL-safe, padded or not, in lines or not, after `data:...;base64,`, in `b''`.

    None if it is something else, e.g. a path. A text of letters, digits, `-` and `_` alone may be either: it is base64
    if what it says begins as an image file does.

    Raises:
        ValueError: it begins as a `data:` link and goes on as something else than base64.
    """
    packed = "".join(text.split())
    if packed[:5].lower() == "data:":
        start = _DATA_LINK.match(packed)
        if start is None:
            raise ValueError("a data: link without base64")
        return decode_base64(packed[start.end() :])
    if _BYTES_LITERAL.fullmatch(text):
        return _of_literal(text)
    if _BASE64.fullmatch(packed):
        return decode_base64(packed)
    if _URL_SAFE.fullmatch(packed):
        try:
            data = decode_base64(packed)
        except ValueError:
            return None
        return data if looks_like_image(data) else None
    return None


def decode_base64(packed: str) -> bytes:
    """Base64 without blanks, in either alphabet, its padding complete or missing.

    Raises:
        ValueError: it is not base64.
    """
    bare = packed.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not whole base64 ({error})") from None


def decode_bytes_cell(cell: Any) -> bytes:
    """What the key `bytes` of an image object holds: bytes, base64 text as JSON exports write it, or a list of numbers.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cell)
    if isinstance(cell, str):
        literal = _BYTES_LITERAL.fullmatch(cell)
        packed = "".join(cell.split())
        data = _of_literal(cell) if literal else decode_text(cell)
        return data if data is not None else decode_base64(packed)
    if isinstance(cell, Sequence) and cell and all(type(value) is int and 0 <= value <= 255 for value in cell):
        return bytes(cell)
    raise ValueError(f"a {type(cell).__name__}, not bytes")


def _of_literal(text: str) -> bytes:
    """The bytes of Python's `str(bytes)`, and of base64 in it."""
    try:
        data = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError("not whole base64 (a broken bytes literal)") from None
    if not isinstance(data, bytes):
        raise ValueError("not whole base64 (a broken bytes literal)")
    if looks_like_image(data):
        return data
    return decode_base64(data.decode("ascii", "replace"))


def read_list(text: str) -> list[Any] | dict[str, Any] | None:
    """The list or object that a text writes as JSON or, as pandas does, in Python's notation; None if it is neither."""
    text = text.strip()
    if not text or text[0] + text[-1] not in ("[]", "{}", "()"):
        return None
    value: Any = None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if len(text) <= _LONGEST_LITERAL:
            if not _COMMA.search(text):  # Python would glue 'a' 'b' together
                text = _GAP.sub(r"\1, \2", text)
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
                return None
    if isinstance(value, tuple):
        value = list(value)
    return value if isinstance(value, list | dict) else None
