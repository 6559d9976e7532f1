"""Qwen2-VL: images of any size as grids of patches, and positions with three rows (M-RoPE).

Shapes: P prompt length, N images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from mmhicra.core.records import Prompt
from mmhicra.core.vision_inputs import ImageFeatures, ImageSize, Pixels
from mmhicra.vlm.family import Family, StockView, unwrap
from mmhicra.vlm.patch_grid import PatchGridInputs, PatchGridPixels, mrope_positions
from mmhicra.vlm.vision_work import PatchGridWork


@dataclass(frozen=True)
class Qwen2VL(Family):
    """Qwen2-VL and its descendants, which process images alike and count positions alike."""

    position_rows: int = 3

    def image_factor(self, config: PreTrainedConfig) -> int:
        """See `Family.image_factor`."""
        vision: Any = config.vision_config
        return vision.patch_size * vision.spatial_merge_size

    def patches_per_token(self, config: PreTrainedConfig) -> int:
        """See `Family.patches_per_token`."""
        vision: Any = config.vision_config
        return vision.spatial_merge_size**2

    def resized(self, config: PreTrainedConfig, size: tuple[int, int], limits: tuple[int, int]) -> tuple[int, int]:
        """See `Family.resized`."""
        width, height = size
        new_height, new_width = smart_resize(height, width, self.image_factor(config), *limits)
        return new_width, new_height

    def vision_inputs(
        self, encoded: Mapping[str, Any], image_positions: Tensor, sizes: Sequence[ImageSize], processor: Any
    ) -> PatchGridInputs:
        """See `Family.vision_inputs`."""
        grid = encoded.get("image_grid_thw")
        return PatchGridInputs(
            positions=mrope_positions(image_positions, grid, processor.image_processor.merge_size),
            sizes=tuple(sizes),
            pixel_values=encoded.get("pixel_values"),
            grid_thw=grid,
        )

    def encode_images(self, model: nn.Module, images: Pixels) -> ImageFeatures:
        """See `Family.encode_images`."""
        assert isinstance(images, PatchGridPixels)
        output = unwrap(model).model.get_image_features(images.values, images.grid_thw, return_dict=True)
        return ImageFeatures(torch.cat(output.pooler_output), self.deepstack_of(output))

    def deepstack_of(self, output: Any) -> tuple[Tensor, ...]:
        """Per deep-stack layer (I, H) of what the vision tower returns; none here."""
        return ()

    def dummy_vision_forward(self, model: nn.Module) -> Tensor:
        """See `Family.dummy_vision_forward`."""
        options, like = self.vision_tower(model).config, next(self.vision_tower(model).parameters())
        merge = options.spatial_merge_size
        values = options.in_channels * options.temporal_patch_size * options.patch_size**2
        pixels = torch.zeros(merge**2, values, dtype=like.dtype, device=like.device)  # `like` itself may be sharded
        grid = torch.tensor([[1, merge, merge]], device=like.device)
        features = self.encode_images(model, PatchGridPixels(pixels, grid))
        return torch.stack([part.sum() for part in (features.merged, *features.deepstack)]).sum()

    def merger(self, model: nn.Module) -> tuple[nn.Module, ...]:
        """See `Family.merger`."""
        return (self.vision_tower(model).merger,)

    def vision_work(self, model: nn.Module) -> PatchGridWork:
        """See `Family.vision_work`."""
        return PatchGridWork.of(self.vision_tower(model), self.merger(model))

    def stock_view(self, prompt: Prompt, processor: Any, empty: Any) -> StockView:
        """See `Family.stock_view`: positions are the model's own `get_rope_index`."""
        token, merge = processor.image_token_id, processor.image_processor.merge_size
        grid = None
        counts: list[int] = []
        if prompt.images:
            grid = processor.image_processor(images=list(prompt.images), return_tensors="pt")["image_grid_thw"]
            counts = (grid.prod(-1) // merge**2).tolist()
        remaining = iter(counts)
        ids = torch.tensor([i for id in prompt.ids for i in [id] * (next(remaining, 1) if id == token else 1)])
        types = (ids == token).int()
        positions, _ = empty.model.get_rope_index(ids[None], types[None], image_grid_thw=grid)
        return StockView(ids, PatchGridInputs(positions=positions[:, 0], grid_thw=grid))

    def vllm_options(self, min_pixels: int, max_pixels: int) -> dict[str, Any]:
        """See `Family.vllm_options`."""
        return {
            "limit_mm_per_prompt": {"video": 0},
            "mm_processor_kwargs": {"size": {"shortest_edge": min_pixels, "longest_edge": max_pixels}},
        }

    def vllm_difference(self, prompt: Prompt, rendered: Mapping[str, Any]) -> str | None:
        """See `Family.vllm_difference`. An image on its side has as many tokens as upright, so ids alone do not tell.

        Of images that are in its cache vLLM does not say the grid.
        """
        assert isinstance(prompt.vision, PatchGridInputs)
        items = [item for item in rendered.get("mm_kwargs", {}).get("image", ()) if item]
        seen = [item["image_grid_thw"].data.tolist() for item in items]
        own = [] if prompt.vision.grid_thw is None else prompt.vision.grid_thw.tolist()
        if len(seen) != len(own) or seen == own:
            return None
        return f"the trainer sees {own} patches, the engine {seen}"


QWEN2_VL = Qwen2VL("qwen2_vl", "qwen2_vl", "Qwen2VLForConditionalGeneration")
