"""Tokens of a tokenizer that stand for something other than text: images, and the frame of a chat."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

MULTIMODAL_TOKEN = re.compile(r"<\|?[^<>|]*(?:image|video|vision|audio)[^<>|]*\|?>", re.IGNORECASE)
"""Added tokens that stand for something other than text. Grounding tokens (`<|box_start|>`) are text."""

MULTIMODAL_TOKEN_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
"""Where a model's configuration names them."""

CONTROL_TOKEN = re.compile(r"<\|(?:im_\w+|endoftext|begin_of_text|end_of_text|eot_id|eom_id|pad|eos|bos)\|>")
"""Added tokens that frame the turns of a chat or end a text, also where the tokenizer gives them no role."""


def banned_token_ids(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> list[int]:
    """Every multimodal special token: a policy that wrote one would claim an image that is not there."""
    declared = [getattr(config, name, None) for name in MULTIMODAL_TOKEN_IDS]
    size = config.get_text_config().vocab_size
    # Configurations default to the ids of the big tokenizers, which a small vocabulary does not reach.
    banned = {token for token in declared if token is not None and token < size}
    added = tokenizer.added_tokens_decoder.items()
    return sorted(banned | {index for index, token in added if MULTIMODAL_TOKEN.fullmatch(str(token))})


def control_token_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that are no part of a text: begin, end and padding, the frame of a chat's turns, and multimodal ones.

    Other special tokens carry text, whoever made them special: `<think>` and `<answer>` of a fine-tune, `<|box_start|>`
    of the Qwen models. They stay in the text that a reward reads, and may stand in a prompt.
    """
    roles: list[Any] = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    added = tokenizer.added_tokens_decoder.items()
    named = (index for index, token in added if CONTROL_TOKEN.fullmatch(str(token)))
    multimodal = (index for index, token in added if MULTIMODAL_TOKEN.fullmatch(str(token)))
    return frozenset([*(index for index in roles if index is not None), *named, *multimodal])


def control_texts(tokenizer: PreTrainedTokenizerBase, banned: Iterable[int]) -> list[str]:
    """What a question must not contain: it would become a control or image token, not text."""
    return sorted({str(tokenizer.convert_ids_to_tokens(index)) for index in {*banned, *control_token_ids(tokenizer)}})
