"""The terms `iou` and `hit`: boxes in the frames that models and data sets use."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmhicra.config import TermConfig
from mmhicra.core.errors import ConfigError, DataError
from mmhicra.core.records import Completion, Problem
from mmhicra.core.vision_inputs import ImageSize
from mmhicra.rewards.grounding import GroundingTerm
from mmhicra.rewards.reward import Rewarder

SIZE = ImageSize(640, 480, 308, 224, 88)
IN_PIXELS = (64.0, 48.0, 320.0, 240.0)
FRAMES = {
    "pixels": IN_PIXELS,
    "resized": (30.8, 22.4, 154.0, 112.0),
    "thousandths": (100.0, 100.0, 500.0, 500.0),
}
"""One box, a tenth to a half of either side, in each frame."""


def problem(gold):
    return Problem("p", "<image>Where?", (), gold, "text")


def value(name, gold, text, coordinates="pixels", gold_coordinates="pixels", sizes=(SIZE,)):
    term = GroundingTerm(name, 1.0, coordinates, gold_coordinates, lambda problem: sizes)
    return term.value(problem(gold), Completion([1], [0.0], "stop", text))


@pytest.mark.parametrize("gold_frame", FRAMES)
@pytest.mark.parametrize("frame", FRAMES)
def test_a_box_is_the_same_in_every_frame(frame, gold_frame):
    box, gold = (json.dumps(list(FRAMES[each])) for each in (frame, gold_frame))
    assert value("iou", gold, box, frame, gold_frame) == pytest.approx(1.0)
    left, top, right, bottom = FRAMES[frame]
    inside = f"({left + 0.01}, {bottom - 0.01})"
    outside = f"({right * 1.01}, {top * 1.01})"
    assert value("hit", gold, inside, frame, gold_frame) == 1.0
    assert value("hit", gold, outside, frame, gold_frame) == 0.0
    if frame != gold_frame:
        assert value("iou", gold, box, gold_frame, gold_frame) < 0.9, "in a frame that it is not in"


@given(st.lists(st.integers(0, 400), min_size=4, max_size=4), st.sampled_from(list(FRAMES)))
def test_iou_does_not_depend_on_the_frame_of_both(box, frame):
    text, gold = json.dumps(box), json.dumps([64, 48, 320, 240])
    assert value("iou", gold, text, frame, frame, sizes=()) == value("iou", gold, text)


GOLDS = [
    ("[1, 2, 3, 4]", "iou", None),
    ('<answer>[{"bbox_2d": [1, 2, 3, 4]}]</answer>', "hit", None),
    ("[]", "iou", None),
    ("[]", "hit", "has no box that a point could be in"),
    ("a cat", "iou", "'a cat' is no box or list of boxes"),
    ("[1, 2, 3]", "iou", "is no box"),
    ("[1, 2, 1, 4]", "iou", "has a box without area"),
    ("[1, NaN, 3, 4]", "iou", "is no box"),
]


@pytest.mark.parametrize(("gold", "name", "says"), GOLDS)
def test_a_gold_that_no_response_could_meet_is_refused_at_the_door(settings, gold, name, says):
    rewarder = Rewarder(settings(terms=(TermConfig(name=name),)), 10)
    fault = rewarder.gold_fault(problem(gold))
    assert (fault is None) if says is None else (says in fault and fault.startswith(f"reward.terms: {name}:"))


def test_frames_are_never_guessed(settings):
    term = TermConfig(name="iou", coordinates="resized")
    rewarder = Rewarder(settings(terms=(term,)), 10)
    with pytest.raises(ConfigError, match="no processor here that tells image sizes"):
        rewarder.score_one(problem("[1, 2, 3, 4]"), "[1, 2, 3, 4]")
    for sizes, says in [((), "with no image"), ((SIZE, SIZE._replace(width=1)), "with 2 sizes of images")]:
        rewarder.measure_by(lambda problem, sizes=sizes: sizes)
        assert says in rewarder.gold_fault(problem("[1, 2, 3, 4]"))
        with pytest.raises(DataError, match=says):
            rewarder.score_one(problem("[1, 2, 3, 4]"), "[1, 2, 3, 4]")
    rewarder.measure_by(lambda problem: (SIZE, SIZE))
    assert rewarder.gold_fault(problem("[1, 2, 3, 4]")) is None


def test_terms_are_named_weighted_and_part_of_what_evaluation_sees(settings):
    terms = (TermConfig(name="iou", weight=2.0), TermConfig(name="hit", weight=0.5))
    rewarder = Rewarder(settings(accuracy_weight=0.0, terms=terms), 10)
    record = rewarder.score_one(problem("[0, 0, 10, 10]"), "[0, 0, 10, 5]")
    assert (record.parts["iou"], record.parts["hit"], record.total) == (0.5, 1.0, 1.5)
    assert rewarder.score_one(problem("[0, 0, 10, 10]"), "no idea").total == 0.0
    with pytest.raises(ConfigError, match="two terms of the reward are named 'iou'"):
        Rewarder(settings(terms=(terms[0], terms[0])), 10)
