"""Own results merged with published rows: Markdown, CSV and one self-contained HTML page."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from mmhicra.core.errors import DataError, brief, one_line
from mmhicra.core.resources import evaluation_path

_SUBSETS = {"mathvista": "testmini", "mathvision": "test"}


@dataclass(frozen=True)
class Row:
    """One score on one benchmark.

    Attributes:
        benchmark: its name.
        subset: which questions: split, or versions of MathVerse.
        model: what was scored.
        size: billions of parameters, None where it is not known.
        score: percent.
        source: where the number comes from.
        protocol: how it was made; numbers of different protocols are not comparable without care.
        low: of the 95 % interval in percent, None where none is known.
        high: likewise.
        own: a result of the user's.
    """

    benchmark: str
    subset: str
    model: str
    size: float | None
    score: float
    source: str
    protocol: str
    low: float | None = None
    high: float | None = None
    own: bool = False


def published_rows() -> list[Row]:
    """The rows that ship with the suite, `eval/published.yaml`."""
    return [Row(**row) for row in yaml.safe_load(evaluation_path("published.yaml").read_text(encoding="utf-8"))]


def own_row(path: Path, model: str | None = None, size: float | None = None) -> Row:
    """A result of `mmhicra eval score` as a row.

    Args:
        path: the result file.
        model: what to call it; if None, as the evaluation called it, or the name of the scored file.
        size: billions of parameters; if None, as counted by the evaluation.

    Raises:
        DataError: the file is no result.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        score, counts = result["score"], result["counts"]
        size = size or result.get("generation", {}).get("model", {}).get("billions")
        numbers = [score["accuracy"], score["low"], score["high"], *([] if size is None else [size / 1e6])]
        if not all(isinstance(number, int | float) and 0 <= number <= 1 for number in numbers):
            raise ValueError(f"no shares: {brief(score)}")
        if not isinstance(result["benchmark"], str):
            raise ValueError(f"benchmark is {brief(result['benchmark'])}")
        partial = f", {counts['missing']} questions missing" if counts.get("missing") else ""
        return Row(
            benchmark=result["benchmark"],
            subset=_subset(result) + partial,
            model=model or str(_model_of(result)),
            size=size,
            score=100 * score["accuracy"],
            source=path.name,
            protocol=_protocol(result),
            low=100 * score["low"],
            high=100 * score["high"],
            own=True,
        )
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): give a result of eval score") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path} is no result of eval score ({one_line(repr(error), 160)}): score the responses again"
        ) from None


def merge(own: Sequence[Row], published: Sequence[Row]) -> list[Row]:
    """Rows of the benchmarks that `own` has, all if it is empty: by benchmark, the best first."""
    benchmarks = {row.benchmark for row in own} or {row.benchmark for row in published}
    rows = [row for row in (*own, *published) if row.benchmark in benchmarks]
    return sorted(rows, key=lambda row: (row.benchmark, -row.score))


def warnings_for(rows: Sequence[Row]) -> list[str]:
    """What may not be compared with what: one line per benchmark whose rows differ in questions or protocol."""
    lines: list[str] = []
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        here = [row for row in rows if row.benchmark == benchmark]
        for name in ("subset", "protocol"):
            values = sorted({getattr(row, name) for row in here})
            if len(values) > 1:
                lines.append(f"{benchmark}: rows differ in {name} ({'; '.join(values)})")
    return lines


