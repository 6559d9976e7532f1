"""Open a source into rows: local parquet, JSON and JSON Lines, a saved `datasets` folder, or a hub id.

A folder is searched at its top and in its `data/` for files named after their split: `train.jsonl`,
`val.json.gz`, `train-00000-of-00002.parquet`. A file is one split, whatever it is called. Image columns stay
encoded throughout.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmhicra.refusals import DataRefusal

if TYPE_CHECKING:
    import datasets

FORMATS = "parquet, jsonl, json, jsonl.gz, json.gz or a folder saved with datasets.save_to_disk"
_FILE = re.compile(r"(?P<split>.+?)(-\d{5}-of-\d{5})?\.(?P<format>parquet|jsonl|json|jsonl\.gz|json\.gz)")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
"""A hub id, with the name of one of its configurations if it has several: `AI4Math/MathVerse:testmini`."""
_BATCH = 64
"""Rows decoded from Arrow at a time; a row may carry megabytes of encoded images."""


@dataclass(frozen=True)
class Row:
    """One row of a source.

    Attributes:
        source: the file it is in, e.g. `geometry3k/train.jsonl`.
        number: its line in JSON Lines, else its place in the file; from 1.
        cells: column -> value, images still encoded.
        fault: why it could not be read; empty for a good row.
    """

    source: str
    number: int
    cells: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""

    @property
    def where(self) -> str:
        """`file:row`, as messages and `Problem.source` say it."""
        return f"{self.source}:{self.number}"


@dataclass(frozen=True)
class Table:
    """One split of a source.

    Attributes:
        name: what messages call it, e.g. `geometry3k/train.jsonl`.
        split: its split; of a single file its name without the ending.
        columns: in order of appearance.
        rows: reads them from the start, each time it is called.
        folder: what relative image paths are relative to; None for the hub.
    """

    name: str
    split: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[Row]]
    folder: Path | None = None


@dataclass(frozen=True)
class Source:
    """A source found, none of its splits read yet.

    Attributes:
        name: as the configuration names it.
        splits: split -> what opens it.
        single: it is one file or one saved data set, and has no splits to choose from.
    """

    name: str
    splits: Mapping[str, Callable[[], Table]]
    single: bool = False

    def table(self, split: str) -> Table:
        """Open a split; a single file opens whatever the split is called.

        Raises:
            DataRefusal: there is no such split, or it is empty or unreadable.
        """
        if self.single:
            return next(iter(self.splits.values()))()
        if split not in self.splits:
            raise DataRefusal(
                f"{self.name} has no split {split}, it has: {', '.join(self.splits)}; name one of these, "
                "or the file itself as the source"
            )
        return self.splits[split]()


def find_source(source: str, setting: str = "data.source") -> Source:
    """Find out what a source is and which splits it has.

    Args:
        source: a local file or folder, or a hub id such as `hiyouga/geometry3k` or `AI4Math/MathVerse:testmini`.
        setting: the configuration field it comes from, for the message.

    Raises:
        DataRefusal: it does not exist, cannot be reached, or has no format we read.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _file_source(source, path.resolve(), setting)
    if path.is_dir():
        return _folder_source(source, path.resolve(), setting)
    if not _HUB_ID.fullmatch(source) or _FILE.fullmatch(path.name) or Path(path.parts[0]).exists():
        raise DataRefusal(f"{setting}: {source} does not exist: mend the path (a hub id is written owner/name)")
    return _hub_source(source, setting)


def _file_source(name: str, path: Path, setting: str) -> Source:
    match = _FILE.fullmatch(path.name)
    if match is None:
        raise DataRefusal(f"{setting}: {name} has no format we read: convert it to {FORMATS}")
    return Source(name, {match["split"]: lambda: _open_files([path], match["split"], path.parent)}, single=True)


def _folder_source(name: str, path: Path, setting: str) -> Source:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _saved_source(name, path, setting)
    files: dict[str, list[Path]] = {}
    for file in sorted([*path.iterdir(), *(path / "data").glob("*")]):
        match = _FILE.fullmatch(file.name)
        if match and file.is_file():
            files.setdefault(match["split"], []).append(file)
    if not files:
        raise DataRefusal(
            f"{setting}: the folder {name} holds no data files: it needs {FORMATS}, named train.* and so on"
        )
    return Source(name, {split: _files_opener(shards, split, path) for split, shards in files.items()})


def _files_opener(files: Sequence[Path], split: str, folder: Path) -> Callable[[], Table]:
    return lambda: _open_files(files, split, folder)


def _open_files(files: Sequence[Path], split: str, folder: Path) -> Table:
    """The shards of one split, which must be of one format."""
    formats = sorted({match["format"] for file in files if (match := _FILE.fullmatch(file.name))})
    if len(formats) > 1:
        names = ", ".join(file.name for file in files)
        raise DataRefusal(f"{folder} has the split {split} more than once ({names}): name one file as the source")
    named = {f"{folder.name}/{file.relative_to(folder)}": file for file in files}
    table_name = f"{folder.name}/{split}" if len(files) > 1 else next(iter(named))
    if formats == ["parquet"]:
        return _open_parquet(table_name, named, split, folder)
    rows = [row for name, file in named.items() for row in _read_json(name, file, "jsonl" in formats[0])]
    columns = tuple(dict.fromkeys(column for row in rows for column in row.cells))
    if not rows:
        raise DataRefusal(f"{table_name} has no rows: fill it, or name another file or split")
    return Table(table_name, split, columns, lambda: iter(rows), folder)


