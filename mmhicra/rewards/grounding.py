"""Built-in terms for grounding: `iou` of the boxes that a response names with those of the gold, and `hit` of a point.

Response and gold may have their coordinates in different frames: pixels of the image as it is stored, pixels of the
image as the model sees it, or thousandths of its width and height. None of them is ever guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mmhicra.core.errors import ConfigError, DataError
from mmhicra.core.names import CoordinateFrame, TermName
from mmhicra.core.records import Completion, ImageSize, Problem
from mmhicra.rewards.boxes import Box, area, hits, iou_of_sets, read_boxes, read_point

Measure = Callable[[Problem], Sequence[ImageSize]]
"""The sizes of a problem's images, as they are stored and as the model sees them."""
Scale = tuple[float, float]
"""Factors on x and y."""
_MOST_SCALES = 4096
"""Problems whose scales are remembered."""


class TermSettings(Protocol):
    """One built-in term."""

    @property
    def name(self) -> TermName:
        """Which."""
        ...

    @property
    def weight(self) -> float:
        """Weight of its value, which lies between 0 and 1."""
        ...

    @property
    def coordinates(self) -> CoordinateFrame:
        """The frame of the response."""
        ...

    @property
    def gold_coordinates(self) -> CoordinateFrame:
        """The frame of the gold."""
        ...


@dataclass
class GroundingTerm:
    """A term with its frames.

    Attributes:
        measure: tells image sizes, which are needed where the two frames differ.
    """

    name: TermName
    weight: float
    coordinates: CoordinateFrame
    gold_coordinates: CoordinateFrame
    measure: Measure | None = None

    def __post_init__(self) -> None:
        self._scales: dict[str, Scale] = {}

    def value(self, problem: Problem, completion: Completion) -> float:
        """What a response earns, from 0 to 1; 0 if it names no box or point.

        Raises:
            DataError: the gold is no box, or the frames differ and the problem does not have one size of images.
            ConfigError: the frames differ, and nothing can tell image sizes.
        """
        golds = self.gold_boxes(problem)
        x, y = self._scale(problem)
        if self.name == "hit":
            point = read_point(completion.text)
            return float(point is not None and hits((point[0] * x, point[1] * y), golds))
        boxes = read_boxes(completion.text)
        if boxes is None:
            return 0.0
        return iou_of_sets([(left * x, top * y, right * x, bottom * y) for left, top, right, bottom in boxes], golds)

    def gold_boxes(self, problem: Problem) -> tuple[Box, ...]:
        """The boxes of the gold; raises DataError if it is none, or nothing could ever be right."""
        golds = read_boxes(problem.answer)
        fault = None
        if golds is None:
            fault = "is no box or list of boxes"
        elif any(area(box) <= 0 for box in golds):
            fault = "has a box without area"
        elif self.name == "hit" and not golds:
            fault = "has no box that a point could be in"
        if golds is None or fault:
            raise DataError(
                f"problem {problem.id}: reward.terms: {self.name}: the gold {problem.answer[:80]!r} {fault}"
            )
        return golds

    def fault(self, problem: Problem) -> str | None:
        """Why a problem cannot be used with this term; None if it can."""
        try:
            self.gold_boxes(problem)
            self._scale(problem)
        except DataError as error:
            return str(error).removeprefix(f"problem {problem.id}: ")
        return None

    def _scale(self, problem: Problem) -> Scale:
        """The factors from the response's frame to the gold's."""
        if self.coordinates == self.gold_coordinates:
            return 1.0, 1.0
        if problem.id not in self._scales:
            if len(self._scales) >= _MOST_SCALES:
                self._scales.clear()
            self._scales[problem.id] = self._measured_scale(problem)
        return self._scales[problem.id]

    def _measured_scale(self, problem: Problem) -> Scale:
        if self.measure is None:
            raise ConfigError(
                f"reward.terms: {self.name}: coordinates ({self.coordinates}) and gold_coordinates "
                f"({self.gold_coordinates}) differ, and there is no processor here that tells image sizes"
            )
        sizes = {size[:4] for size in self.measure(problem)}
        if len(sizes) != 1:
            found = f"{len(sizes)} sizes of images" if sizes else "no image"
            raise DataError(
                f"problem {problem.id}: reward.terms: {self.name}: coordinates ({self.coordinates}) cannot be turned "
                f"into those of the gold ({self.gold_coordinates}) with {found}"
            )
        (size,) = sizes
        (wide, high), (gold_wide, gold_high) = (
            _frame(frame, size) for frame in (self.coordinates, self.gold_coordinates)
        )
        return gold_wide / wide, gold_high / high


def _frame(frame: CoordinateFrame, size: tuple[int, int, int, int]) -> tuple[int, int]:
    """Width and height of an image in the units of a frame."""
    return {"pixels": size[:2], "resized": size[2:], "thousandths": (1000, 1000)}[frame]


def load_grounding(settings: Sequence[TermSettings]) -> list[GroundingTerm]:
    """The built-in terms of a configuration."""
    return [GroundingTerm(each.name, each.weight, each.coordinates, each.gold_coordinates) for each in settings]
