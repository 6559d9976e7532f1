"""What speed is measured on: Qwen2.5-VL shapes with random weights, and regimes of prompt and response lengths."""

from __future__ import annotations

import itertools
import json
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from mmhicra.core.errors import UserError
from tools.tiny_vlm.factory import END, MERGES, SPECIAL_TOKENS, TURN_END, make_processor, make_tokenizer
from tools.tiny_vlm.tiny import chat_text

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
"""Of few tokens: the small vocabulary would spell out the usual words."""

PIXELS_PER_TOKEN = 28
"""In each direction: patches of 14 pixels, two of them merged."""


@dataclass(frozen=True)
class Regime:
    """Lengths of one group.

    Attributes:
        image: rows and columns of image tokens.
        text: prompt tokens beside those of the image.
        responses: tokens of each response.
    """

    name: str
    image: tuple[int, int]
    text: int
    responses: tuple[int, ...]

    @property
    def prompt(self) -> int:
        """P."""
        return self.image[0] * self.image[1] + self.text

    def __str__(self) -> str:
        low, high = min(self.responses), max(self.responses)
        lengths = f"{low}" if low == high else f"{low} to {high}"
        return f"regime {self.name}: prompt {self.prompt}, {len(self.responses)} responses of {lengths}"

    def facts(self) -> dict[str, Any]:
        """For JSON, and `shown` for a person."""
        return {"prompt": self.prompt, "responses": list(self.responses), "shown": str(self)}

    def with_group(self, size: int) -> Regime:
        """The same with `size` responses, their lengths repeated in turn."""
        lengths = itertools.islice(itertools.cycle(self.responses), size)
        return Regime(self.name, self.image, self.text, tuple(lengths))


REGIMES = {
    regime.name: regime
    for regime in (
        Regime("A", (20, 20), 23, (40, 53, 65, 78, 90, 103, 115, 128)),
        Regime("B", (32, 40), 200, (400,) * 8),
        Regime("C", (32, 40), 200, (2000,) * 8),
    )
}

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "text": {"vocab_size": 1024, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4},
        "heads": (6, 2),
        "vision": {"depth": 2, "hidden_size": 128, "intermediate_size": 256, "num_heads": 4},
        "full": [0, 1],
    },
    # 3B scaled down: as wide an MLP for its hidden size (5.4), as few key-value heads, as large a share of vision.
    "40m": {
        "text": {"vocab_size": 4096, "hidden_size": 512, "intermediate_size": 2752, "num_hidden_layers": 7},
        "heads": (8, 2),
        "vision": {"depth": 4, "hidden_size": 192, "intermediate_size": 512, "num_heads": 4},
        "full": [1, 3],
    },
    "300m": {
        "text": {"vocab_size": 16384, "hidden_size": 1024, "intermediate_size": 5632, "num_hidden_layers": 14},
        "heads": (16, 4),
        "vision": {"depth": 4, "hidden_size": 192, "intermediate_size": 512, "num_heads": 4},
        "full": [1, 3],
    },
    # The published configurations of Qwen2.5-VL-3B and -7B.
    "3b": {
        "text": {"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36},
        "heads": (16, 2),
        "vision": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16},
        "full": [7, 15, 23, 31],
    },
    "7b": {
        "text": {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28},
        "heads": (28, 4),
        "vision": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16},
        "full": [7, 15, 23, 31],
    },
}


def write_model(preset: str, folder: Path, dtype: torch.dtype) -> Path:
    """A complete model folder of the preset with random weights; returns `folder`."""
    model, processor = make_model(preset, dtype)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_model(preset: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """A model of the preset with random weights and its processor.

    On the GPU, where there is one: eight billion random numbers take the CPU minutes.
    """
    tokenizer = _tokenizer(PRESETS[preset]["text"]["vocab_size"])
    config = model_config(preset, tokenizer)
    with torch.random.fork_rng(), torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.manual_seed(0)
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = Qwen2_5_VLForConditionalGeneration(config)
        finally:
            torch.set_default_dtype(default)
    text: Any = config.text_config
    model.generation_config = GenerationConfig(
        eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id, do_sample=True
    )
    processor = make_processor("qwen2_5_vl", tokenizer)
    processor.chat_template = CHAT_TEMPLATE
    return model, processor


def model_config(preset: str, tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    """The transformers configuration of the preset, with the special tokens of `tokenizer`."""
    shape = PRESETS[preset]
    ids: dict[str, Any] = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    heads, key_heads = shape["heads"]
    half = shape["text"]["hidden_size"] // heads // 2
    side = 3 * half // 8
    text = shape["text"] | {
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "max_position_embeddings": 32768,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [half - 2 * side, side, side],
        },
        "bos_token_id": ids[END],
        "eos_token_id": ids[TURN_END],
        "pad_token_id": ids[END],
        "tie_word_embeddings": False,
    }
    vision = shape["vision"] | {
        "patch_size": 14,
        "spatial_merge_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": shape["full"],
        "out_hidden_size": shape["text"]["hidden_size"],
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )


def write_problems(regime: Regime, processor: Any, folder: Path, count: int, text_alone: bool = False) -> Path:
    """A folder of `count` problems whose prompts have exactly the regime's length; returns the file that lists them.

    Args:
        regime: which lengths.
        processor: the model's.
        folder: made if missing.
        count: each with a picture of its own.
        text_alone: text in the place of the picture, as many tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start, wanted = ("the", regime.prompt) if text_alone else ("<image>", regime.text)
    question = start + " the" * (wanted - _text_tokens(processor, start))
    tokens = _text_tokens(processor, question)
    if tokens != wanted:
        raise UserError(f"bench train: {tokens} text tokens where regime {regime.name} has {wanted}")
    rng = np.random.default_rng(0)
    rows, columns = regime.image
    file = folder / "problems.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for number in range(count):
            images = [] if text_alone else [f"{number}.png"]
            for name in images:
                size = (rows * PIXELS_PER_TOKEN, columns * PIXELS_PER_TOKEN, 3)
                Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / name)
            row = {"id": str(number), "question": question, "images": images, "answer": "1"}
            lines.write(json.dumps(row) + "\n")
    return file


def _text_tokens(processor: Any, question: str) -> int:
    chat = chat_text(processor, question)
    return len(processor.tokenizer(chat, add_special_tokens=False)["input_ids"]) - question.count("<image>")


def _tokenizer(vocabulary: int) -> Qwen2Tokenizer:
    """The factory's byte-level BPE, filled up with words to `vocabulary` tokens: every sampled id is text."""
    small = make_tokenizer("qwen2_5_vl")
    pieces = dict.fromkeys(small.convert_ids_to_tokens(list(range(len(small) - len(SPECIAL_TOKENS)))))
    words = ("Ġ" + "".join(letters) for n in (4, 5) for letters in itertools.product(string.ascii_lowercase, repeat=n))
    while len(pieces) < vocabulary - len(SPECIAL_TOKENS):
        pieces[next(words)] = None
    return Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[tuple(merge.split(" ")) for merge in MERGES],  # pyright: ignore[reportArgumentType]
        eos_token=TURN_END,
        pad_token=END,
        extra_special_tokens=list(SPECIAL_TOKENS),
    )