def _read_json(name: str, file: Path, lines: bool) -> list[Row]:
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataRefusal(f"{name} cannot be read ({error}): mend or replace the file") from None
    if lines:
        return _json_lines(name, content)
    try:
        entries = json.loads(content)
    except ValueError as error:
        first = content.lstrip().split(b"\n", 1)[0]
        if isinstance(_parse(first), dict):  # JSON Lines are often named .json
            return _json_lines(name, content)
        raise DataRefusal(f"{name} is not JSON ({error}): mend the file") from None
    if isinstance(entries, dict) and all(isinstance(entry, dict) for entry in entries.values()):
        entries = list(entries.values())  # MathVista's files map the problem's id to the problem
    if not isinstance(entries, list):
        raise DataRefusal(f"{name} must hold a list of objects: write one object per row")
    return [_json_row(name, number, entry) for number, entry in enumerate(entries, start=1)]


def _json_lines(name: str, content: bytes) -> list[Row]:
    lines = enumerate(content.split(b"\n"), start=1)
    return [_json_row(name, number, _parse(line)) for number, line in lines if line.strip()]


def _parse(line: bytes) -> Any:
    """The value of one line, or the error that says why it has none."""
    try:
        return json.loads(line)
    except ValueError as error:
        return error


def _json_row(name: str, number: int, entry: Any) -> Row:
    if isinstance(entry, dict):
        return Row(name, number, entry)
    said = str(entry) if isinstance(entry, ValueError) else f"a {type(entry).__name__}, not an object"
    return Row(name, number, fault=f"row unreadable: {said}")


def _open_parquet(table_name: str, files: Mapping[str, Path], split: str, folder: Path) -> Table:
    columns: dict[str, None] = {}
    count = 0
    for name, file in files.items():
        try:
            with pq.ParquetFile(file) as parquet:
                columns |= dict.fromkeys(parquet.schema_arrow.names)
                count += parquet.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataRefusal(f"{name} is not a whole parquet file ({error}): fetch or write it again") from None
    if not count:
        raise DataRefusal(f"{table_name} has no rows: fill it, or name another file or split")

    def rows() -> Iterator[Row]:
        for name, file in files.items():
            try:
                with pq.ParquetFile(file) as parquet:
                    yield from _arrow_rows(name, parquet.iter_batches(batch_size=_BATCH))
            except (pa.ArrowException, OSError) as error:
                raise DataRefusal(f"{name} cannot be read to its end ({error}): fetch or write it again") from None

    return Table(table_name, split, tuple(columns), rows, folder)


def _arrow_rows(name: str, batches: Iterable[pa.RecordBatch | pa.Table]) -> Iterator[Row]:
    """Rows straight from Arrow, where an image is still its `{"bytes", "path"}`."""
    number = 0
    for batch in batches:
        for cells in batch.to_pylist():
            number += 1
            yield Row(name, number, cells)


def _saved_source(name: str, path: Path, setting: str) -> Source:
    """A folder written by `datasets.save_to_disk`, memory-mapped."""
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        saved = datasets.load_from_disk(path)
    except (DatasetsError, pa.ArrowException, OSError, ValueError, IndexError) as error:  # IndexError: it has no rows
        raise DataRefusal(
            f"{setting}: {name} is not a whole saved data set ({_first_line(error)}): save it again"
        ) from None
    if isinstance(saved, datasets.Dataset):
        return Source(name, {path.name: _dataset_opener(path.name, path.name, saved, path)}, single=True)
    openers = {
        str(split): _dataset_opener(f"{path.name}/{split}", str(split), part, path) for split, part in saved.items()
    }
    return Source(name, openers)


def _hub_source(name: str, setting: str) -> Source:
    """A data set on the Hugging Face hub, downloaded (or taken from the cache) when a split is opened."""
    import datasets
    from datasets.exceptions import DatasetsError

    identity, _, config = name.partition(":")
    unreachable = (DatasetsError, OSError, ValueError)

    def opener(split: str) -> Callable[[], Table]:
        def open_split() -> Table:
            try:
                part = datasets.load_dataset(identity, config or None, split=split)
            except unreachable as error:
                raise DataRefusal(_unreachable(name, setting, error)) from None
            assert isinstance(part, datasets.Dataset)  # a named split, not streamed
            return _dataset_opener(f"{name}/{split}", split, part, None)()

        return open_split

    try:
        splits = datasets.get_dataset_split_names(identity, config or None)
    except unreachable as error:
        raise DataRefusal(_unreachable(name, setting, error)) from None
    return Source(name, {split: opener(split) for split in splits})


def _unreachable(name: str, setting: str, error: Exception) -> str:
    return (
        f"{setting}: {name} is no local path, and not to be had from the hub ({_first_line(error)}): "
        "mend the name, or download it and name the folder"
    )


def _dataset_opener(name: str, split: str, part: datasets.Dataset, folder: Path | None) -> Callable[[], Table]:
    def open_part() -> Table:
        if not len(part):
            raise DataRefusal(f"{name} has no rows: fill it, or name another split")
        arrow = part.with_format("arrow")
        return Table(name, split, tuple(part.column_names), lambda: _arrow_rows(name, arrow.iter(_BATCH)), folder)

    return open_part


def _first_line(error: Exception, limit: int = 160) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[:limit] + "..."
