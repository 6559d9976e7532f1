"""Load a policy: weights, processor and family, frozen and adapted as configured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.image_processing_backends import TorchvisionBackend

from mmhicra.config import ModelConfig
from mmhicra.core.errors import UserError, brief, one_line
from mmhicra.core.plugins import is_address
from mmhicra.core.resources import asset_path
from mmhicra.vlm.activation_checkpointing import checkpoint_blocks
from mmhicra.vlm.adapter_folder import HUB_ID, AdapterFolder, continue_adapter, merge_adapter, read_adapter
from mmhicra.vlm.adapters import ADAPTER, add_adapters
from mmhicra.vlm.empty_model import Unfilled, fill_model
from mmhicra.vlm.family import FAMILIES, Family, family_of, unwrap
from mmhicra.vlm.model_folder import check_config, check_folder, check_weights, unexpected
from mmhicra.vlm.own_family import choose_family, load_family
from mmhicra.vlm.quantise import quantised_loading, refuse_quantize
from mmhicra.vlm.stored_weights import StoredWeight, make_skeleton
from mmhicra.vlm.trained_weights import INSIDE_POLICY, load_trained
from mmhicra.vlm.weights import nonfinite

SHIPPED = ("tiny_vlm", "lab_vlm")
"""The `model.path` of the models that ship with mmhicra."""

LARGEST_PIXEL = 30.0
"""Of an image that was scaled to 0 to 1, less a mean and over a deviation of 0.2 or more; unscaled it is above 255."""


@dataclass(frozen=True)
class LoadedProcessor:
    """All of a model but its weights: enough to build and check prompts.

    Attributes:
        path: the folder or hub id it came from.
        config: the transformers configuration.
    """

    path: str
    config: PreTrainedConfig
    family: Family
    processor: Any

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def pad_token_id(self) -> int:
        """What fills rows; masked everywhere, so any id serves where the tokenizer declares none."""
        pad: Any = self.tokenizer.pad_token_id
        return 0 if pad is None else pad

    @property
    def banned_token_ids(self) -> list[int]:
        """What is never sampled."""
        return self.family.banned_token_ids(self.tokenizer, self.config)


@dataclass(frozen=True)
class LoadedModel(LoadedProcessor):
    """A whole model. With LoRA `model` is peft's wrapper.

    Attributes:
        unfilled: what its values are made of, if it has none yet: see `empty_model`.
    """

    model: nn.Module
    unfilled: Unfilled | None = None

    @property
    def end_token_ids(self) -> list[int]:
        """The model's own end tokens: of its generation configuration and its tokenizer."""
        declared: Any = unwrap(self.model).generation_config.eos_token_id
        own: Any = self.tokenizer.eos_token_id
        ends = declared if isinstance(declared, list) else [declared]
        return sorted({end for end in (*ends, own) if end is not None})


def load_processor(model: ModelConfig) -> LoadedProcessor:
    """Load everything but the weights.

    Raises:
        UserError: the path is neither a model folder nor a hub id that can be fetched, or the processor is not whole.
        ConfigError: the architecture is not supported, or contradicts `model.family`.
    """
    refuse_quantize(model)
    path = resolve_model(model.path)
    config = read_config(path, model.family)
    choose_family(config, path, model.family)  # refuse a strange architecture before its processor fails to load
    with _reading(path, ": the processor cannot be loaded"):
        processor: Any = AutoProcessor.from_pretrained(path)
    _check_processor(processor, config, path)
    _try_image(processor, path)
    family = choose_family(config, path, model.family, str(processor.chat_template))
    return LoadedProcessor(path, config, family, processor)


def load_policy(model: ModelConfig, seed: int = 0, *, empty: bool = False) -> LoadedModel:
    """Load the policy onto the CPU (with `model.quantize` onto the GPU), ready to train.

    Weights are float32 whatever `model.precision` says; bf16 is the trainer's autocast over them. Dropout is off in
    every layer, so the forward pass in train mode equals the one in eval mode (`model.lora.dropout` above 0 is the one
    exception); the model is returned in train mode, without which nothing is checkpointed.

    Args:
        model: what to load and how.
        seed: of the adapters' initial weights; the global random state is left alone.
        empty: leave parameters on the meta device, for `empty_model.fill_model` to fill when they are split.

    Raises:
        UserError: like `load_processor`, or the weights are missing, broken, not finite or of another shape.
        ConfigError: like `load_processor`, or adapters do not fit the model as it is frozen.
    """
    parts = load_processor(model)
    policy, stored = _load_weights(parts, model, empty)
    _check_ends(policy, parts.path)
    _check_rotary(policy, parts.path)
    _switch_off_dropout(policy)
    family = parts.family
    found = None if model.adapter is None else read_adapter(model.adapter, policy)
    policy = _adapt(policy, family, model, found, seed)
    if model.checkpointing != "auto":  # which is chosen before anything is loaded to be trained
        tower = not model.freeze.vision_tower
        checkpoint_blocks(policy, family, model.checkpointing, model.checkpointing_layers, tower=tower)
    unfilled = Unfilled(stored, seed, found) if empty else None
    return LoadedModel(parts.path, parts.config, family, parts.processor, policy.train(), unfilled)


