"""Which column plays which role, and which columns nobody reads although they hold something.

A column of images, choices, video or audio that no role takes would change the problems silently: images and choices
are recognised by their names where only one column can be meant, and refused otherwise.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from mmhicra.config.data import NOT_READ, ColumnsConfig
from mmhicra.core.errors import DataError
from mmhicra.data.choices import read_choices
from mmhicra.data.encoded import looks_like_image, read_list
from mmhicra.data.images import MOVING

ROLES = ("question", "answer", "images", "choices", "id", "task", "kind")

_STEMS = ("image", "img", "picture", "pic", "photo", "figure", "diagram", "screenshot")
_TAILS = ("", "s", "path", "paths", "spath", "file", "files", "url", "urls", "bytes", "sbytes", "base64", "b64", "name")
IMAGE_NAMES = frozenset(
    [stem + tail for stem in _STEMS for tail in _TAILS]
    + [
        "filename",
        "imagefilename",
        "media",
        "jpg",
        "jpeg",
        "png",
        "decodedimage",
        "pilimage",
        "imagedata",
        "base64image",
    ]
)
"""Names of columns of images, without capitals and what separates words."""
_NUMBERED_IMAGE = re.compile(rf"({'|'.join(_STEMS)})s?[ _-]?(\d{{1,2}})", re.IGNORECASE)
_CHOICE_NAME = re.compile(r"choice|option|candidate|alternative|distractor", re.IGNORECASE)
_CHOICE_COLUMN = re.compile(r"(?:option|opt|choice)s?[ _.-]?([A-Za-z]|\d)", re.IGNORECASE)
_MOVING_NAME = re.compile(r"(video|audio|movie|speech)s?(path|paths|file|files|url|urls|bytes|name)?")
_IMAGE_ENDING = re.compile(r"[^\n]+\.(png|jpe?g|gif|webp|bmp|tiff?|avif|heic|jp2|ppm|pgm)", re.IGNORECASE)
_BASE64_IMAGE = ("data:image/", "iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")
_LONGEST_PATH = 1000
DEEPEST = 8
"""Levels of lists and objects in a cell that are searched."""

_GUESSES = {
    "question": ("question", "problem", "query", "prompt", "instruction", "input", "text"),
    "answer": ("answer", "solution", "gold", "ground_truth", "label", "target", "response", "output"),
}


def normal(name: str) -> str:
    """A column's name without capitals and what separates words: `Image_Path` -> `imagepath`."""
    return re.sub(r"[\W_]+", "", name.lower())


def is_empty(cell: Any, depth: int = 0) -> bool:
    """Whether a cell says nothing: None, NaN, or an empty or blank text, list or object; `depth` is how far inside."""
    if depth > DEEPEST:
        return False
    if isinstance(cell, float):
        return math.isnan(cell)
    if isinstance(cell, str):
        return not cell.strip()
    if isinstance(cell, Mapping):
        return all(is_empty(value, depth + 1) for value in cell.values())
    if isinstance(cell, list | tuple):
        return all(is_empty(value, depth + 1) for value in cell)
    return cell is None or cell == b""


def find_cell(cells: Mapping[str, Any], column: str) -> Any:
    """The value of a column, `metadata.task` reaching into an object, or one written as text; None if there is none.

    A NaN is none, too.
    """
    value: Any = cells
    for part in [column] if column in cells else column.split("."):
        value = read_list(value) if isinstance(value, str) else value
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if isinstance(value, float) and math.isnan(value) else value


def has_column(columns: Sequence[str], column: str) -> bool:
    """Whether a table has a column, or the object that a dotted name reaches into."""
    return column in columns or ("." in column and column.split(".", 1)[0] in columns)


def guess_column(role: str, columns: Sequence[str]) -> str | None:
    """The column whose name says that it holds questions or answers; None if no name does."""
    names = {column: column.lower() for column in columns}
    for word in _GUESSES.get(role, ()):
        for column, name in names.items():
            if word in name:
                return column
    return None


