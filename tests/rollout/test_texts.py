"""The text that a reward reads: control tokens are left out, special tokens that carry text stay."""

import copy

import numpy as np
import pytest

from mmhicra.config import DataConfig
from mmhicra.core.errors import ConfigError
from mmhicra.core.resources import asset_path
from mmhicra.hicra.spans import token_spans
from mmhicra.rewards.reward import follows
from mmhicra.rollout.engine import read_texts
from mmhicra.vlm.loading import LoadedProcessor, load_processor
from mmhicra.vlm.processing import PromptBuilder
from mmhicra.vlm.special_tokens import control_token_ids

TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
CONTROL = {
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
}


@pytest.fixture(scope="module")
def tuned() -> LoadedProcessor:
    """The tiny model's processor after a fine-tune that added its tags as special tokens."""
    from mmhicra.config import ModelConfig

    loaded = load_processor(ModelConfig(path=str(asset_path("tiny_vlm"))))
    loaded.tokenizer.add_special_tokens({"additional_special_tokens": TAGS}, replace_extra_special_tokens=False)
    return loaded


def test_only_control_tokens_are_no_text(tuned):
    texts = {tuned.tokenizer.convert_ids_to_tokens(index) for index in control_token_ids(tuned.tokenizer)}
    assert texts == CONTROL
    assert set(TAGS) < set(tuned.tokenizer.all_special_tokens)


def test_special_tags_reach_the_reward(tuned):
    written = "<think>seven</think><answer>3</answer><|box_start|>(1,2)<|box_end|>"
    ids = tuned.tokenizer.encode(written + "<|im_end|>", add_special_tokens=False)
    assert len(ids) < len(written)  # the tags are single tokens
    (text,) = read_texts(tuned.tokenizer, [ids])
    assert text == written
    assert follows(text.partition("<|box")[0], "think_answer")


@pytest.mark.parametrize("seed", range(5))
def test_spans_agree_with_the_text_to_the_character(seed, tuned):
    draw = np.random.default_rng(seed)
    size = len(tuned.tokenizer)
    control = control_token_ids(tuned.tokenizer)
    responses = [[*draw.integers(0, size, 40).tolist(), size - 1] for _ in range(20)]
    for ids, text in zip(responses, read_texts(tuned.tokenizer, responses), strict=True):
        kept = [token for token in ids if token not in control]
        spelled, spans = token_spans(kept, tuned.tokenizer)
        assert spelled == text
        tags = [text[start:end] for (start, end), token in zip(spans, kept, strict=True) if token >= size - len(TAGS)]
        assert tags == [tuned.tokenizer.convert_ids_to_tokens(token) for token in kept if token >= size - len(TAGS)]


def test_an_instruction_may_ask_for_the_tags_and_not_for_control_tokens(tuned):
    def build(instruction: str) -> PromptBuilder:
        data = DataConfig(instruction=instruction)
        return PromptBuilder(copy.copy(tuned.processor), tuned.family, tuned.config, data)

    assert build("Think in <think></think>, answer in <answer></answer>.")
    for token in CONTROL:
        with pytest.raises(ConfigError, match=r"data.instruction contains the control token"):
            build(f"End with {token}.")