def fill_policy(loaded: LoadedModel) -> list[str]:
    """Give a model its values that was loaded empty, split over processes or not; see `empty_model.fill_model`.

    Returns:
        The weights that are not finite in this process's part.

    Raises:
        UserError: a file cannot be read.
    """
    assert loaded.unfilled is not None
    with _reading(loaded.path, ": the weights cannot be loaded"):
        return fill_model(loaded.model, loaded.unfilled)


def put_trained(loaded: LoadedModel, checkpoint: Path) -> None:
    """Give a model the float32 weights that a run trained, so that it computes what the run computed.

    The checkpoint's own Hugging Face folder is rounded where `model.precision` is bf16, and merged with LoRA.

    Args:
        loaded: what the run began with, loaded by its configuration.
        checkpoint: `checkpoints/step_*` of the run.

    Raises:
        UserError: the checkpoint has no such weights, or those of another model.
    """
    trained = {INSIDE_POLICY + name: p.detach() for name, p in loaded.model.named_parameters() if p.requires_grad}
    load_trained(checkpoint, trained)
    if broken := nonfinite((name.removeprefix(INSIDE_POLICY), tensor) for name, tensor in trained.items()):
        raise UserError(f"{checkpoint}: {len(broken)} weights hold NaN or infinity, e.g. {broken[0]}: name another one")


def resolve_model(path: str) -> str:
    """A folder that is there, or a hub id.

    Raises:
        UserError: `path` is neither, or the folder is no model; see `check_folder`.
    """
    if path in SHIPPED:
        return str(asset_path(path))
    folder = Path(path).expanduser()
    if folder.is_dir():
        check_folder(path, folder)
        return str(folder)
    if folder.exists():
        raise UserError(f"model.path {path} is a file: name the folder that holds it")
    if not HUB_ID.fullmatch(path) or path.startswith("."):
        raise UserError(f"model.path {path}: no such folder, and not a hub id (owner/name)")
    return path


def read_config(path: str, requested: str) -> PreTrainedConfig:
    """The configuration of a model folder or hub id, of which nothing else is read; `requested` is `model.family`.

    Raises:
        UserError: it cannot be read, or is of no known family.
    """
    own = [load_family(requested)] if is_address(requested) else []
    known = {family.model_type for family in (*FAMILIES.values(), *own)}
    with _reading(path, " cannot be loaded"):
        tree, _ = PreTrainedConfig.get_config_dict(path)
        check_config(f"model.path {path}", tree)
        if tree.get("model_type") in known:
            return AutoConfig.from_pretrained(path)
    stranger: Any = PreTrainedConfig(architectures=tree.get("architectures"))
    stranger.model_type = tree.get("model_type") or ""
    family_of(stranger, path)
    raise AssertionError("family_of refuses every unknown model type")


def _check_processor(processor: Any, config: Any, path: str) -> None:
    """Refuse what transformers loads without a word although it cannot work; falls back on the tokenizer's template."""
    if not isinstance(getattr(processor, "image_processor", None), TorchvisionBackend):
        # The torchvision and the PIL backend resize and round differently; one choice for every run.
        raise UserError(f"model.path {path}: no torchvision image processor: check its preprocessor_config.json")
    if getattr(processor, "image_token_id", None) != config.image_token_id:
        # Without its tokenizer files transformers makes an empty tokenizer.
        raise UserError(
            f"model.path {path}: its tokenizer does not have the model's image token: fetch the folder again"
        )
    if processor.chat_template is None:
        processor.chat_template = processor.tokenizer.chat_template
    if processor.chat_template is None:
        raise UserError(f"model.path {path} has no chat template: add chat_template.jinja beside the model")
    template = processor.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    if not isinstance(template, str):
        raise UserError(
            f"model.path {path}: its chat template is {brief(processor.chat_template)}, not text: "
            "add chat_template.jinja beside the model"
        )
    vision, images = config.vision_config, processor.image_processor
    for own, other in (("patch_size",) * 2, ("merge_size", "spatial_merge_size"), ("temporal_patch_size",) * 2):
        if getattr(images, own, None) != getattr(vision, other):
            raise UserError(
                f"model.path {path}: {own} of its image processor is {brief(getattr(images, own, None))}, but its "
                f"vision tower has {getattr(vision, other)}: fetch preprocessor_config.json again"
            )
    vocabulary = config.get_text_config().vocab_size
    if len(processor.tokenizer) > vocabulary:
        raise UserError(
            f"model.path {path}: its tokenizer has {len(processor.tokenizer)} tokens, its config.json a vocab_size of "
            f"{vocabulary}: fetch the folder again"
        )