def find_choice_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Columns that hold a choice each, in order: `A`, `B`, ... or `option_a`, ... or `choice1`, ...; else none."""
    for letters in (string.ascii_uppercase, "0123456789", "123456789"):
        found: dict[str, str] = {}
        for column in columns:
            match = _CHOICE_COLUMN.fullmatch(column)
            if match or (len(column) == 1 and column in string.ascii_uppercase):
                found.setdefault((match[1] if match else column).upper(), column)
        kept = []
        for letter in letters:
            if letter not in found:
                break
            kept.append(found[letter])
        if len(kept) >= 2:
            return tuple(kept)
    return ()


def find_image_columns(columns: Sequence[str], sample: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The columns that hold images by their names, where no preset's name is there: one, or several numbered ones.

    Raises:
        DataError: several columns may be meant.
    """
    numbered = sorted(
        (int(match[2]), column) for column in columns if (match := _NUMBERED_IMAGE.fullmatch(column)) is not None
    )
    if len(numbered) > 1 and [number for number, _ in numbered] in (
        list(range(len(numbered))),
        list(range(1, len(numbered) + 1)),
    ):
        return tuple(column for _, column in numbered)
    named = [column for column in columns if normal(column) in IMAGE_NAMES]
    filled = [column for column in named if any(_may_be_image(cells.get(column)) for cells in sample)]
    if len(filled) > 1:
        raise DataError(
            f"columns {', '.join(filled)} all seem to hold images: name one of them in data.columns.images, or a list "
            "of those that hold different ones"
        )
    return tuple(filled)


def _may_be_image(cell: Any) -> bool:
    return isinstance(cell, str | bytes | Mapping | list | tuple | Image.Image) and not is_empty(cell)


def holds_image(cell: Any, depth: int = 0) -> bool:
    """Whether a cell is an image, or a list of images, by what it holds; `depth` is how far inside."""
    if depth > DEEPEST:
        return False
    if isinstance(cell, bytes):
        return looks_like_image(cell)
    if isinstance(cell, Mapping):
        data = cell.get("bytes")
        if isinstance(data, str) or data is None:
            return any(
                holds_image(cell.get(key), depth + 1)
                for key in ("path", "url", "bytes")
                if isinstance(cell.get(key), str)
            )
        return holds_image(data, depth + 1)
    if isinstance(cell, list | tuple):
        return any(holds_image(one, depth + 1) for one in cell[:8])
    if not isinstance(cell, str):
        return isinstance(cell, Image.Image)
    if cell.startswith("[") and len(cell) <= _LONGEST_PATH:
        return holds_image(read_list(cell), depth + 1)
    return cell.startswith(_BASE64_IMAGE) or (len(cell) <= _LONGEST_PATH and bool(_IMAGE_ENDING.fullmatch(cell)))


def holds_choices(column: str, cell: Any) -> bool:
    """Whether a column's name and its cell say that these are choices."""
    if not _CHOICE_NAME.search(column) or not isinstance(cell, str | list | tuple | Mapping) or is_empty(cell):
        return False
    try:
        return len(read_choices(cell)) > 1
    except DataError:
        return not isinstance(cell, str)


def holds_moving(column: str, cell: Any, depth: int = 0) -> str | None:
    """`a video` or `audio` if that is what a cell is, by its column's name or by the ending of a file; else None."""
    if depth > DEEPEST:
        return None
    if isinstance(cell, list | tuple):
        return next((what for one in cell[:8] if (what := holds_moving(column, one, depth + 1))), None)
    if not isinstance(cell, str | bytes | Mapping) or is_empty(cell):
        return None
    match = _MOVING_NAME.fullmatch(normal(column))
    if match:
        return "audio" if match[1] in ("audio", "speech") else "a video"
    path = cell.get("path") or cell.get("url") if isinstance(cell, Mapping) else cell
    if isinstance(path, str) and len(path) <= _LONGEST_PATH and (ending := MOVING.fullmatch(path)):
        return "audio" if ending[1].lower() in ("wav", "mp3", "flac", "ogg", "m4a", "aac") else "a video"
    return None


