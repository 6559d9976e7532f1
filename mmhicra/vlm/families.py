"""One object per model family: everything mmhicra knows about an architecture is asked of it.

Shapes: B rows, L row length, P prompt length, N images, I merged image tokens, H hidden size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from mmhicra.config import FreezeConfig
from mmhicra.core.errors import ConfigError

MULTIMODAL_TOKEN = re.compile(r"<\|?[^<>|]*(?:image|video|vision|audio)[^<>|]*\|?>", re.IGNORECASE)
"""Added tokens that stand for something other than text. Grounding tokens (`<|box_start|>`) are text."""

MULTIMODAL_TOKEN_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
"""Where a model's configuration names them."""

CONTROL_TOKEN = re.compile(r"<\|(?:im_\w+|endoftext|begin_of_text|end_of_text|eot_id|eom_id|pad|eos|bos)\|>")
"""Added tokens that frame the turns of a chat or end a text, also where the tokenizer gives them no role."""

THINKING = ("<think>", "</think>")


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


@dataclass(frozen=True, eq=False)
class Pixels:
    """Some images as the processor left them, in order: (patches, patch values), and (N, 3) in patches."""

    values: Tensor
    grid_thw: Tensor

    def to(self, device: torch.device) -> Pixels:
        """The same on `device`."""
        return Pixels(self.values.to(device), self.grid_thw.to(device))


Images = Pixels | ImageFeatures
"""What a batch shows the model: images still to be looked at, or what the vision tower made of them."""


@dataclass(frozen=True, eq=False)
class Embedded:
    """What the language model takes.

    Attributes:
        inputs_embeds: (B, L, H), image features in place.
        deepstack: per deep-stack layer (I, H) in row order, None without deep-stack or without images.
        visual_pos_masks: (B, L) bool, where those belong; None with `deepstack`.
    """

    inputs_embeds: Tensor
    deepstack: list[Tensor] | None = None
    visual_pos_masks: Tensor | None = None


