"""safetensors files written tensor by tensor: equal tensors give equal bytes, and no second copy of a file is held.

    8 bytes    length of the header, little-endian
    header     JSON: name -> dtype, shape, [first byte, last byte) of the data; `__metadata__`; spaces up to 8 bytes
    data       the tensors one after the other, row-major

The library's own writer wants all tensors of a file at once, and orders metadata at random.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What the format calls a type."""

DTYPES = {name: dtype for dtype, name in NAMES.items()}

BLOCK = 2**26
"""Bytes that are written at a time."""


@dataclass(frozen=True)
class Stored:
    """A tensor that is going to be written.

    Attributes:
        dtype: that it is written in.
        shape: its shape.
        tensor: gives it, on any device and in any type; called once, when its turn has come.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    tensor: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor, dtype: torch.dtype | None = None) -> Stored:
        """A tensor that is there; `dtype` is the one to write it in, if not its own."""
        return cls(dtype or tensor.dtype, tuple(tensor.shape), lambda: tensor)

    @property
    def bytes(self) -> int:
        """How many it takes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Write a file and put it on disk; returns what a manifest says of it: its bytes and their checksum.

    Raises:
        OSError: it cannot be written.
    """
    # The widest types first, so that each lies at a multiple of its own width.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    place = 0
    for name in order:
        one = tensors[name]
        header[name] = {"dtype": NAMES[one.dtype], "shape": list(one.shape), "data_offsets": [place, place + one.bytes]}
        place += one.bytes
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    digest, written = xxhash.xxh3_128(), 0
    with path.open("wb") as file:
        for block in (len(text).to_bytes(8, "little"), text):
            digest.update(block)
            written += file.write(block)
        for name in order:
            data = _bytes_of(tensors[name])
            for first in range(0, len(data), BLOCK):
                digest.update(data[first : first + BLOCK])
                written += file.write(data[first : first + BLOCK])
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": written, "checksum": digest.hexdigest()}


@torch.no_grad()
def _bytes_of(one: Stored) -> memoryview:
    tensor = one.tensor().detach().to(device="cpu", dtype=one.dtype).contiguous()
    assert tuple(tensor.shape) == one.shape
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def read_header(path: Path) -> dict[str, Any]:
    """The header of a file: name -> dtype, shape and place; `__metadata__`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= path.stat().st_size - 8:
            raise ValueError(f"{path.name} is no safetensors file")
        return json.loads(file.read(length))
