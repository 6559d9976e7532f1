"""Boxes and points: read as models and data sets write them, and compared as ten-line references compare them."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmhicra.rewards.boxes import LARGEST, hits, iou, iou_of_sets, match_boxes, read_boxes, read_point

ONE, TWO = (10.0, 20.0, 30.0, 40.0), (1.0, 2.0, 3.0, 4.0)
FENCED = """Here they are:
```json
[
\t{"bbox_2d": [10, 20, 30, 40], "label": "cat", "score": 0.9},
\t{"bbox_2d": [1, 2, 3, 4], "label": "a dog, small"}
]
```"""
NATIVE = (
    "<|object_ref_start|>the cat<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>"
    "<|object_ref_start|>a dog<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>"
)
BOXES = {
    "a list": ("[10, 20, 30, 40]", (ONE,)),
    "decimals": ("[1.0, 2e0, 3, 4.]", (TWO,)),
    "bbox_2d": ('{"bbox_2d": [10, 20, 30, 40]}', (ONE,)),
    "bbox": ('{"label": "cat", "bbox": [10, 20, 30, 40]}', (ONE,)),
    "python": ("{'bbox_2d': [10, 20, 30, 40]}", (ONE,)),
    "fenced": (FENCED, (ONE, TWO)),
    "native": (NATIVE, (ONE, TWO)),
    "a list of lists": ("[[10, 20, 30, 40], [1, 2, 3, 4]]", (ONE, TWO)),
    "JSON lines": ('{"bbox_2d": [10, 20, 30, 40]}\n{"bbox_2d": [1, 2, 3, 4]}', (ONE, TWO)),
    "lists beside each other": ("[10, 20, 30, 40], [1, 2, 3, 4]", (ONE, TWO)),
    "in a sentence": ("The cat [see below] is at [10, 20, 30, 40] (Figure 3).", (ONE,)),
    "the last of two": ("First [1, 2, 3, 4]. No, it is [10, 20, 30, 40].", (ONE,)),
    "thought": ("<think>[1, 2, 3, 4]</think>[10, 20, 30, 40]", (ONE,)),
    "only thought": ("<think>[1, 2, 3, 4]</think>I do not know.", None),
    "thinking cut short": ("<think>[1, 2, 3, 4]", None),
    "in tags": ('[1, 2, 3, 4] <answer>{"bbox_2d": [10, 20, 30, 40]}</answer> [1, 2, 3, 4]', (ONE,)),
    "in a box": (r"[1, 2, 3, 4], so \boxed{[10, 20, 30, 40]}", (ONE,)),
    "with another list": ('{"size": [7, 8], "bbox_2d": [10, 20, 30, 40], "colour": [1, 2, 3, 4]}', (ONE,)),
    "corners in another order": ("[30, 20, 10, 40] [1, 4, 3, 2]", (ONE, TWO)),
    "no area": ("[5, 5, 5, 9]", ((5.0, 5.0, 5.0, 9.0),)),
    "negative": ("[-10, -20, 0, 0]", ((-10.0, -20.0, 0.0, 0.0),)),
    "none there": ("[]", ()),
    "none there, fenced": ("```json\n[]\n```", ()),
    "three numbers": ("[10, 20, 30, 40] no, [1, 2, 3]", None),
    "a set with a broken one": ("[[10, 20, 30, 40], [1, 2, 3]]", None),
    "NaN": ("[10, 20, 30, 40]. Or [NaN, 2, 3, 4]", None),
    "infinite": ("[1, 2, 3, Infinity]", None),
    "overflow": ("[1, 2, 3, 1e999]", None),
    "huge": (f"[1, 2, 3, {10 * LARGEST:g}]", None),
    "digits with underscores": ("[1_0, 20, 30, 40]", None),
    "a template": ("[x1, y1, x2, y2]", None),
    "cut short": ('[{"bbox_2d": [10, 20, 30', None),
    "nothing": ("no box here", None),
    "empty": ("", None),
}


@pytest.mark.parametrize("name", BOXES)
def test_boxes_are_read_as_people_write_them(name):
    text, boxes = BOXES[name]
    assert read_boxes(text) == boxes


POINTS = [
    ('{"point_2d": [5, 6], "label": "button"}', (5.0, 6.0)),
    ("(5, 6)", (5.0, 6.0)),
    ("Click at [5, 6].", (5.0, 6.0)),
    ("<answer>(5, 6)</answer>", (5.0, 6.0)),
    ("[1, 1] or better [5, 6]", (5.0, 6.0)),
    ("[0, 2, 10, 10]", (5.0, 6.0)),  # the centre of a box
    ("<|box_start|>(0,2),(10,10)<|box_end|>", (5.0, 6.0)),
    ("[5, 6], [7, 8]", None),  # several
    ("(5, nan)", None),
    ("[5, 6, 7]", None),
    ("[]", None),
    ("click (here)", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "point"), POINTS)
def test_points_are_read_as_people_write_them(text, point):
    assert read_point(text) == point


numbers = st.one_of(st.integers(-50, 50), st.floats(-50, 50, allow_nan=False, width=32))
boxes = st.tuples(numbers, numbers, numbers, numbers).map(
    lambda n: (float(min(n[0], n[2])), float(min(n[1], n[3])), float(max(n[0], n[2])), float(max(n[1], n[3])))
)


@given(st.lists(boxes, min_size=1, max_size=4))
def test_what_is_written_as_json_is_read_again(written):
    dicts = [{"bbox_2d": list(box), "label": "a"} for box in written]
    for text in (json.dumps(written), json.dumps(dicts), json.dumps(dicts, indent=2), f"<answer>{dicts}</answer>"):
        assert read_boxes(text) == tuple(written)


def pixels_shared(one, other):
    """IoU of boxes with whole corners, by counting the unit squares in each."""
    squares = [
        {(x, y) for x in range(int(box[0]), int(box[2])) for y in range(int(box[1]), int(box[3]))}
        for box in (one, other)
    ]
    whole = len(squares[0] | squares[1])
    return len(squares[0] & squares[1]) / whole if whole else 0.0


whole_boxes = st.tuples(*[st.integers(0, 12)] * 4).map(
    lambda n: (float(min(n[0], n[2])), float(min(n[1], n[3])), float(max(n[0], n[2])), float(max(n[1], n[3])))
)


@given(whole_boxes, whole_boxes)
def test_iou_counts_what_two_boxes_share(one, other):
    assert iou(one, other) == pytest.approx(pixels_shared(one, other))
    assert iou(one, other) == iou(other, one)


@given(boxes, boxes, st.floats(0.5, 40), st.floats(0.5, 40))
def test_iou_does_not_depend_on_the_unit_of_either_axis(one, other, wide, high):
    def scaled(box):
        return (box[0] * wide, box[1] * high, box[2] * wide, box[3] * high)

    assert 0 <= iou(one, other) <= 1
    assert iou(scaled(one), scaled(other)) == pytest.approx(iou(one, other), rel=1e-6, abs=1e-9)


@given(st.lists(whole_boxes, max_size=4), st.lists(whole_boxes, max_size=4))
def test_sets_are_matched_as_the_best_of_all_pairings(found, golds):
    few, many = sorted((found, golds), key=len)
    pairings = itertools.permutations(many, len(few))
    best = max(sum(iou(a, b) for a, b in zip(few, pairing, strict=True)) for pairing in pairings)
    wanted = best / len(many) if many else 1.0
    assert iou_of_sets(found, golds) == pytest.approx(wanted)
    pairs = match_boxes(found, golds)
    assert len({row for row, _, _ in pairs}) == len({column for _, column, _ in pairs}) == len(pairs)
    assert all(overlap == iou(found[row], golds[column]) > 0 for row, column, overlap in pairs)


def test_one_box_too_many_costs_as_much_as_one_too_few():
    assert iou_of_sets([ONE], [ONE]) == 1.0
    assert iou_of_sets([ONE, TWO], [ONE]) == iou_of_sets([ONE], [ONE, TWO]) == 0.5
    assert iou_of_sets([TWO, ONE], [ONE, TWO]) == 1.0
    assert iou_of_sets([], [ONE]) == iou_of_sets([ONE], []) == 0.0


def test_a_point_on_the_edge_of_a_box_is_in_it():
    assert hits((10, 20), [TWO, ONE])
    assert hits((30, 40), [ONE])
    assert not hits((30.5, 40), [ONE])
    assert not hits((1, 2), [])


HOSTILE = [
    "[" * 60_000,
    "[1,2," * 12_000,
    "[1,2,3,4]" * 6_000,
    "[1,2,3,4]" + " " * 49_000 + "x[1,2,3,4]",
    "[1,2,3,4]" + "1" * 45_000 + "[1,2,3,4]",
    "[1,2,3,4]" + '"a" ' * 12_000 + "'[1,2,3,4]",
    "'a':" * 12_000 + "[",
    "(1,2)," * 9_000,
]


@pytest.mark.timeout(60)  # 0.2 s each is usual; with one quadratic pattern it was 140 s
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12])
def test_no_text_takes_long(text):
    assert read_boxes(text) is None or len(read_boxes(text) or ()) > 0
    read_point(text)