@dataclass(frozen=True)
class Family:
    """A model family. Models may be wrapped by peft; every method looks inside.

    Attributes:
        name: what `model.family` says.
        model_type: of its transformers configuration.
        architecture: its transformers model class, as checkpoints declare it.
        deepstack: whether vision features also enter the first decoder layers.
        normed_heads: whether its attention normalises queries and keys head by head.
        thinking: the tags its own checkpoints think between before they answer, None if they do not.
    """

    name: str
    model_type: str
    architecture: str
    deepstack: bool = False
    normed_heads: bool = False
    thinking: tuple[str, str] | None = None

    @property
    def model_class(self) -> Any:
        """The transformers class of the whole model."""
        import transformers

        return getattr(transformers, self.architecture)

    def image_factor(self, config: PreTrainedConfig) -> int:
        """Pixels a merged image token covers in each direction: both sides of a resized image divide by it."""
        vision: Any = config.vision_config
        return vision.patch_size * vision.spatial_merge_size

    def positions(self, ids: Tensor, image_positions: Tensor, image_grid_thw: Tensor | None, merge_size: int) -> Tensor:
        """M-RoPE positions (time, height, width) of a prompt of text and images.

        Text advances all three rows by one a token. The tokens of an image start where the text before them ended and
        count its rows and columns; the text behind goes on after the larger of the two (Qwen2-VL, arXiv 2409.12191,
        section 2.1).

        Args:
            ids: (P,), only its length and device matter.
            image_positions: (P,) bool, True at image tokens.
            image_grid_thw: (N, 3) in patches, or None.
            merge_size: patches an image token merges in each direction.

        Returns:
            (3, P) int64.
        """
        length = ids.numel()
        grids = [] if image_grid_thw is None else image_grid_thw.tolist()
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
        return torch.cat(parts, dim=1).to(ids.device)

    def encode_images(self, model: nn.Module, images: Pixels) -> ImageFeatures:
        """Run the vision tower and its merger."""
        output = unwrap(model).model.get_image_features(images.values, images.grid_thw, return_dict=True)
        deep = output.deepstack_features if self.deepstack else ()
        # transformers before 5.18 leaves deep-stack features in one piece; later they come one per image.
        whole = tuple(layer if isinstance(layer, Tensor) else torch.cat(layer) for layer in deep)
        return ImageFeatures(torch.cat(output.pooler_output), whole)

    def dummy_vision_forward(self, model: nn.Module) -> Tensor:
        """A scalar that depends on every parameter of the vision tower and its mergers: one blank image token's sum."""
        options, like = self.vision_tower(model).config, next(self.vision_tower(model).parameters())
        merge = options.spatial_merge_size
        pixels = like.new_zeros(merge**2, options.in_channels * options.temporal_patch_size * options.patch_size**2)
        grid = torch.tensor([[1, merge, merge]], device=like.device)
        features = self.encode_images(model, Pixels(pixels, grid))
        return torch.stack([part.sum() for part in (features.merged, *features.deepstack)]).sum()

    def embed_ids(self, model: nn.Module, ids: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, H) token embeddings."""
        return self.language_model(model).embed_tokens(ids)

    def place(self, inputs_embeds: Tensor, features: ImageFeatures, image_positions: Tensor) -> Embedded:
        """Put image features where `image_positions` (B, L) says, in row order.

        Raises:
            ValueError: there are not as many features as positions.
        """
        count = int(image_positions.sum())
        if count != len(features.merged):
            raise ValueError(f"{count} image positions but {len(features.merged)} image features")
        merged = features.merged.to(inputs_embeds.dtype)
        placed = inputs_embeds.masked_scatter(image_positions.unsqueeze(-1), merged)
        if not self.deepstack:
            return Embedded(placed)
        return Embedded(placed, list(features.deepstack), image_positions)

    def embed(self, model: nn.Module, ids: Tensor, images: Images | None, image_positions: Tensor) -> Embedded:
        """Embed rows of text and images; images stand at the given positions, never where an id happens to be.

        Args:
            model: the whole model.
            ids: (B, L).
            images: those of all rows one after another, or None.
            image_positions: (B, L) bool.

        Raises:
            ValueError: the images do not have as many tokens as there are positions; says both counts and the grid.
        """
        embeds = self.embed_ids(model, ids)
        if images is None:
            if bool(image_positions.any()):
                raise ValueError(f"{int(image_positions.sum())} image positions but no image")
            return Embedded(embeds)
        if isinstance(images, ImageFeatures):
            return self.place(embeds, images, image_positions)
        try:
            return self.place(embeds, self.encode_images(model, images), image_positions)
        except ValueError as error:
            raise ValueError(f"{error}: image_grid_thw {images.grid_thw.tolist()}") from None

    def hidden_states(
        self,
        model: nn.Module,
        embedded: Embedded,
        positions: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Any = None,
        use_cache: bool = False,
        **options: Any,
    ) -> tuple[Tensor, Any]:
        """Run the language model alone, without its head.

        Args:
            model: the whole model.
            embedded: from `embed`.
            positions: (3, B, L).
            attention_mask: (B, 1, L, keys) bool, True where a query may look; None is causal.
            past_key_values: a transformers cache, or None.
            use_cache: return one.
            options: handed on to the attention of every layer.

        Returns:
            The final hidden states (B, L, H), and the cache or None.
        """
        decoder = self.language_model(model)
        deep: dict[str, Any] = {}
        if embedded.deepstack is not None:
            deep = {"deepstack_visual_embeds": embedded.deepstack, "visual_pos_masks": embedded.visual_pos_masks}
        output = decoder(
            inputs_embeds=embedded.inputs_embeds,
            position_ids=positions,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **deep,
            **options,
        )
        return output.last_hidden_state, output.past_key_values

    def lm_head(self, model: nn.Module) -> nn.Linear:
        """Hidden states -> logits."""
        return unwrap(model).lm_head

    def language_model(self, model: nn.Module) -> Any:
        """The decoder with its token embeddings, without the head."""
        return unwrap(model).model.language_model

    def vision_tower(self, model: nn.Module) -> Any:
        """The image encoder, its mergers included."""
        return unwrap(model).model.visual

    def merger(self, model: nn.Module) -> tuple[nn.Module, ...]:
        """What turns patches into image tokens, the mergers of deep-stack features included."""
        tower = self.vision_tower(model)
        return (tower.merger, *tower.deepstack_merger_list) if self.deepstack else (tower.merger,)

    def freeze(self, model: nn.Module, options: FreezeConfig) -> None:
        """Set `requires_grad` of every parameter of `model`; a head tied to the embeddings goes with them."""
        self.vision_tower(model).requires_grad_(not options.vision_tower)
        for merger in self.merger(model):
            merger.requires_grad_(not options.merger)
        self.language_model(model).requires_grad_(not options.language_model)
        self.lm_head(model).requires_grad_(not options.language_model)

    def banned_token_ids(self, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> list[int]:
        """Every multimodal special token: a policy that wrote one would claim an image that is not there."""
        declared = [getattr(config, name, None) for name in MULTIMODAL_TOKEN_IDS]
        size = config.get_text_config().vocab_size
        # Configurations default to the ids of the big tokenizers, which a small vocabulary does not reach.
        banned = {token for token in declared if token is not None and token < size}
        added = tokenizer.added_tokens_decoder.items()
        return sorted(banned | {index for index, token in added if MULTIMODAL_TOKEN.fullmatch(str(token))})


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("qwen2_vl", "qwen2_vl", "Qwen2VLForConditionalGeneration"),
        Family("qwen2_5_vl", "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
        Family(
            "qwen3_vl",
            "qwen3_vl",
            "Qwen3VLForConditionalGeneration",
            deepstack=True,
            normed_heads=True,
            thinking=THINKING,
        ),
        Family("mimo_vl", "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", thinking=THINKING),
    )
}


def unwrap(model: nn.Module) -> Any:
    """The transformers model inside a peft wrapper; adapters live in its layers and stay active."""
    inner = getattr(model, "get_base_model", None)
    return model if inner is None else inner()


def family_of(config: PreTrainedConfig, path: str, requested: str = "auto", chat_template: str | None = None) -> Family:
    """The family of a checkpoint.

    MiMo-VL declares itself a Qwen2.5-VL. `auto` takes such a checkpoint for MiMo-VL if the last part of its path
    contains `mimo`, or if its chat template mentions `<think>`, which Qwen2.5-VL's does not; `model.family` overrules
    that.

    Args:
        config: its transformers configuration.
        path: the folder or hub id it came from.
        requested: `model.family`.
        chat_template: as shipped with it.

    Raises:
        ConfigError: mmhicra does not know the architecture, or `requested` contradicts it.
    """
    declared = list(config.architectures or [])
    fitting = [
        family
        for family in FAMILIES.values()
        if family.model_type == config.model_type and (not declared or family.architecture in declared)
    ]
    if not fitting:
        found = ", ".join(declared) or (config.model_type and f"{config.model_type} model") or "model without a type"
        raise ConfigError(f"model.path {path} is a {found}, which mmhicra does not support: use {_supported()}")
    if requested != "auto":
        for family in fitting:
            if family.name == requested:
                return family
        raise ConfigError(
            f"model.family is {requested}, but model.path {path} is a {fitting[0].architecture}: "
            f"set model.family to {' or '.join(['auto', *(family.name for family in fitting)])}"
        )
    thinks = "mimo" in path.rstrip("/").rsplit("/", 1)[-1].lower() or THINKING[0] in (chat_template or "")
    return fitting[-1] if thinks else fitting[0]


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


def _supported() -> str:
    return ", ".join(f"{family.name} ({family.architecture})" for family in FAMILIES.values())
