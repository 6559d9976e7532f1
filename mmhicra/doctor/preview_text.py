"""A preview of data in words, and as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from mmhicra.core.records import ProblemImage
from mmhicra.data.images import DAMAGE
from mmhicra.data.text import printable, shorten
from mmhicra.doctor.preview import Example, Picture, Preview
from mmhicra.report.pictures import thumbnail

LISTED = 5
"""Refused rows of a kind that are named on the terminal, and `PAGED` on the page."""
PAGED = 50


def as_text(preview: Preview) -> str:
    """The preview for a terminal."""
    return "\n".join(_lines(preview))


def _lines(preview: Preview) -> Iterator[str]:
    yield printable(_heading(preview))
    width = max(map(len, preview.roles), default=0)
    for role, columns in preview.roles.items():
        yield f"  {role:<{width}}  {printable(columns)}"
    if preview.unused:
        yield f"  nothing reads: {', '.join(preview.unused)}"
    for note in preview.notes:
        yield f"  {printable(note)}"
    yield _counts(preview)
    for kind, rows in preview.kinds.items():
        yield f"  {len(rows)}: {kind}"
        for row in rows[:LISTED]:
            yield f"    {row.where}: {row.reason}"
    for spread in preview.spreads:
        yield f"  {spread}"
    for number, example in enumerate(preview.examples, start=1):
        yield f"\nproblem {number}: {printable(example.problem.id)}{_tokens(example)}"
        yield from (f"  | {line}" for line in printable(example.prompt).splitlines())
        for picture in example.pictures:
            yield f"  image {printable(picture.name)}: {_size(picture)}"
        yield f"  gold ({example.problem.kind}): {shorten(example.problem.answer) or 'none'}"
        if example.problem.facts:
            yield f"  facts: {shorten(str(dict(example.problem.facts)))}"


def _heading(preview: Preview) -> str:
    name = f"{preview.name}: " if preview.name else ""
    return f"{name}{preview.source}: preset {preview.preset}, {preview.why}"


def _counts(preview: Preview) -> str:
    first = f" of the first {preview.limit:,}" if preview.limit else ""
    rows = preview.used + len(preview.refused)
    return f"{rows:,} rows{first}: {preview.used:,} can be used, {len(preview.refused):,} are refused"


def _tokens(example: Example) -> str:
    return f", {example.tokens:,} tokens" if example.tokens is not None else ""


def _size(picture: Picture) -> str:
    said = f"{picture.size[0]}x{picture.size[1]} pixels"
    if picture.shown is None:
        return said
    return f"{said}, shown as {picture.shown[0]}x{picture.shown[1]}, {picture.tokens} tokens"


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: color-mix(in srgb, currentColor 7%, transparent);
  padding: .75rem; border-radius: .3rem; }
td, th { text-align: left; vertical-align: top; padding: .1rem 1rem .1rem 0; }
figure { display: inline-block; margin: 0 1rem 1rem 0; } figcaption { font-size: .85rem; }
img { image-rendering: auto; max-width: 256px; border: 1px solid color-mix(in srgb, currentColor 25%, transparent); }
"""
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>mmhicra data</title><style>"""


def as_page(previews: Sequence[Preview]) -> str:
    """The previews as one self-contained page, with small copies of the images that are shown."""
    body = "\n".join(line for preview in previews for line in _page(preview))
    return f"{_HEAD}{_STYLE}</style></head><body>\n{body}\n</body></html>\n"


def _page(preview: Preview) -> Iterator[str]:
    yield f"<h1>{escape(printable(_heading(preview)))}</h1>"
    roles = [*preview.roles.items(), *([("nothing reads", ", ".join(preview.unused))] if preview.unused else [])]
    yield _table([(role, printable(columns)) for role, columns in roles])
    yield from (f"<p>{escape(printable(note))}</p>" for note in preview.notes)
    yield f"<p>{escape(_counts(preview))}</p>"
    for kind, rows in preview.kinds.items():
        yield f"<details><summary>{len(rows)}: {escape(kind)}</summary>"
        yield _table([(row.where, row.reason) for row in rows[:PAGED]]) + "</details>"
    yield _table([(s.what, f"{s.least:g}", f"{s.middle:g}", f"{s.most:g}") for s in preview.spreads], _SPREAD)
    for number, example in enumerate(preview.examples, start=1):
        problem = example.problem
        yield f"<h2>Problem {number}: {escape(printable(problem.id))}{_tokens(example)}</h2>"
        yield f"<pre>{escape(printable(example.prompt))}</pre>"
        for picture, image in zip(example.pictures, problem.images, strict=True):
            caption = escape(f"{printable(picture.name)}: {_size(picture)}")
            yield f"<figure>{_image(image)}<figcaption>{caption}</figcaption></figure>"
        yield f"<p>gold ({problem.kind}): {escape(printable(problem.answer)) or 'none'}</p>"
        if problem.facts:
            yield f"<p>facts: {escape(shorten(str(dict(problem.facts))))}</p>"


_SPREAD = ("", "least", "median", "most")


def _table(rows: Sequence[Sequence[str]], heads: Sequence[str] = ()) -> str:
    lines = ["<tr>" + "".join(f"<th>{escape(head)}</th>" for head in heads) + "</tr>"] if heads and rows else []
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>" if lines else ""


def _image(image: ProblemImage) -> str:
    try:
        return f'<img alt="" src="{thumbnail(image.open())}">'
    except DAMAGE as error:  # it was there a moment ago
        return f"<p>{escape(str(error))}</p>"
