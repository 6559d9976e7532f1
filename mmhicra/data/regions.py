"""Golds that are places in an image: a box, several boxes, or a point, kept as the row has them.

A box is four numbers and a point two, in whatever unit and order the row has them: `[10, 20, 30, 40]`,
`{"bbox_2d": [...], "label": ...}`, `{"point_2d": [...]}`, lists of these, or any of it written as text. Nothing is
rescaled here, nor brought into another order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from mmhicra.core.errors import DataError
from mmhicra.data.encoded import read_list
from mmhicra.data.text import shorten
from mmhicra.rewards.boxes import read_boxes, read_point

RegionKind = Literal["box", "boxes", "point"]
REGIONS: tuple[RegionKind, ...] = get_args(RegionKind)
_BOX_KEYS = ("bbox_2d", "bbox", "box_2d", "box", "bboxes", "boxes", "bounding_box")
_POINT_KEYS = ("point_2d", "point", "points")
_OF_NUMBERS: dict[int, RegionKind] = {4: "box", 2: "point"}
_DEEPEST = 4
"""Lists and objects around the numbers of a box."""


def read_region(cell: Any, kind: RegionKind) -> str:
    """The gold as text: a text as it came, anything else as JSON.

    Raises:
        DataError: it is not what `kind` says.
    """
    text = cell.strip() if isinstance(cell, str) else as_json(cell)
    boxes = read_boxes(text)
    fits = {"box": boxes and len(boxes) == 1, "boxes": boxes is not None, "point": read_point(text) is not None}
    if not fits[kind]:
        form = {"box": "[x1, y1, x2, y2]", "boxes": "a list of [x1, y1, x2, y2]", "point": "[x, y]"}[kind]
        raise DataError(f"answer unusable: {shorten(text, 60)} is no {kind}; write {form}, or an object with one")
    return text


def region_in(cell: Any, depth: int = 0) -> RegionKind | None:
    """What a list, an object or a text of one is; None for anything else."""
    value = read_list(cell) if isinstance(cell, str) else cell
    if depth > _DEEPEST or not isinstance(value, list | tuple | Mapping) or not value:
        return None
    if isinstance(value, Mapping):
        inside = next((value[key] for key in (*_BOX_KEYS, *_POINT_KEYS) if value.get(key) is not None), None)
        return region_in(inside, depth + 1) if isinstance(inside, list | tuple) else None
    if all(map(_is_coordinate, value)):
        return _OF_NUMBERS.get(len(value))
    kinds: set[RegionKind | None] = {region_in(one, depth + 1) for one in value}
    if len(value) == 1:
        return kinds.pop()
    return "boxes" if kinds <= {"box", "boxes"} else None


def as_json(cell: Any) -> str:
    """A list or an object as JSON.

    Raises:
        DataError: it cannot be written.
    """
    try:
        return json.dumps(cell, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"answer unusable: it cannot be written as JSON ({error})") from None


def _is_coordinate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