def _try_image(processor: Any, path: str) -> None:
    """Process a white image once: whatever is wrong with the processor's numbers shows here instead of at every row."""
    with _reading(
        path, ": its processor fails on a white image, check processor_config.json and tokenizer_config.json"
    ):
        encoded = processor(
            text=[processor.image_token],
            images=[Image.new("RGB", (56, 56), "white")],
            images_kwargs={"size": {"shortest_edge": 3136, "longest_edge": 12544}},
            return_tensors="pt",
        )
        if not torch.isfinite(encoded["pixel_values"]).all():
            raise ValueError("its pixels are not finite")
        brightest = float(encoded["pixel_values"].abs().max())
        if brightest > LARGEST_PIXEL:
            raise ValueError(
                f"white is {brightest:.0f}, not about 1 to 3: do_rescale must be true, rescale_factor 1/255"
            )


def _load_weights(parts: LoadedProcessor, model: ModelConfig, empty: bool) -> tuple[Any, dict[str, StoredWeight]]:
    """The model, and if it is `empty` where its weights lie."""
    if Path(parts.path).is_dir():
        check_weights(parts.path, Path(parts.path), parts.config.to_dict())
    if "sliding_attention" in (getattr(parts.config.get_text_config(), "layer_types", None) or ()):
        raise UserError(f"model.path {parts.path} uses sliding-window attention: set use_sliding_window to false in it")
    stored: dict[str, StoredWeight] = {}
    with _reading(parts.path, ": the weights cannot be loaded"):
        if empty:
            policy, report, stored = make_skeleton(parts.family.model_class, parts.config, parts.path)
        else:
            policy, report = parts.family.model_class.from_pretrained(
                parts.path,
                dtype=torch.float32,
                attn_implementation="sdpa",
                output_loading_info=True,
                use_safetensors=True,  # never a pickle
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **quantised_loading(parts.config, parts.family, model),
            )
    # transformers goes on with random weights in the place of these.
    reshaped = [name for name, *_ in report["mismatched_keys"]]
    unusable = sorted([*report["missing_keys"], *reshaped])
    if unusable:
        raise UserError(
            f"model.path {parts.path}: {len(unusable)} weights are missing or of another shape than its config.json "
            f"says, e.g. {unusable[0]}: fetch the folder again"
        )
    if not empty:
        refuse_nonfinite(parts.path, nonfinite(policy.named_parameters()))
    # It leaves these out, so what would be trained is not what the checkpoint holds.
    if surplus := unexpected(report["unexpected_keys"]):
        raise UserError(
            f"model.path {parts.path}: {len(surplus)} of its weights have no place in a {type(policy).__name__}, e.g. "
            f"{surplus[0]}: merge or remove them"
        )
    return policy, stored


def refuse_nonfinite(path: str, broken: Sequence[str]) -> None:
    """Raise UserError if any weight of the model at `path` is not finite; `broken` names those."""
    if broken:
        raise UserError(
            f"model.path {path}: {len(broken)} weights hold NaN or infinity, e.g. {broken[0]}: fetch the folder "
            "again, or name an earlier checkpoint"
        )


def _check_rotary(policy: nn.Module, path: str) -> None:
    """Refuse sections of the multimodal rotary embedding that are left to a default which does not fit the heads."""
    for module in policy.modules():
        sections, frequencies = getattr(module, "mrope_section", None), getattr(module, "inv_freq", None)
        if sections is not None and frequencies is not None and sum(sections) != len(frequencies):
            raise UserError(
                f"model.path {path}: mrope_section is {brief(sections)}, but its heads take {len(frequencies)}: "
                "rope_parameters or rope_scaling of its config.json is not whole, fetch the file again"
            )


def _check_ends(policy: Any, path: str) -> None:
    ends = policy.generation_config.eos_token_id
    for end in ends if isinstance(ends, list) else [ends]:
        if end is not None and (type(end) is not int or not 0 <= end < policy.config.get_text_config().vocab_size):
            raise UserError(
                f"model.path {path}: eos_token_id in its generation_config.json is {brief(ends)}, not ids of tokens: "
                "fetch the file again"
            )


def _switch_off_dropout(policy: nn.Module) -> None:
    for module in policy.modules():
        rate = "p" if isinstance(module, nn.Dropout) else "attention_dropout"
        if hasattr(module, rate):
            setattr(module, rate, 0.0)


def _adapt(policy: nn.Module, family: Family, model: ModelConfig, found: AdapterFolder | None, seed: int) -> nn.Module:
    """Merge or continue the adapter that was `found`, add new ones, or set free what is trained itself."""
    if found is not None:
        if model.continues_adapter:
            return continue_adapter(policy, family, model.freeze, found)
        policy = merge_adapter(policy, found)
    if model.lora is None:
        family.freeze(policy, model.freeze)
        return policy
    wrapped = add_adapters(policy, family, model.freeze, model.lora, seed)
    if model.adapter is not None:  # no folder holds the weights under this one
        wrapped.peft_config[ADAPTER].base_model_name_or_path = f"{model.path} with {model.adapter} merged into it"
    return wrapped


@contextmanager
def _reading(path: str, what: str) -> Iterator[None]:
    """Whatever transformers raises over a model's files is a fault of these files, named in one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise UserError(f"model.path {path}{what}: {kind}{_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return one_line(str(error))