@dataclass
class Unread:
    """Watches what the columns hold that no role takes, row by row.

    Attributes:
        columns: those columns.
        used: role -> the columns that are read for it.
        settled: roles that the configuration decides; their columns are not searched for.
        found: role -> the first column that holds something for it, and its row.
    """

    columns: Sequence[str]
    used: Mapping[str, Sequence[str]]
    settled: frozenset[str] = frozenset()
    found: dict[str, tuple[str, str]] = field(default_factory=dict)

    def inspect(self, cells: Mapping[str, Any], where: str) -> None:
        """Note what one more row holds that no role takes."""
        for role in {"images", "choices"} - self.settled - self.found.keys():
            read = [cell for column in self.used.get(role, ()) if not is_empty(cell := find_cell(cells, column))]
            for column in self.columns:
                cell = cells.get(column)
                if role == "images":
                    held = holds_image(cell) or (not read and normal(column) in IMAGE_NAMES and _may_be_image(cell))
                    excused = _same_files(cell, read)
                else:
                    held, excused = holds_choices(column, cell), bool(read)
                if held and not excused:
                    self.found[role] = (column, where)
                    break

    def refuse(self, table: str) -> None:
        """Stop if images or choices would be left out.

        Raises:
            DataError: names the column, a row and the settings that decide.
        """
        for role, (column, where) in self.found.items():
            besides = ", ".join(self.used.get(role, ()))
            beside = f" beside {besides}" if besides else ""
            both = f"[{besides}, {column}]" if besides and role == "images" else column
            raise DataError(
                f"{table}: the column {column} seems to hold {role} ({where}){beside} and would not be read: set "
                f"data.columns.{role} to {both} to use it, or list {column} in data.columns.unused to leave it out"
            )


def _same_files(cell: Any, read: Iterable[Any]) -> bool:
    """Whether a cell says nothing new: the files that are read as images, by name, and their very bytes if it has any.

    Pictures of another kind, e.g. a depth map, often have the name of the photo that they belong to.
    """
    read = list(read)
    held = _bytes_of(cell)
    if held and not held <= {data for one in read for data in _bytes_of(one)}:
        return False
    names = _names_of(cell)
    return names <= {name for one in read for name in _names_of(one)} and bool(names or held)


def _bytes_of(cell: Any, depth: int = 0) -> set[bytes]:
    """The embedded images in a cell."""
    if isinstance(cell, bytes):
        return {cell}
    if isinstance(cell, Mapping) and depth <= DEEPEST:
        return _bytes_of(cell.get("bytes"), depth + 1)
    if isinstance(cell, list | tuple) and depth <= DEEPEST:
        return {data for one in cell for data in _bytes_of(one, depth + 1)}
    return set()


def _names_of(cell: Any, depth: int = 0) -> set[str]:
    """The file names in a cell, without their folders."""
    if isinstance(cell, Mapping) and depth <= DEEPEST:
        return _names_of(cell.get("path"), depth + 1)
    if isinstance(cell, list | tuple) and depth <= DEEPEST:
        return {name for one in cell for name in _names_of(one, depth + 1)}
    named = isinstance(cell, str) and 0 < len(cell) <= _LONGEST_PATH and not cell.startswith("data:")
    return {re.split(r"[/\\]", str(cell))[-1]} if named else set()


def named_columns(config: ColumnsConfig) -> dict[str, tuple[str, ...]]:
    """role -> the columns that the configuration names; empty for `none`."""
    named: dict[str, tuple[str, ...]] = {}
    for role in ROLES:
        said = getattr(config, role)
        if said is not None:
            listed = (said,) if isinstance(said, str) else tuple(said)
            named[role] = () if listed == (NOT_READ,) else listed
    return named
