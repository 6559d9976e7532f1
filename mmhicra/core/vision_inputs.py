"""What a model family makes of a prompt's images and of its positions: the package carries it, the family reads it.

Shapes: P prompt length, N images, I merged image tokens, H hidden size, K rows of positions, as many as the family has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from mmhicra.core.records import ImageSize


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What the vision tower made of some images, in order.

    Attributes:
        merged: (I, H), one vector per image token.
        deepstack: per deep-stack layer (I, H), added to the first decoder layers' outputs; empty without deep-stack.
    """

    merged: Tensor
    deepstack: tuple[Tensor, ...] = ()

    def to(self, device: torch.device) -> ImageFeatures:
        """The same on `device`."""
        return ImageFeatures(self.merged.to(device), tuple(layer.to(device) for layer in self.deepstack))

    def split(self, counts: Sequence[int]) -> list[ImageFeatures]:
        """In pieces of so many image tokens each."""
        layers = zip(*(layer.split(counts) for layer in self.deepstack), strict=True)
        deep = list(layers) if self.deepstack else [()] * len(counts)
        return [ImageFeatures(*pair) for pair in zip(self.merged.split(counts), deep, strict=True)]

    @classmethod
    def join(cls, parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """One after another."""
        deep = zip(*(part.deepstack for part in parts), strict=True)
        return cls(torch.cat([part.merged for part in parts]), tuple(torch.cat(layers) for layers in deep))


class Pixels(ABC):
    """Some images, in order, as a family's vision tower takes them."""

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """The same on `device`."""

    @classmethod
    @abstractmethod
    def join(cls, parts: Sequence[Any]) -> Self:
        """Several of this class, one after another."""

    @abstractmethod
    def content(self) -> bytes:
        """Everything that decides what the vision tower makes of them."""

    @abstractmethod
    def describe(self) -> str:
        """Their number and shape in the family's own terms, for a developer."""


Images = Pixels | ImageFeatures
"""What a batch shows the model: images still to be encoded, or what the vision tower made of them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class VisionInputs(ABC):
    """A prompt's images and positions, made by `Family.vision_inputs`. A text-only prompt has one without images.

    Attributes:
        positions: (K, P) int64, as the family's rotary embedding counts them.
        sizes: of each of the N images, in order.
        features: what a frozen vision tower made of the images, in place of the pixels.
    """

    positions: Tensor
    sizes: tuple[ImageSize, ...] = ()
    features: ImageFeatures | None = None

    @property
    @abstractmethod
    def pixels(self) -> Pixels | None:
        """The images for the vision tower; None without images, or where `features` stand for them."""

    @property
    @abstractmethod
    def patches(self) -> int:
        """Patches that the vision tower still has to encode; 0 where `pixels` is None."""

    @abstractmethod
    def without_pixels(self) -> Self:
        """The same for one who does not run the vision tower: neither pixels nor features."""

    @abstractmethod
    def same_images(self, other: VisionInputs) -> bool:
        """Whether both have images of the same shapes, as the vision tower sees them."""

    def with_features(self, features: ImageFeatures) -> Self:
        """The same with `features` in place of the pixels."""
        return replace(self.without_pixels(), features=features)

    @property
    def next_position(self) -> int:
        """Where every response starts, on all rows. Not P: an image may advance positions by less than its tokens."""
        return int(self.positions.max()) + 1

    def positions_with(self, responses: Sequence[int]) -> Tensor:
        """Positions of the prompt, and of responses of so many tokens that each begin behind it: (K, P + all of them).

        Text advances every row by one a token.
        """
        after = [self.next_position + torch.arange(length) for length in responses]
        return torch.cat([self.positions, torch.cat(after).expand(len(self.positions), -1)], dim=1)

    def describe(self) -> str:
        """The images as the user knows them, for a line; `no image` for a text-only prompt."""
        return ", ".join(map(str, self.sizes)) or "no image"
