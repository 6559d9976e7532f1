"""The benchmarks by name, and how their questions and response files are read."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from mmhicra.core.errors import ConfigError, DataError, brief
from mmhicra.core.plugins import is_address, load_object, spell_error
from mmhicra.core.records import ProblemImage
from mmhicra.data.images import read_images
from mmhicra.data.sources import Row, Table, find_source
from mmhicra.evaluate.benchmarks.cards import NAMES, Card, check_own, read_card, read_own_card
from mmhicra.evaluate.benchmarks.columns import ColumnBenchmark
from mmhicra.evaluate.benchmarks.mathverse import MathVerse
from mmhicra.evaluate.benchmarks.mathvision import MathVision
from mmhicra.evaluate.benchmarks.mathvista import IntegerRule, MathVista
from mmhicra.evaluate.scoring.records import Item, Response, SampleRecord, Stage

_FIELD = "eval.benchmarks"
_PARTS = (
    *("name", "card", "id_field", "response_fields", "extraction_field", "label_field"),
    *("read_item", "score_official", "official_scores"),
)
"""What a benchmark has."""
_CUT_OFF = ("length", "max_tokens")


class Benchmark(Protocol):
    """What asking and scoring need of a benchmark.

    One of the user's own may also have `write_prompt(item, prompt) -> str`, which writes what a model is asked.
    """

    @property
    def name(self) -> str:
        """As in `NAMES`."""
        ...

    @property
    def card(self) -> Card:
        """What a person should know about it."""
        ...

    @property
    def id_field(self) -> str:
        """Column with the item's id."""
        ...

    @property
    def response_fields(self) -> tuple[str, ...]:
        """Columns that may hold the response, the first present counts."""
        ...

    @property
    def extraction_field(self) -> str:
        """Column with the answer its makers read out of a response."""
        ...

    @property
    def label_field(self) -> str:
        """Column with their verdict."""
        ...

    def read_item(self, cells: Mapping[str, Any], where: str) -> Item:
        """One row of questions."""
        ...

    def score_official(self, item: Item, response: Response, stage: Stage) -> SampleRecord:
        """The official verdict on one response. Hangs on nothing and may be called from any thread."""
        ...

    def official_scores(self, records: Sequence[SampleRecord]) -> dict[str, Any]:
        """Aggregates in the layout of the official result files."""
        ...


def make_benchmark(name: str, integer_rule: IntegerRule = "current") -> Benchmark:
    """A benchmark by name, by the file of its card (`./card.yaml`), or by an address (`core.plugins`).

    Raises:
        ConfigError: there is none of that name, file or address, it is no benchmark, or the integer rule is set for
            another than MathVista.
    """
    if integer_rule != "current" and name != "mathvista":
        raise ConfigError(f"--integer-rule {integer_rule} is a rule of mathvista, not of {name}: leave it out")
    match name:
        case "mathvista":
            return MathVista(integer_rule)
        case "mathverse":
            return MathVerse()
        case "mathvision":
            return MathVision()
        case _ if name in NAMES:
            return ColumnBenchmark(read_card(name))
        case _ if name.endswith(".yaml"):
            return ColumnBenchmark(read_own_card(Path(name)))
        case _ if is_address(name):
            return load_own(name)
        case _:
            own = "a card of your own, ./card.yaml, or package.module:object"
            raise ConfigError(f"benchmark {name!r} is not known: choose from {', '.join(NAMES)}, or name {own}")


def name_of(benchmark: str) -> str:
    """What results and metrics of a benchmark are called that the configuration names: its own name, of its card."""
    return benchmark if benchmark in NAMES else make_benchmark(benchmark).name


def load_own(address: str) -> Benchmark:
    """A benchmark of the user's own: an object of the form of `Benchmark`, or what gives one without arguments.

    Raises:
        ConfigError: there is no such object, or it lacks something.
    """
    found = load_object(address, _FIELD)
    try:
        made: Any = found() if callable(found) else found
        lacks = [name for name in _PARTS if not hasattr(made, name)]
        card = getattr(made, "card", None)
    except Exception as error:
        raise ConfigError(f"{_FIELD}: {address!r} cannot be made: {spell_error(error)}") from error
    if lacks or not isinstance(card, Card):
        raise ConfigError(
            f"{_FIELD}: {address!r} is no benchmark: it lacks {', '.join(lacks) or 'a Card'}; see "
            "docs/extend/benchmark.md"
        )
    check_own(card, address)
    return made


def load_items(benchmark: Benchmark, source: str | None = None, split: str | None = None) -> list[Item]:
    """The questions, from a hub id, the official JSON or JSON Lines, or a local folder; without their images.

    Args:
        benchmark: whose they are.
        source: where they are; the card's hub ids if None.
        split: of a hub id or folder; the card's if None.

    Raises:
        DataError: the source cannot be read, a row is not of the benchmark, or an id occurs twice.
    """
    return [item for item, _ in _read_items(benchmark, source, split)]


