"""Tiny random models of each family's true architecture: complete Hugging Face folders, made in a second.

They know nothing; tests use them where only the architecture matters. The taught one is `vlm.tiny`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from mmhicra.vlm.family import FAMILIES

END, TURN_END = "<|endoftext|>", "<|im_end|>"
SPECIAL_TOKENS = (
    *(END, "<|im_start|>", TURN_END, "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
"""Those of the Qwen-VL tokenizers."""
THINKING_TOKENS = ("<think>", "</think>")
"""Added tokens, but text: Qwen3-VL and MiMo-VL generate them."""
MERGES = (
    *("Ġ t", "h e", "i n", "Ġt he", "a n", "o r", "e r", "Ġ a", "o u", "Ġ s", "Ġ c", "e s", "i s", "r e", "o n"),
    *("Ġ o", "a t", "e n", "in g", "Ġ m", "Ġ b", "Ġ w", "i t", "a l", "l e", "Ġ f", "Ġ p", "an d", "Ġ and"),
)
HIDDEN = 128
"""Four heads of 32, the smallest that vLLM takes on CPU."""
MIN_PIXELS, MAX_PIXELS = 3136, 1003520

_MESSAGES = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)
_NO_SYSTEM = "{% if messages[0]['role'] != 'system' %}"
CHAT_TEMPLATES = {
    "qwen2_vl": _NO_SYSTEM
    + "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    + _MESSAGES
    + "{% endif %}",
    "qwen3_vl": _MESSAGES + "{% endif %}",
    "mimo_vl": _NO_SYSTEM
    + "<|im_start|>system\nYou are MiMo.<|im_end|>\n{% endif %}"
    + _MESSAGES
    + "{% if no_think %}<think>\n\n</think>\n{% endif %}{% endif %}",
}
CHAT_TEMPLATES["qwen2_5_vl"] = CHAT_TEMPLATES["qwen2_vl"]


def make_tiny(family_name: str, folder: str | Path, seed: int = 0) -> Path:
    """Write a complete model folder of `family_name` with random weights to `folder`.

    The same arguments write the same weights; the global random state is left alone. Qwen2-VL and Qwen3-VL tie their
    head to the embeddings, as their small checkpoints do; the other two do not.

    Args:
        family_name: a key of `family.FAMILIES`.
        folder: made if missing.
        seed: of the weights.

    Returns:
        `folder`.
    """
    family = FAMILIES[family_name]
    tokenizer = make_tokenizer(family_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.model_class(_config(family.model_type, tokenizer))
        # Norms and biases start at 1 and 0 in every layer, which would hide a layer that is swapped or left out.
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.convert_tokens_to_ids([TURN_END, END]), pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    make_processor(family_name, tokenizer).save_pretrained(folder)
    return Path(folder)


def make_tokenizer(family_name: str) -> Qwen2Tokenizer:
    """A byte-level BPE of under 400 tokens, with the family's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(merge.replace(" ", "") for merge in MERGES)]
    tokenizer = Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[tuple(merge.split(" ")) for merge in MERGES],  # pyright: ignore[reportArgumentType]
        eos_token=TURN_END,
        pad_token=END,
        extra_special_tokens=list(SPECIAL_TOKENS),
    )
    if FAMILIES[family_name].thinking:
        tokenizer.add_tokens(list(THINKING_TOKENS))
    return tokenizer


def make_processor(family_name: str, tokenizer: Qwen2Tokenizer) -> Any:
    """The family's processor around `tokenizer`, with its own patch size and the usual pixel limits."""
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    options: dict[str, Any] = {"size": size, "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
    processors = {
        "qwen2_vl": (Qwen2VLProcessor, Qwen2VLVideoProcessor),
        "qwen2_5_vl": (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
        "qwen3_vl": (Qwen3VLProcessor, Qwen3VLVideoProcessor),
    }
    kind, video = processors[FAMILIES[family_name].model_type]
    if kind is Qwen3VLProcessor:
        options |= {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return kind(
        image_processor=Qwen2VLImageProcessor(**options),
        tokenizer=tokenizer,
        video_processor=video(**options),
        chat_template=CHAT_TEMPLATES[family_name],
    )


def _config(model_type: str, tokenizer: Qwen2Tokenizer) -> PreTrainedConfig:
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": ids[END],
        "eos_token_id": ids[TURN_END],
        "pad_token_id": ids[END],
    }
    vision: dict[str, Any] = {"depth": 3, "num_heads": 2, "patch_size": 14, "initializer_range": 0.15}
    common: dict[str, Any] = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": model_type != "qwen2_5_vl",
    }
    if model_type == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2}
        return Qwen2VLConfig(text_config=text, vision_config=vision, **common)
    vision |= {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": HIDDEN}
    if model_type == "qwen2_5_vl":
        # Windows of 2x2 image tokens, so that images of a few tokens have several.
        vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
        return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **common)
    text |= {"head_dim": 32}
    text["rope_parameters"] |= {"mrope_section": [8, 4, 4], "mrope_interleaved": True}
    vision |= {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    return Qwen3VLConfig(text_config=text, vision_config=vision, **common)
