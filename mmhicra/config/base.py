"""The pieces that sections of the configuration are made of: numbers with bounds, text without traps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema, PydanticKnownError
from pydantic_core.core_schema import no_info_after_validator_function

FORMS = "package.module:object or ./file.py:object"
"""How the address of a plug-in reads (`core.plugins`)."""
MOST = 2**31
"""The largest count that a field takes unless it says otherwise: beyond any run, far below what overflows int64."""
LONGEST = 2**20
"""Tokens of the longest prompt or response that a field takes."""

Positive = Annotated[int, Field(gt=0, le=MOST)]
NonNegative = Annotated[int, Field(ge=0, le=MOST)]
Tokens = Annotated[int, Field(gt=0, le=LONGEST)]
"""Length of a text in tokens."""
Drawn = Annotated[int, Field(gt=0, le=10**7)]
"""Problems that are drawn before the run: ten million take hours and all of the memory."""
Pixels = Annotated[int, Field(gt=0, le=10**8)]
"""Pixels of one image; 100 million are more than Pillow decodes without a warning."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What torch, numpy and vLLM take alike: a signed 64-bit integer that is not negative."""
Threads = Annotated[int, Field(ge=0, le=1024)]
"""OpenMP ends the process where it cannot start so many; measured: 4 096 start, 20 000 do not."""
Samples = Annotated[int, Field(gt=0, le=4096)]
"""Completions per problem."""
Processes = Annotated[int, Field(gt=0, le=1024)]
"""Workers, or processes that share something."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]
SMALLEST_WEIGHT = 1e-9


def _check_weight(weight: float) -> float:
    if 0 < weight < SMALLEST_WEIGHT:
        raise ValueError(f"the weight {weight:g} is lost in float32: set it to 0, or to {SMALLEST_WEIGHT:g} or more")
    return weight


Weight = Annotated[float, Field(ge=0.0, le=1e4), AfterValidator(_check_weight)]
"""A factor of a term in the reward, the advantage or the loss."""
Temperature = Annotated[float, Field(ge=0.01, le=100.0)]
"""Below 0.01, which is also vLLM's limit, logits overflow when they are divided by it; above 100 nothing is left of
them."""
GiB = Annotated[float, Field(ge=0.0, le=1e5)]


_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
"""The start of an address: `https://...`, `s3://...`, `file:/...`; a drive has one letter."""


def _check_path(path: str) -> str:
    if not path.strip():
        raise ValueError("the path is empty: name a file or folder, or leave the field out")
    if not path.isprintable():
        raise ValueError(f"the path {path[:60]!r} holds a control character: take it out")
    if len(path.encode()) > 4000 or any(len(part.encode()) > 255 for part in path.split("/")):
        raise ValueError(f"the path {path[:40]}... is longer ({len(path)}) than file systems take")
    if address := _ADDRESS.match(path):  # not the rest of it, which may hold a password
        raise ValueError(
            f"the path is an address ({address[0]}...), which would become a folder of that name: name a local file or "
            "folder, or a hub id as owner/name; download or mount what lies elsewhere"
        )
    try:
        Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"the path {path[:60]}: there is no such user's home folder") from None
    return path


PathText = Annotated[str, AfterValidator(_check_path)]
"""A file, a folder, or a name in their place (a hub id, what ships)."""


@dataclass(frozen=True)
class NamedOrPlugin:
    """Of a text field: one of the names that mmhicra knows, or the address of a plug-in (`core.plugins`).

    Args:
        names: a Literal of `core.names`.
        also: names that only the configuration knows, such as `auto`.
        file: the ending of files that are named without an object, such as `.yaml`; None if there are none.
    """

    names: Any
    also: tuple[str, ...] = ()
    file: str | None = None

    @property
    def known(self) -> tuple[str, ...]:
        """The names."""
        return (*self.also, *get_args(self.names))

    @property
    def forms(self) -> str:
        """What may stand in place of a name."""
        return f"{FORMS} or ./file{self.file}" if self.file else FORMS

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        own = {"type": "string", "pattern": rf":|\{self.file}$" if self.file else ":"}
        return {"anyOf": [{"enum": list(self.known), "type": "string"}, own]}

    def _check(self, value: str) -> str:
        if value in self.known or ":" in value.strip() or (self.file and value.endswith(self.file)):
            return _check_path(value)
        expected = ", ".join(repr(name) for name in self.known)
        raise PydanticKnownError("literal_error", {"expected": f"{expected}, or {self.forms}"})


class Section(BaseModel):
    """A part of the configuration: unknown keys and silent type conversions are refused, and so are inf and NaN."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _check_text(cls, value: Any, info: ValidationInfo) -> Any:
        """NUL ends a path, and half a surrogate pair cannot be written: neither is in a text that is meant."""
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                continue
            if "\0" in text:
                raise ValueError("the text holds a NUL character (\\0): take it out")
            if not _encodes(text):
                raise ValueError("the text is not valid Unicode (half a surrogate pair, or bytes that are no UTF-8)")
        return value


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
