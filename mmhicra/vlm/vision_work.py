"""What it costs to encode images as grids of patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmhicra.core.vision_inputs import VisionInputs
from mmhicra.vlm.patch_grid import PatchGridInputs


@dataclass(frozen=True)
class PatchGridWork:
    """The forward pass of a vision tower and its mergers, in FLOP.

    Attributes:
        patch: the patch embedding, the linear layers and a share of the mergers, a patch.
        pair: attention of one layer, a patch and one that it sees.
        whole: layers in which a patch sees its whole frame.
        windowed: layers in which it sees its window only, as in Qwen2.5-VL (arXiv 2502.13923, section 2.1).
        window: side of a window, in patches.
    """

    patch: float
    pair: float
    whole: int
    windowed: int
    window: int

    @classmethod
    def of(cls, tower: Any, mergers: Sequence[nn.Module]) -> PatchGridWork:
        """Of a vision tower that is still whole (not sharded) and its mergers, which are inside it."""
        options: Any = tower.config
        merge = options.spatial_merge_size
        merging = sum(count_linear(merger) for merger in mergers)
        width = tower.blocks[0].norm1.weight.numel()
        whole = len(getattr(options, "fullatt_block_indexes", range(options.depth)))
        return cls(
            patch=2.0 * (tower.patch_embed.proj.weight.numel() + count_linear(tower) - merging + merging / merge**2),
            pair=4.0 * width,
            whole=whole,
            windowed=options.depth - whole,
            window=getattr(options, "window_size", 0) // options.patch_size // merge * merge,
        )

    def forward(self, vision: VisionInputs) -> float:
        """FLOP for the images that are still to be encoded."""
        if vision.pixels is None:
            return 0.0
        assert isinstance(vision, PatchGridInputs)
        assert vision.grid_thw is not None
        total = 0.0
        for frames, height, width in vision.grid_thw.tolist():
            pairs = self.whole * (height * width) ** 2
            if self.windowed:
                pairs += self.windowed * _squares(height, self.window) * _squares(width, self.window)
            total += frames * (height * width * self.patch + pairs * self.pair)
        return total


def count_linear(module: nn.Module) -> int:
    """Weights of all linear layers; of a 4-bit one as many as it stands for."""
    return sum(part.in_features * part.out_features for part in module.modules() if isinstance(part, nn.Linear))


def _squares(extent: int, window: int) -> int:
    """The squares, added up, of the pieces that windows cut an extent into; the last may be shorter."""
    return extent // window * window**2 + (extent % window) ** 2
