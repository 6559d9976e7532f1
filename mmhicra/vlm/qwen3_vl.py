"""Qwen3-VL: vision features of several depths also enter the first decoder layers (deep-stack)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmhicra.vlm.family import THINKING
from mmhicra.vlm.qwen2_vl import Qwen2VL


@dataclass(frozen=True)
class Qwen3VL(Qwen2VL):
    """Qwen2-VL's image processing and positions, with deep-stack features."""

    def deepstack_of(self, output: Any) -> tuple[Tensor, ...]:
        """Per deep-stack layer (I, H) of what the vision tower returns."""
        # transformers before 5.18 leaves deep-stack features in one piece; later they come one per image.
        return tuple(layer if isinstance(layer, Tensor) else torch.cat(layer) for layer in output.deepstack_features)

    def merger(self, model: nn.Module) -> tuple[nn.Module, ...]:
        """What turns patches into image tokens, the mergers of deep-stack features included."""
        tower = self.vision_tower(model)
        return (tower.merger, *tower.deepstack_merger_list)


QWEN3_VL = Qwen3VL("qwen3_vl", "qwen3_vl", "Qwen3VLForConditionalGeneration", normed_heads=True, thinking=THINKING)