def markdown(rows: Sequence[Row]) -> str:
    """One table per benchmark, own rows in bold, with the warnings above."""
    parts = [f"> {line}" for line in warnings_for(rows)]
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        lines = ["| model | size, B | score, % | 95 % interval | questions | protocol | source |", "|" + "---|" * 7]
        for row in rows:
            if row.benchmark == benchmark:
                model = f"**{_cell(row.model)}**" if row.own else _cell(row.model)
                cells = [model, _size(row), f"{row.score:.2f}", _interval(row), row.subset, row.protocol, row.source]
                lines.append("| " + " | ".join([cells[0], *map(_cell, cells[1:])]) + " |")
        parts += [f"## {benchmark}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def csv_text(rows: Sequence[Row]) -> str:
    """A line per row, every field."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return out.getvalue()


def page(rows: Sequence[Row]) -> str:
    """The HTML page: sortable, filterable by benchmark, size and protocol, without anything from the net."""
    template = evaluation_path("leaderboard.html").read_text(encoding="utf-8")
    body = "\n".join(_html_row(row) for row in rows)
    warned = "".join(f"<li>{html.escape(line)}</li>" for line in warnings_for(rows))
    options = {
        "BENCHMARKS": _options(row.benchmark for row in rows),
        "PROTOCOLS": _options(row.protocol for row in rows),
    }
    for name, value in {"ROWS": body, "WARNINGS": warned, **options}.items():
        template = template.replace(f"<!--{name}-->", value)
    return template


def write_leaderboard(folder: Path, rows: Sequence[Row]) -> list[tuple[str, Path]]:
    """Write `leaderboard.md`, `.csv` and `.html`; returns their kinds and places.

    Raises:
        DataError: the folder cannot be written.
    """
    texts = {"md": markdown(rows), "csv": csv_text(rows), "html": page(rows)}
    places = [(kind, folder / f"leaderboard.{kind}") for kind in texts]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, place in places:
            place.write_text(texts[kind], encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror}): name another with --out") from None
    return places


def _model_of(result: dict[str, Any]) -> str:
    if "generation" in result:
        return result["generation"]["model"]["name"]
    return result["inputs"]["responses"]["name"].split(".json")[0]


def _subset(result: dict[str, Any]) -> str:
    """The questions of a result as published rows name them; fewer than all are said to be."""
    asked = result.get("generation", {}).get("questions", {})
    part = asked.get("subset") or (f"first {asked['limit']}" if asked.get("limit") else None)
    split = asked.get("split") or _SUBSETS.get(result["benchmark"], "")
    versions = result.get("versions_in_score")
    if versions:
        split = "five versions" if len(versions) == 5 else ", ".join(versions)
    return f"{split}, {part} ({asked['count']})" if part else split


def _protocol(result: dict[str, Any]) -> str:
    rule = f", {result['integer_rule']} integers" if result.get("integer_rule") else ""
    stored = ", stored extraction" if result["stage"] == "equality" else ""
    asked = result.get("generation")
    how = f", prompt {asked['prompt']}, {_decoding(asked['decoding'])}" if asked else ""
    judge = f", judge {result['judge']['model']}" if result.get("judge") else ""
    return f"mmhicra {result['mode']}{rule}{stored}{how}{judge}, scorer {result['scorer_version']}"


def _decoding(decoding: dict[str, Any]) -> str:
    if decoding["temperature"] == 0:
        return "greedy"
    return f"mean of {decoding['n']} at temperature {decoding['temperature']:g}"


def _html_row(row: Row) -> str:
    low, high = (row.score, row.score) if row.low is None or row.high is None else (row.low, row.high)
    bar = (
        f'<div class="bar"><i style="width:{row.score:.2f}%"></i>'
        f'<b style="left:{low:.2f}%;width:{high - low:.2f}%"></b></div>'
    )
    cells = [row.benchmark, row.model, _size(row), f"{row.score:.2f}", bar, _interval(row), row.subset, row.protocol]
    written = [cell if cell is bar else html.escape(cell) for cell in (*cells, row.source)]
    size = "" if row.size is None else f"{row.size:g}"
    kind = ' class="own"' if row.own else ""
    data = (
        f'data-benchmark="{html.escape(row.benchmark)}" data-size="{size}" data-protocol="{html.escape(row.protocol)}"'
    )
    return f"<tr{kind} {data}>" + "".join(f"<td>{cell}</td>" for cell in written) + "</tr>"


def _options(values: Any) -> str:
    return "".join(f"<option>{html.escape(value)}</option>" for value in sorted(set(values)))


def _interval(row: Row) -> str:
    return "" if row.low is None or row.high is None else f"{row.low:.1f} to {row.high:.1f}"


def _size(row: Row) -> str:
    return "" if row.size is None else f"{row.size:g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
