"""A model family of your own: Qwen2.5-VL that is never to write bounding boxes."""

from dataclasses import dataclass

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from mmhicra.vlm.qwen2_vl import Qwen2VL

BOXES = ("<|box_start|>", "<|box_end|>")


@dataclass(frozen=True)
class WithoutBoxes(Qwen2VL):
    """What Qwen2-VL and Qwen2.5-VL have in common, with two more tokens that are never sampled."""

    def banned_token_ids(self, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> list[int]:
        """The ids of multimodal tokens, and of boxes."""
        boxes = [tokenizer.get_vocab()[token] for token in BOXES]
        return sorted({*super().banned_token_ids(tokenizer, config), *boxes})


FAMILY = WithoutBoxes("qwen2_5_vl_without_boxes", "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration")
