"""The seam: everything that mmhicra knows about an architecture is asked of its family, one object.

An architecture stands in one file (`qwen2_vl`, `qwen3_vl`, ...) that makes a `Family`; what ships is registered when
`mmhicra.vlm` is imported, what comes from outside by `register_family`. Outside this package nobody knows the name of
a model or the keys of its processor.

Shapes: B rows, L row length, P prompt length, N images, I merged image tokens, H hidden size, K rows of positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from mmhicra.config import FreezeConfig
from mmhicra.core.errors import ConfigError
from mmhicra.core.records import Prompt
from mmhicra.core.vision_inputs import ImageFeatures, Images, ImageSize, Pixels, VisionInputs
from mmhicra.vlm import special_tokens

THINKING = ("<think>", "</think>")


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


class VisionWork(Protocol):
    """What it costs to encode images with one model."""

    def forward(self, vision: VisionInputs) -> float:
        """FLOP of the vision tower and its mergers for the images that are still to be encoded; 0 if there are none."""
        ...


class StockView(NamedTuple):
    """A prompt as the model's own code reads it: (P',) ids, and its images and positions."""

    ids: Tensor
    vision: VisionInputs


@dataclass(frozen=True)
class Family(ABC):
    """A model family. Models may be wrapped by peft; every method looks inside.

    The methods that are not abstract fit models that are built as transformers builds its vision-language models: a
    `model.language_model`, a `model.visual` and an `lm_head`.

    Attributes:
        name: what `model.family` says.
        model_type: of its transformers configuration.
        architecture: its transformers model class, as checkpoints declare it.
        normed_heads: whether its attention normalises queries and keys head by head.
        thinking: the tags its own checkpoints think between before they answer, None if they do not.
        no_think: what its own checkpoints read at the end of a user's turn as the wish not to think; None if they read
            nothing there.
        position_rows: K.
        shares_prompts: whether the responses of a group can share their prompt in a row (`train.rows: shared`); if not,
            the family is trained with `train.rows: plain`.
        joint_linears: names of linear layers of one module of the decoder that read the same input.
    """

    name: str
    model_type: str
    architecture: str
    normed_heads: bool = False
    thinking: tuple[str, str] | None = None
    no_think: str | None = None
    position_rows: int = 1
    shares_prompts: bool = True
    joint_linears: tuple[tuple[str, ...], ...] = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))

    # Vision: what differs from architecture to architecture.

    @abstractmethod
    def image_factor(self, config: PreTrainedConfig) -> int:
        """Pixels a merged image token covers in each direction: both sides of a resized image divide by it."""

    @abstractmethod
    def patches_per_token(self, config: PreTrainedConfig) -> int:
        """Patches that are merged into an image token."""

    @abstractmethod
    def resized(self, config: PreTrainedConfig, size: tuple[int, int], limits: tuple[int, int]) -> tuple[int, int]:
        """(width, height) that the model's image processor makes of (width, height) with (min, max) pixels."""

    @abstractmethod
    def vision_inputs(
        self, encoded: Mapping[str, Any], image_positions: Tensor, sizes: Sequence[ImageSize], processor: Any
    ) -> VisionInputs:
        """What the processor made of a prompt.

        Args:
            encoded: the processor's output.
            image_positions: (P,) bool, True at image tokens.
            sizes: of the images.
            processor: of the model.
        """

    @abstractmethod
    def encode_images(self, model: nn.Module, images: Pixels) -> ImageFeatures:
        """Run the vision tower and its merger."""

    @abstractmethod
    def dummy_vision_forward(self, model: nn.Module) -> Tensor:
        """A scalar that depends on every parameter of the vision tower and its mergers: one blank image token's sum."""

    @abstractmethod
    def merger(self, model: nn.Module) -> tuple[nn.Module, ...]:
        """What turns patches into image tokens."""

    @abstractmethod
    def vision_work(self, model: nn.Module) -> VisionWork:
        """What encoding costs; of a model that is still whole (not sharded)."""

    @abstractmethod
    def stock_view(self, prompt: Prompt, processor: Any, empty: Any) -> StockView:
        """The prompt as processor and model read its un-expanded ids and resized images by themselves.

        Args:
            prompt: as mmhicra built it.
            processor: of the model's folder, with the folder's own limits.
            empty: the model, perhaps without weights.
        """

    # vLLM: what it is given, and what it says of it.

    def vllm_data(self, prompt: Prompt) -> dict[str, Any]:
        """What a request of this prompt says beside its ids."""
        return {"multi_modal_data": {"image": list(prompt.images)}} if prompt.images else {}

    def vllm_options(self, min_pixels: int, max_pixels: int) -> dict[str, Any]:
        """How vLLM must be started to read images as the trainer does."""
        return {}

    def vllm_difference(self, prompt: Prompt, rendered: Mapping[str, Any]) -> str | None:
        """How vLLM sees an image otherwise than the trainer, as half a sentence; None if it does not, or does not say.

        Args:
            prompt: the trainer's.
            rendered: what vLLM's renderer made of the request.
        """
        return None

    # Text and layers: the same for all that transformers builds alike.

    @property
    def model_class(self) -> Any:
        """The transformers class of the whole model."""
        import transformers

        return getattr(transformers, self.architecture)

    def batch_positions(self, prompts: Sequence[VisionInputs]) -> Tensor:
        """(K, B, longest P), padded on the right with 0."""
        # (K, P_i) -> (P_i, K), padded and stacked to (B, P, K), -> (K, B, P)
        return pad_sequence([each.positions.T for each in prompts], batch_first=True).permute(2, 0, 1)

    def decode_positions(self, at: Tensor) -> Tensor:
        """(K, R, 1) of one text token a row that stands at position `at` (R,)."""
        return at.view(1, -1, 1).expand(self.position_rows, -1, -1)

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
        if not features.deepstack:
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
            ValueError: the images do not have as many tokens as there are positions; says both counts and the shapes.
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
            raise ValueError(f"{error}: {images.describe()}") from None

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
            positions: (K, B, L).
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

    def freeze(self, model: nn.Module, options: FreezeConfig) -> None:
        """Set `requires_grad` of every parameter of `model`; a head tied to the embeddings goes with them."""
        self.vision_tower(model).requires_grad_(not options.vision_tower)
        for merger in self.merger(model):
            merger.requires_grad_(not options.merger)
        self.language_model(model).requires_grad_(not options.language_model)
        self.lm_head(model).requires_grad_(not options.language_model)

    def banned_token_ids(self, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> list[int]:
        """What is never sampled: see `special_tokens.banned_token_ids`."""
        return special_tokens.banned_token_ids(tokenizer, config)


FAMILIES: dict[str, Family] = {}
"""Every family that is known, by name; among families of one `model_type` the first is the usual one."""


def register_family(family: Family) -> Family:
    """Make `family` known, so that `model.family` may name it and `auto` finds it by its architecture.

    For a family from outside the package: call this once, before a model is loaded, with an object of a subclass of
    `Family`. Everything else of mmhicra then works with it through its methods.

    Returns:
        `family`, so that a module can register what it defines in one line.

    Raises:
        ConfigError: another family has this name.
    """
    if FAMILIES.setdefault(family.name, family) != family:
        raise ConfigError(f"model.family {family.name} is registered twice: give one of the two another name")
    return family


def find_family(name: str) -> Family:
    """The family that is registered under `name`.

    Raises:
        ConfigError: there is none; lists those that there are.
    """
    if name not in FAMILIES:
        raise ConfigError(f"model.family {name} is not known: choose from auto, {', '.join(FAMILIES)}")
    return FAMILIES[name]


def unwrap(model: nn.Module) -> Any:
    """The transformers model inside a peft wrapper; adapters live in its layers and stay active."""
    inner = getattr(model, "get_base_model", None)
    return model if inner is None else inner()


def family_of(config: PreTrainedConfig, path: str, requested: str = "auto", chat_template: str | None = None) -> Family:
    """The family of a checkpoint.

    Two families may share an architecture, as MiMo-VL declares itself a Qwen2.5-VL. `auto` then takes the last of them
    for a checkpoint that thinks before it answers: the last part of its path contains `mimo`, or its chat template
    mentions `<think>`, which Qwen2.5-VL's does not. `model.family` overrules that.

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


def _supported() -> str:
    return ", ".join(f"{family.name} ({family.architecture})" for family in FAMILIES.values())
