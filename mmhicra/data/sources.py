"""Open a source into rows: local parquet, JSON, JSON Lines, CSV and TSV, a saved `datasets` folder, or a hub id.

A folder is searched at its top and in its `data/` for files named after their split: `train.jsonl`,
`val.json.gz`, `train-00000-of-00002.parquet`. In a folder of images, `metadata.jsonl` or `metadata.csv` is the split
`train`, or the split that its own folder is named after (`train/metadata.csv`). A folder without any of these is
searched for folders named after splits, whose files are shards. A file is one split, whatever it is called. Image
columns stay encoded throughout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmhicra.core.errors import DataError
from mmhicra.data.json_files import read_json
from mmhicra.data.rows import Row, Table
from mmhicra.data.table_files import read_table
from mmhicra.data.text import printable, shorten

if TYPE_CHECKING:
    import datasets

FORMATS = "parquet, jsonl, json, jsonl.gz, json.gz, csv, tsv or a folder saved with datasets.save_to_disk"
_FILE = re.compile(
    r"(?P<split>.+?)(-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?\.(?P<format>parquet|jsonl|json|jsonl\.gz|json\.gz|csv|tsv)"
)
_METADATA = "metadata"
"""What the file is called that tells of the images in its folder."""
_SPLITS = ("train", "val", "validation", "test", "dev")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
"""A hub id, with the name of one of its configurations if it has several: `AI4Math/MathVerse:testmini`."""
_BATCH = 64
"""Rows decoded from Arrow at a time; a row may carry megabytes of encoded images."""


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
            DataError: there is no such split, or it is empty or unreadable.
        """
        if self.single:
            return next(iter(self.splits.values()))()
        if split not in self.splits:
            raise DataError(
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
        DataError: it does not exist, cannot be reached, or has no format we read.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _file_source(source, path.resolve(), setting)
    if path.is_dir():
        return _folder_source(source, path.resolve(), setting)
    if not _HUB_ID.fullmatch(source) or _FILE.fullmatch(path.name) or Path(path.parts[0]).exists():
        raise DataError(f"{setting}: {source} does not exist: mend the path (a hub id is written owner/name)")
    return _hub_source(source, setting)


def _file_source(name: str, path: Path, setting: str) -> Source:
    match = _FILE.fullmatch(path.name)
    if match is None:
        raise DataError(f"{setting}: {name} has no format we read: convert it to {FORMATS}")
    return Source(name, {match["split"]: lambda: _open_files([path], match["split"], path.parent)}, single=True)


def _folder_source(name: str, path: Path, setting: str) -> Source:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _saved_source(name, path, setting)
    files: dict[str, list[Path]] = {}
    for file in sorted([*path.iterdir(), *(path / "data").glob("*")]):
        match = _FILE.fullmatch(file.name)
        if match and file.is_file() and not file.name.startswith("."):  # as macOS leaves beside copies
            files.setdefault(match["split"], []).append(file)
    if list(files) == [_METADATA]:
        files = {"train": files[_METADATA]}
    if not files and (folders := _split_folders(path)):
        return Source(name, folders)
    if not files:
        raise DataError(
            f"{setting}: the folder {name} holds no data files: it needs {FORMATS}, named train.* and so on"
        )
    return Source(name, {split: _files_opener(shards, split, path) for split, shards in files.items()})


def _split_folders(path: Path) -> dict[str, Callable[[], Table]]:
    """The splits of a folder that has a folder for each; its shards are all data files in it, or its metadata."""
    openers = {}
    for split in _SPLITS:
        inside = sorted(path.glob(f"{split}/*"))
        files = [file for file in inside if _FILE.fullmatch(file.name) and file.is_file() and file.name[0] != "."]
        told = [file for file in files if file.name.startswith(f"{_METADATA}.")]
        if files:
            openers[split] = partial(_open_shards, told or files, split, path / split)
    return openers


def _open_shards(files: Sequence[Path], split: str, folder: Path) -> Table:
    """The files of a split's own folder, which must be of one format.

    Raises:
        DataError: they are not.
    """
    formats = {match["format"] for file in files if (match := _FILE.fullmatch(file.name))}
    if len(formats) > 1:
        raise DataError(f"{folder} holds files of several formats ({', '.join(sorted(formats))}): keep those of one")
    if any((match := _FILE.fullmatch(file.name)) and match["shard"] for file in files):
        _refuse_odd_shards(files, split, folder)
    return _open_files(files, split, folder)


def _files_opener(files: Sequence[Path], split: str, folder: Path) -> Callable[[], Table]:
    def open_split() -> Table:
        _refuse_odd_shards(files, split, folder)
        return _open_files(files, split, folder)

    return open_split


def _refuse_odd_shards(files: Sequence[Path], split: str, folder: Path) -> None:
    """Refuse a split of which a shard is missing, or that is there more than once.

    Raises:
        DataError: names the shard, or the files.
    """
    matches = [match for file in files if (match := _FILE.fullmatch(file.name))]
    totals = {(int(match["shards"]) if match["shards"] else None, match["format"]) for match in matches}
    numbers = [int(match["shard"]) for match in matches if match["shard"]]
    if len(files) > 1 and (len(totals) > 1 or not numbers or len(set(numbers)) < len(numbers)):
        names = shorten(", ".join(str(file.relative_to(folder)) for file in files), 300)
        raise DataError(f"{folder} has the split {split} more than once ({names}): name one file as the source")
    ((total, _),) = totals
    if total is not None and (missing := sorted(set(range(total)) - set(numbers))):
        named = f"{split}-{missing[0]:05d}-of-{total:05d}"
        raise DataError(
            f"{folder} lacks {len(missing)} of the {total} shards of the split {split}, first {named}: fetch them, or "
            "rename those that are there"
        )


def _open_files(files: Sequence[Path], split: str, folder: Path) -> Table:
    """The shards of one split, which must be of one format."""
    match = _FILE.fullmatch(files[0].name)
    assert match is not None  # it was found by this
    form = match["format"]
    named = {printable(f"{folder.name}/{file.relative_to(folder)}"): file for file in files}
    table_name = printable(f"{folder.name}/{split}") if len(files) > 1 else next(iter(named))
    if form == "parquet":
        return _open_parquet(table_name, named, split, folder)
    rows: list[Row] = []
    for name, file in named.items():
        before = rows[-1].place if rows else 0
        if form in ("csv", "tsv"):
            rows += read_table(name, file, "," if form == "csv" else "\t", before)
        else:
            rows += read_json(name, file, "jsonl" in form, before)
    columns = tuple(dict.fromkeys(column for row in rows for column in row.cells))
    if not rows:
        raise DataError(f"{table_name} has no rows: fill it, or name another file or split")
    return Table(table_name, split, columns, lambda: iter(rows), folder)


def _open_parquet(table_name: str, files: Mapping[str, Path], split: str, folder: Path) -> Table:
    columns: dict[str, None] = {}
    count = 0
    for name, file in files.items():
        try:
            with pq.ParquetFile(file) as parquet:
                names = parquet.schema_arrow.names
                if len(set(names)) < len(names):
                    twice = next(column for column in names if names.count(column) > 1)
                    raise DataError(f"{name} has two columns {shorten(twice, 60)}: rename or drop one")
                columns |= dict.fromkeys(names)
                count += parquet.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{name} is not a whole parquet file ({error}): fetch or write it again") from None
    if not count:
        raise DataError(f"{table_name} has no rows: fill it, or name another file or split")

    def rows() -> Iterator[Row]:
        before = 0
        for name, file in files.items():
            try:
                with pq.ParquetFile(file) as parquet:
                    yield from _arrow_rows(name, parquet.iter_batches(batch_size=_BATCH), before)
                    before += parquet.metadata.num_rows
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{name} cannot be read to its end ({error}): fetch or write it again") from None

    return Table(table_name, split, tuple(columns), rows, folder)


def _arrow_rows(name: str, batches: Iterable[pa.RecordBatch | pa.Table], before: int = 0) -> Iterator[Row]:
    """Rows straight from Arrow, where an image is still its `{"bytes", "path"}`."""
    number = 0
    for batch in batches:
        for cells in _cells_of(batch):
            number += 1
            if isinstance(cells, Exception):
                yield Row(name, number, fault=f"row unreadable: {_first_line(cells)}", before=before)
            else:
                yield Row(name, number, cells, before=before)


def _cells_of(batch: pa.RecordBatch | pa.Table) -> list[dict[str, Any] | Exception]:
    """The cells of every row, or the error of a row that has none, e.g. for text that is not UTF-8."""
    unreadable = (ValueError, OverflowError, pa.ArrowException)  # a UnicodeDecodeError is a ValueError
    try:
        return list(batch.to_pylist())
    except unreadable:
        rows: list[dict[str, Any] | Exception] = []
        for place in range(batch.num_rows):
            try:
                rows += batch.slice(place, 1).to_pylist()
            except unreadable as error:
                rows.append(error)
        return rows


def _saved_source(name: str, path: Path, setting: str) -> Source:
    """A folder written by `datasets.save_to_disk`, memory-mapped."""
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        saved = datasets.load_from_disk(path)
    except (DatasetsError, pa.ArrowException, OSError, ValueError, IndexError) as error:  # IndexError: it has no rows
        raise DataError(
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
                raise DataError(_unreachable(name, setting, error)) from None
            assert isinstance(part, datasets.Dataset)  # a named split, not streamed
            return _dataset_opener(f"{name}/{split}", split, part, None)()

        return open_split

    try:
        splits = datasets.get_dataset_split_names(identity, config or None)
    except unreachable as error:
        raise DataError(_unreachable(name, setting, error)) from None
    return Source(name, {split: opener(split) for split in splits})


def _unreachable(name: str, setting: str, error: Exception) -> str:
    return (
        f"{setting}: {name} is no local path, and not to be had from the hub ({_first_line(error)}): "
        "mend the name, or download it and name the folder"
    )


def _dataset_opener(name: str, split: str, part: datasets.Dataset, folder: Path | None) -> Callable[[], Table]:
    def open_part() -> Table:
        if not len(part):
            raise DataError(f"{name} has no rows: fill it, or name another split")
        arrow = part.with_format("arrow")
        return Table(name, split, tuple(part.column_names), lambda: _arrow_rows(name, arrow.iter(_BATCH)), folder)

    return open_part


def _first_line(error: Exception, limit: int = 160) -> str:
    return shorten(str(error) or type(error).__name__, limit)
