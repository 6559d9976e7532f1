"""Images as grids of patches, and the positions that go with them: what the families from Qwen2-VL on have in common.

Shapes: P prompt length, N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from mmhicra.core.vision_inputs import Pixels, VisionInputs


@dataclass(frozen=True, eq=False)
class PatchGridPixels(Pixels):
    """Some images as the processor left them, in order: (patches, patch values), and (N, 3) in patches."""

    values: Tensor
    grid_thw: Tensor

    def to(self, device: torch.device) -> PatchGridPixels:
        """The same on `device`."""
        return PatchGridPixels(self.values.to(device), self.grid_thw.to(device))

    @classmethod
    def join(cls, parts: Sequence[PatchGridPixels]) -> PatchGridPixels:
        """One after another."""
        return PatchGridPixels(torch.cat([part.values for part in parts]), torch.cat([part.grid_thw for part in parts]))

    def content(self) -> bytes:
        """The bytes of the patches and of the grid: the same patches in another shape are another image."""
        return b"".join(tensor.numpy().tobytes() for tensor in (self.values, self.grid_thw))

    def describe(self) -> str:
        """The grid."""
        return f"image_grid_thw {self.grid_thw.tolist()}"


@dataclass(frozen=True, eq=False, kw_only=True)
class PatchGridInputs(VisionInputs):
    """Images as grids of patches; `positions` are (3, P): time, height and width.

    Attributes:
        pixel_values: (patches, patch values) float32, None for a text-only prompt and where features stand for it.
        grid_thw: (N, 3) int64 in patches, None for a text-only prompt.
    """

    pixel_values: Tensor | None = None
    grid_thw: Tensor | None = None

    @property
    def pixels(self) -> PatchGridPixels | None:
        """See `VisionInputs.pixels`."""
        if self.pixel_values is None or self.grid_thw is None:
            return None
        return PatchGridPixels(self.pixel_values, self.grid_thw)

    @property
    def patches(self) -> int:
        """See `VisionInputs.patches`."""
        return 0 if self.pixel_values is None else len(self.pixel_values)

    def without_pixels(self) -> Self:
        """See `VisionInputs.without_pixels`; the grid stays."""
        return replace(self, pixel_values=None, features=None)

    def same_images(self, other: VisionInputs) -> bool:
        """See `VisionInputs.same_images`."""
        ours, theirs = self.grid_thw, other.grid_thw if isinstance(other, PatchGridInputs) else None
        return ours is theirs if ours is None or theirs is None else ours.equal(theirs)


def mrope_positions(image_positions: Tensor, grid_thw: Tensor | None, merge_size: int) -> Tensor:
    """M-RoPE positions (time, height, width) of a prompt of text and images.

    Text advances all three rows by one a token. The tokens of an image start where the text before them ended and count
    its rows and columns; the text behind goes on after the larger of the two (Qwen2-VL, arXiv 2409.12191, section 2.1).
    Two tokens of text, an image of 2 x 3 image tokens, one token of text:

        time    0 1 2 2 2 2 2 2 5
        height  0 1 2 2 2 3 3 3 5
        width   0 1 2 3 4 2 3 4 5

    Args:
        image_positions: (P,) bool, True at image tokens.
        grid_thw: (N, 3) in patches, or None.
        merge_size: patches an image token merges in each direction.

    Returns:
        (3, P) int64.
    """
    length = image_positions.numel()
    grids = [] if grid_thw is None else grid_thw.tolist()
    slots = image_positions.nonzero()[:, 0].tolist()
    parts: list[Tensor] = []
    token = start = used = 0
    for t, h, w in grids:
        rows, columns = h // merge_size, w // merge_size
        first = slots[used]
        parts.append(torch.arange(first - token).expand(3, -1) + start)
        start += first - token
        parts.append(torch.cartesian_prod(*map(torch.arange, (t, rows, columns))).reshape(-1, 3).T + start)
        start += max(rows, columns)
        token, used = first + t * rows * columns, used + t * rows * columns
    parts.append(torch.arange(length - token).expand(3, -1) + start)
    return torch.cat(parts, dim=1).to(image_positions.device)
