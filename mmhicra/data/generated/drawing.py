"""Draws a configuration as an 84x84 image: three rows and columns of 28-pixel cells.

With patches of 14 pixels merged two by two, a cell is exactly one image token of the shipped models, so that even a
tiny vision tower can tell what is in it. Position, size and shade vary a little from image to image.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from random import Random

from PIL import Image, ImageDraw, ImageFont

from mmhicra.data.generated.tasks import CORNERS, SHAPES, Configuration

CELL = 28
SIDE = 3 * CELL
PAPER = (255, 255, 255)
INK = (20, 20, 20)
FAINT = (190, 190, 190)
PAINTS = {"red": (215, 40, 40), "green": (40, 160, 60), "blue": (45, 80, 215)}
BAR_UNIT = 9
"""Pixels for each unit of a bar's height, so that nine units nearly fill the image."""


def draw(c: Configuration, rng: Random) -> bytes:
    """The PNG bytes of a configuration; `rng` decides what does not matter (place, size, shade)."""
    image = Image.new("RGB", (SIDE, SIDE), PAPER)
    pen = ImageDraw.Draw(image)
    if c["task"] == "count":
        _draw_shapes(pen, c["cells"], rng)
    elif c["task"] == "grid":
        colours = {place: colour for colour, place in c["places"].items()}
        _draw_shapes(pen, [[colours[n], rng.choice(SHAPES)] if n in colours else [] for n in range(9)], rng)
    elif c["task"] == "bars":
        _draw_bars(pen, c["heights"], rng)
    elif c["task"] == "table":
        _draw_words(pen, [*c["heads"], *c["rows"][0], *c["rows"][1]], rng)
        pen.line((2, CELL, SIDE - 3, CELL), fill=FAINT)
    elif c["task"] == "sum":
        _draw_words(pen, c["cells"], rng)
    else:
        _draw_figure(pen, c, rng)
    return _encode(image)


def draw_cells(words: Sequence[object], rng: Random) -> bytes:
    """The PNG bytes of nine cells with a word in each, None for an empty one; `rng` as in `draw`."""
    image = Image.new("RGB", (SIDE, SIDE), PAPER)
    _draw_words(ImageDraw.Draw(image), words, rng)
    return _encode(image)


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _centre(cell: int) -> tuple[int, int]:
    return cell % 3 * CELL + CELL // 2, cell // 3 * CELL + CELL // 2


def _shade(colour: tuple[int, int, int], rng: Random) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, part + rng.randint(-15, 15))) for part in colour)
    return red, green, blue


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _draw_shapes(pen: ImageDraw.ImageDraw, cells: list[list[str]], rng: Random) -> None:
    for place, cell in enumerate(cells):
        if not cell:
            continue
        colour, shape = cell
        x, y = (part + rng.randint(-1, 1) for part in _centre(place))
        r, paint = rng.randint(9, 11), _shade(PAINTS[colour], rng)
        if shape == "circle":
            pen.ellipse((x - r, y - r, x + r, y + r), fill=paint)
        elif shape == "square":
            pen.rectangle((x - r + 1, y - r + 1, x + r - 1, y + r - 1), fill=paint)
        else:
            pen.polygon(((x, y - r), (x - r, y + r), (x + r, y + r)), fill=paint)


def _draw_words(pen: ImageDraw.ImageDraw, words: Sequence[object], rng: Random, size: int = 20) -> None:
    """Writes a word in the middle of each cell; None leaves a cell empty."""
    for place, word in enumerate(words):
        if word is not None:
            x, y = (part + rng.randint(-1, 1) for part in _centre(place))
            pen.text((x, y), str(word), fill=_shade(INK, rng), font=_font(size), anchor="mm")


def _draw_bars(pen: ImageDraw.ImageDraw, heights: list[int], rng: Random) -> None:
    for column, height in enumerate(heights):
        left = column * CELL + rng.randint(4, 7)
        paint = _shade(rng.choice(list(PAINTS.values())), rng)
        pen.rectangle((left, SIDE - 1 - height * BAR_UNIT, left + 16, SIDE - 1), fill=paint)


def _draw_figure(pen: ImageDraw.ImageDraw, c: Configuration, rng: Random) -> None:
    """A triangle or quadrilateral, not to scale, with angles at the corners and `?` at the missing one."""
    near, far = (lambda: rng.randint(0, 3)), (lambda: SIDE - 1 - rng.randint(0, 3))
    if c["figure"] == "triangle":
        outline = [(SIDE // 2 + rng.randint(-3, 3), near()), (far(), far()), (near(), far())]
    else:
        outline = [(near(), near()), (far(), near()), (far(), far()), (near(), far())]
    pen.polygon(outline, outline=_shade(FAINT, rng))
    labels: list[object] = [None] * 9
    for cell, angle in zip(CORNERS[c["figure"]], c["angles"], strict=True):
        labels[cell] = "?" if angle is None else angle
    _draw_words(pen, labels, rng, size=13)