def load_questions(
    benchmark: Benchmark, source: str | None = None, split: str | None = None, images: str | None = None
) -> list[Item]:
    """The questions with their images, which stay undecoded.

    Args:
        benchmark: as in `load_items`.
        source: as in `load_items`.
        split: as in `load_items`.
        images: what relative image paths are relative to; the folder of the file that names them if None. A path
            that leads nowhere from there counts by its file name alone.

    Raises:
        DataError: as in `load_items`, or an image is of no known form.
    """
    named = Path(images).expanduser() if images else None
    read: list[Item] = []
    for item, table in _read_items(benchmark, source, split):
        try:
            found = read_images(item.facts.get("image"), named or table.folder, f"{table.name}:{item.id}")
            found = tuple(_by_file_name(image, named) for image in found) if named else found
        except DataError as refusal:
            raise DataError(f"{benchmark.name}, question {item.id}: {refusal}") from None
        read.append(replace(item, images=found))
    return read


def _by_file_name(image: ProblemImage, folder: Path) -> ProblemImage:
    path = image.payload
    if isinstance(path, Path) and not path.is_file() and (folder / path.name).is_file():
        return ProblemImage(folder / path.name, path.name)
    return image


def _read_items(benchmark: Benchmark, source: str | None, split: str | None) -> list[tuple[Item, Table]]:
    card = benchmark.card
    if not source and not card.hub:
        raise ConfigError(f"{benchmark.name}: its card names no hub id: say where its questions are (source, --data)")
    items: list[tuple[Item, Table]] = []
    for place in (source,) if source else card.hub:
        table = find_source(place, "--questions").table(split or card.split)
        items += [(benchmark.read_item(row.cells, row.where), table) for row in _rows(table)]
    _refuse_doubles([item.id for item, _ in items], source or ", ".join(card.hub))
    return items


def load_responses(benchmark: Benchmark, path: str) -> tuple[list[Response], list[Item]]:
    """The responses of an output file, and its questions if it carries them (MathVista's and MathVerse's do).

    Raises:
        DataError: the file cannot be read, a row has no id or no response, or an id occurs twice.
    """
    rows = _rows(find_source(path, "--responses").table(""))
    responses = [_response(benchmark, row) for row in rows]
    _refuse_doubles([(response.id, response.sample) for response in responses], path)
    carries = all(row.cells.get("answer") is not None and row.cells.get("question") is not None for row in rows)
    first = [row for row, response in zip(rows, responses, strict=True) if response.sample == 0]
    return responses, [benchmark.read_item(row.cells, row.where) for row in first] if carries else []


def pair(items: Sequence[Item], responses: Sequence[Response], path: str) -> list[tuple[Item, Response]]:
    """Each response with its question, in the order of the responses.

    Raises:
        DataError: a response answers no question.
    """
    by_id = {item.id: item for item in items}
    strays = [response.id for response in responses if response.id not in by_id]
    if strays:
        raise DataError(
            f"{path}: {len(strays)} responses answer no question, the first has id {strays[0]}: "
            "give the questions they belong to (--questions)"
        )
    return [(by_id[response.id], response) for response in responses]


def _rows(table: Table) -> list[Row]:
    rows = list(table.rows())
    faulty = next((row for row in rows if row.fault), None)
    if faulty:
        raise DataError(f"{faulty.where}: {faulty.fault}; mend or remove the row")
    return rows


def _response(benchmark: Benchmark, row: Row) -> Response:
    cells = row.cells
    identity = cells.get(benchmark.id_field, cells.get("id"))
    if identity is None:
        raise DataError(f"{row.where} has no {benchmark.id_field!r}: name the question that it answers")
    text = next((cells[name] for name in benchmark.response_fields if cells.get(name) is not None), None)
    extraction = cells.get(benchmark.extraction_field)
    if text is None and extraction is None:
        raise DataError(f"{row.where} (id {identity}) has no {benchmark.response_fields[0]!r}: what was answered?")
    label = cells.get(benchmark.label_field)
    sample, tokens = cells.get("sample") or 0, cells.get("tokens")
    for name, cell, least in (("sample", sample, 0), ("tokens", tokens or 0, 0)):
        if (
            isinstance(cell, bool)
            or not isinstance(cell, int | float)
            or cell != cell // 1
            or not least <= cell < 2**53
        ):
            raise DataError(f"{row.where} (id {identity}): {name!r} is {brief(cell)}, not a count: mend the row")
    return Response(
        id=str(identity),
        text="" if text is None else str(text),
        extraction=None if extraction is None else str(extraction),
        label=label if isinstance(label, bool) else None,
        truncated=str(cells.get("finish_reason")) in _CUT_OFF,
        sample=int(sample),
        tokens=None if tokens is None else int(tokens),
    )


def _refuse_doubles(ids: Sequence[Hashable], source: str) -> None:
    seen: set[Hashable] = set()
    for identity in ids:
        if identity in seen:
            spelt = identity[0] if isinstance(identity, tuple) else identity
            raise DataError(f"{source}: the id {spelt} occurs twice, keep one row of it")
        seen.add(identity)
