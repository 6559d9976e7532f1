r"""Boxes and points in images: read out of a response or a gold, and compared.

A box is `(left, top, right, bottom)`, a point `(x, y)`, in whatever unit the text has them. What models and data sets
write is read alike:

* JSON or Python, alone, in a fence or in prose: `[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]`, `[10, 20, 30, 40]`.
* Tokens that some models have for boxes: `<|box_start|>(10,20),(30,40)<|box_end|>`.

Thinking is dropped, and an `<answer>` block or a `\boxed{}` goes before the text around it, as in `rewards.answers`.
Boxes with nothing but punctuation, quoted text and numbers between them are one answer; the last answer counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmhicra.rewards.answers import final_text, last_answer_block, last_box

Box = tuple[float, float, float, float]
"""Left, top, right, bottom; right and bottom are never smaller than left and top."""
Point = tuple[float, float]

LARGEST = 1e6
"""The largest coordinate, of either sign, that is one: the longest side of an image that is decoded is far below it."""
_LONGEST_TEXT = 50_000
"""Characters of a response that are read, from its end."""
_BOX_KEYS = frozenset({"bbox_2d", "bbox", "box_2d", "box", "bboxes", "boxes", "bounding_box", "coordinates"})
_POINT_KEYS = frozenset({"point_2d", "point", "points", "coordinate", "coordinates", "click", "center"})
_LIST = r"""(?:["'](?P<key>[\w ]{1,40})["']\s{0,9}:\s{0,9})?(?:\[(?P<list>[^\[\]{}"'()]{0,400})\])"""
_PAIR = r"\(\s{0,4}[^\s(),]{1,30}\s{0,4},\s{0,4}[^\s(),]{1,30}\s{0,4}\)"
_CORNERS = re.compile(rf"<\|box_start\|>\s*(?P<corners>{_PAIR}\s*,?\s*{_PAIR})\s*<\|box_end\|>|{_LIST}")
_PLACES = re.compile(rf"(?P<corners>{_PAIR}(?:\s*,?\s*{_PAIR})?)|{_LIST}")
_GLUE = re.compile(
    r"""(?:[\s,;:\[\]{}]++|"[^"\n]{0,400}"|'[^'\n]{0,400}'|[-+]?\d[\d.eE+-]{0,30}+|true|false|null"""
    r"|<\|object_ref_start\|>[^<\n]{0,400}<\|object_ref_end\|>|<\|[a-z_]{1,20}\|>)*+"
)
"""What may stand between two boxes of one answer."""


@dataclass(frozen=True)
class _Numbers:
    """A list in a text; `values` is None if what stands in it is not all numbers."""

    start: int
    end: int
    values: tuple[float, ...] | None


def read_boxes(text: str) -> tuple[Box, ...] | None:
    """The boxes of the last answer in a text, in its order; None if there is no answer that is boxes.

    An empty list, `[]`, is an answer without boxes. Two opposite corners in any order are the box between them. A box
    without area is one, and overlaps with nothing. An answer with a number that is not finite or beyond `LARGEST`, or
    with a list that has not four numbers, is none, and no earlier one counts in its place.
    """
    answer = _last_answer(text, _CORNERS, _BOX_KEYS)
    boxes: list[Box] = []
    for found in answer:
        if found.values == ():
            continue
        if found.values is None or len(found.values) != 4:
            return None
        x, y, other_x, other_y = found.values
        boxes.append((min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y)))
    return tuple(boxes) if answer else None


def read_point(text: str) -> Point | None:
    """The point of the last answer in a text; a box counts as its centre. None if there is none, or are several."""
    answer = [found for found in _last_answer(text, _PLACES, _POINT_KEYS | _BOX_KEYS) if found.values != ()]
    if len(answer) != 1 or answer[0].values is None:
        return None
    values = answer[0].values
    if len(values) == 4:
        return (values[0] + values[2]) / 2, (values[1] + values[3]) / 2
    return (values[0], values[1]) if len(values) == 2 else None


def area(box: Box) -> float:
    """Width times height."""
    return (box[2] - box[0]) * (box[3] - box[1])


def iou(one: Box, other: Box) -> float:
    """Intersection over union, from 0 to 1; 0 if either has no area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    whole = area(one) + area(other) - shared
    return min(1.0, shared / whole) if whole > 0 else 0.0


def match_boxes(found: Sequence[Box], golds: Sequence[Box]) -> list[tuple[int, int, float]]:
    """The pairing of boxes with golds whose IoU add up to most: (place of the box, of its gold, IoU) each above 0."""
    if len(found) == 1 and len(golds) == 1:
        pairs = [(0, 0, iou(found[0], golds[0]))]
    elif found and golds:
        import numpy as np
        from scipy.optimize import linear_sum_assignment

        table = np.array([[iou(box, gold) for gold in golds] for box in found])
        rows, columns = linear_sum_assignment(table, maximize=True)
        pairs = [(int(row), int(column), float(table[row, column])) for row, column in zip(rows, columns, strict=True)]
    else:
        pairs = []
    return [pair for pair in pairs if pair[2] > 0]


def iou_of_sets(found: Sequence[Box], golds: Sequence[Box]) -> float:
    """The IoU of matched boxes over the larger number of boxes: a missing box costs as much as one too many.

    For one box and one gold this is their IoU; 1 if both sets are empty.
    """
    if not found and not golds:
        return 1.0
    return sum(overlap for _, _, overlap in match_boxes(found, golds)) / max(len(found), len(golds))


def hits(point: Point, boxes: Sequence[Box]) -> bool:
    """Whether a point lies in one of the boxes, their edges included."""
    x, y = point
    return any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in boxes)


def _last_answer(text: str, pattern: re.Pattern[str], keys: frozenset[str]) -> list[_Numbers]:
    """The last run of lists that belong to one answer."""
    part = _answering_part(text)
    answer: list[_Numbers] = []
    for found in _numbers_in(part, pattern, keys):
        if answer and not _GLUE.fullmatch(part, answer[-1].end, found.start):
            answer = []
        answer.append(found)
    return answer


def _numbers_in(part: str, pattern: re.Pattern[str], keys: frozenset[str]) -> Iterator[_Numbers]:
    for match in pattern.finditer(part):
        key, listed = match["key"], match["list"]
        if key is not None and key.lower() not in keys:
            continue
        items = re.findall(r"[^\s,()]+", match["corners"] if listed is None else listed)
        if any(_is_word(item) for item in items):
            continue  # brackets of prose
        values = [number for item in items if (number := _number(item)) is not None]
        yield _Numbers(match.start(), match.end(), tuple(values) if len(values) == len(items) else None)


def _is_word(item: str) -> bool:
    return any(character.isalpha() for character in item) and _parsed(item) is None


def _parsed(item: str) -> float | None:
    try:
        return float(item)
    except ValueError:
        return None


def _number(item: str) -> float | None:
    """A coordinate; None if it is no finite number within `LARGEST`."""
    number = _parsed(item)
    return number if number is not None and abs(number) <= LARGEST and "_" not in item else None  # NaN is not


def _answering_part(text: str) -> str:
    """Where a response answers: its answer block, else its last box, else all of it after any thinking."""
    final = final_text(text[-_LONGEST_TEXT:])
    if final is None:
        return ""
    block = last_answer_block(final)
    if block is not None:
        return block
    boxed = last_box(final)
    return final if boxed is None else boxed
