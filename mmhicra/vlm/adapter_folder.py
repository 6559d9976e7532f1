"""An adapter that somebody trained (peft's LoRA): read, fitted to the model's names, continued or merged.

    adapter_config.json          ranks, alpha, DoRA, the name of the base model
    adapter_model.safetensors    base_model.model.<layer>.lora_A.weight (rank, in), .lora_B.weight (out, rank), ...

Tools name layers as the transformers of their day did: `model.layers` became `model.language_model.layers`, `visual`
became `model.visual`. Ranks and layers are read from the weights, so it does not matter how they were once chosen.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftOptions
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from mmhicra.config import FreezeConfig
from mmhicra.core.errors import ConfigError, UserError, brief, one_line
from mmhicra.vlm.adapters import ADAPTER, PARTS, adapted_layers, merger_names, part_finder, rank_of, wrap
from mmhicra.vlm.family import Family, unwrap
from mmhicra.vlm.weights import merged_weight, nonfinite

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_KEY = re.compile(r"(?P<layer>.+)\.(?P<kind>lora_A|lora_B|lora_magnitude_vector)(?:\.(?!weight$)[^.]+)?(?:\.weight)?")
_TOOLS = re.compile(r"(?:^|(?<=\.))(?:base_model\.model|module|_orig_mod|_fsdp_wrapped_module|modules_to_save\.\w+)\.")
"""What peft and training tools put into a name."""
_RENAMED = (
    (re.compile(r"^(?:model\.|language_model\.)*(?=layers\.|embed_tokens\.|norm\.)"), "model.language_model."),
    (re.compile(r"^language_model\."), "model.language_model."),
    (re.compile(r"^(?:model\.)?(?:visual|vision_tower|vision_model)\."), "model.visual."),
)
"""Names of earlier transformers, and what they are now."""
_UNKNOWN = (
    *("lora_bias", "use_qalora", "alora_invocation_tokens", "trainable_token_indices", "layer_replication"),
    *("target_parameters", "velora_config", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config"),
)
"""Options of peft under which an adapter is more than the weights that are read here."""
_CHANGES_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga|mica")
"""Initialisations that change the weights under the adapter; peft can save such an adapter without that."""


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter as it was read, its names fitted to a model.

    Attributes:
        path: as the configuration names it.
        described: `adapter_config.json`.
        layers: full name of a layer -> its float32 tensors by kind: `lora_A`, `lora_B`, `lora_magnitude_vector`.
        alphas: full name of a layer -> its alpha.
        whole: full name of a weight that was trained in full beside the adapters -> that weight, float32.
    """

    path: str
    described: Mapping[str, Any]
    layers: Mapping[str, Mapping[str, Tensor]]
    alphas: Mapping[str, int]
    whole: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def ranks(self) -> dict[str, int]:
        """Full name of a layer -> its rank."""
        return {name: len(tensors["lora_A"]) for name, tensors in self.layers.items()}

    @property
    def sizes(self) -> list[int]:
        """Elements of every tensor."""
        return [
            *(tensor.numel() for tensors in self.layers.values() for tensor in tensors.values()),
            *(tensor.numel() for tensor in self.whole.values()),
        ]


def read_adapter(path: str, policy: nn.Module) -> AdapterFolder:
    """Read an adapter and find the layers of `policy` that it belongs to.

    Args:
        path: a folder or a hub id.
        policy: the whole model, without adapters; it may be without weights.

    Raises:
        UserError: it is no LoRA adapter, it is not whole, or it does not fit the model; names what and how many.
    """
    where = f"model.adapter {path}"
    described = read_description(path)
    _check_described(where, described)
    try:
        weights = load_file(_file(where, path, WEIGHTS))
    except (OSError, SafetensorError, ValueError) as error:
        reason = one_line(str(error), 160)
        raise UserError(f"{where}: {WEIGHTS} is not whole ({reason}): fetch the folder again") from None
    if broken := nonfinite(weights.items()):
        raise UserError(f"{where}: {len(broken)} weights hold NaN or infinity, e.g. {broken[0]}: name an earlier one")
    modules: dict[str, Any] = dict(policy.named_modules())
    parameters = dict(policy.named_parameters())
    layers: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, int] = {}
    whole: dict[str, Tensor] = {}
    unused: list[str] = []
    for key, tensor in sorted(weights.items()):
        match = _KEY.fullmatch(key)
        stem = _TOOLS.sub("", match["layer"] if match else key)
        if match and isinstance(modules.get(name := fitted_name(stem, modules)), nn.Linear):
            layers.setdefault(name, {})[match["kind"]] = tensor.float()
            alphas[name] = rank_of(stem, described.get("lora_alpha", 8), described.get("alpha_pattern") or {})
        elif not match and (name := fitted_name(stem, parameters)) in parameters:
            whole[name] = tensor.float()
        else:
            unused.append(key)
    if unused:
        shown = ", ".join(unused[:3])
        raise UserError(
            f"{where}: {len(unused)} of its {len(weights)} weights fit no layer of a {type(policy).__name__}, e.g. "
            f"{shown}: it was trained on another model ({base_of(described) or 'unnamed'})"
        )
    found = AdapterFolder(path, described, layers, alphas, whole)
    _check_shapes(where, found, modules, parameters)
    return found


def read_description(path: str) -> dict[str, Any]:
    """`adapter_config.json` of an adapter.

    Raises:
        UserError: there is none, or it is damaged.
    """
    where = f"model.adapter {path}"
    try:
        tree = json.loads(_file(where, path, CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: {CONFIG} is not JSON ({one_line(str(error), 160)}): fetch it again") from None
    if not isinstance(tree, dict):
        raise UserError(f"{where}: {CONFIG} holds {brief(tree)}, not an object: fetch it again")
    return tree


def base_of(described: Mapping[str, Any]) -> str:
    """The model that an adapter says it belongs to, empty if it does not say."""
    named = described.get("base_model_name_or_path")
    return named if isinstance(named, str) else ""


def continue_adapter(policy: nn.Module, family: Family, freeze: FreezeConfig, found: AdapterFolder) -> PeftModel:
    """Wrap `policy` with the adapter, ready to train on.

    Raises:
        ConfigError: it adapts a part that `model.freeze` freezes, or leaves a free one alone.
        UserError: weights other than the merger's were trained in full beside it.
    """
    part_of = part_finder(policy, family)
    touched = {part_of(name) for name in (*found.layers, *found.whole)}
    mergers = tuple(merger_names(policy, family))
    for part in PARTS:
        frozen = getattr(freeze, part)
        if frozen == (part in touched):
            what = "has weights" if frozen else "has none"
            raise ConfigError(
                f"model.adapter {found.path} {what} on the {part.replace('_', ' ')}, which model.freeze.{part}: "
                f"{str(frozen).lower()} {'freezes' if frozen else 'leaves free'}: set it to {str(not frozen).lower()}"
            )
    others = [name for name in found.whole if not name.startswith(tuple(f"{merger}." for merger in mergers))]
    if others:
        raise UserError(
            f"model.adapter {found.path} holds {len(others)} weights that were trained in full, e.g. {others[0]}, "
            "which cannot be trained on beside adapters: set model.adapter_mode to merge"
        )
    full = [name for name in mergers if any(weight.startswith(f"{name}.") for weight in found.whole)]
    model = _wrapped(policy, found, full)
    _fill(model, found)
    return model


def merge_adapter(policy: nn.Module, found: AdapterFolder) -> nn.Module:
    """`policy` with the adapter added to its weights."""
    model = _wrapped(policy, found, [])
    _fill(model, found)
    with torch.no_grad():
        for _, layer in adapted_layers(model):
            layer.get_base_layer().weight.copy_(merged_weight(layer))
        merged: Any = model.unload()
        parameters = dict(merged.named_parameters())
        for name, weight in found.whole.items():
            parameters[name].copy_(weight)
    if hasattr(merged, "peft_config"):
        del merged.peft_config  # else the next adapter would be taken for a second one
    return merged.requires_grad_(True)


def _file(where: str, path: str, name: str) -> Path:
    """A file of the adapter, fetched if `path` is a hub id."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        if (folder / name).is_file():
            return folder / name
        if name == WEIGHTS and any(folder.glob("adapter_model*")):
            other = sorted(file.name for file in folder.glob("adapter_model*"))[0]
            raise UserError(f"{where} has {other}, but not {WEIGHTS}: save the adapter as safetensors, in one file")
        if adapters := sorted(folder.glob(f"checkpoints/step_*/adapter/{CONFIG}")):
            raise UserError(f"{where} is a run: name an adapter of it, e.g. {adapters[-1].parent}")
        if (folder / "adapter" / CONFIG).is_file():
            raise UserError(f"{where} is a checkpoint: name the adapter in it, {folder / 'adapter'}")
        raise UserError(f"{where} has no {name}: name the folder that peft's save_pretrained wrote")
    if folder.exists():
        raise UserError(f"{where} is a file: name the folder that holds {CONFIG}")
    if not HUB_ID.fullmatch(path) or path.startswith("."):
        raise UserError(f"{where}: no such folder, and not a hub id (owner/name)")
    try:
        fetched = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{where} cannot be fetched from the hub: {one_line(str(error), 160)}") from None
    if fetched is None:
        raise UserError(f"{where} has no {name}: name a LoRA adapter")
    return Path(fetched)


def _check_described(where: str, described: Mapping[str, Any]) -> None:
    kind = described.get("peft_type")
    if kind != "LORA":
        raise UserError(f"{where} is of peft's type {brief(kind)}: merge it (peft: merge_and_unload); LoRA is trained")
    strange = [name for name in _UNKNOWN if described.get(name)]
    strange += ["bias"] if described.get("bias", "none") != "none" else []
    if strange:
        raise UserError(
            f"{where} was trained with peft's {strange[0]}, of which only peft knows what it adds: merge it there "
            "(merge_and_unload), and name the merged model in model.path"
        )
    begun = described.get("init_lora_weights")
    if isinstance(begun, str) and _CHANGES_BASE.match(begun):
        raise UserError(
            f"{where} began with {begun}, which changes the weights under it: save it with peft's "
            "path_initial_model_for_weight_conversion, or merge it there"
        )
    for name in ("lora_alpha", "r"):
        if name in described and not isinstance(described[name], int | float):
            raise UserError(f"{where}: {name} in {CONFIG} is {brief(described[name])}, not a number: fetch it again")


def fitted_name(name: str, known: Mapping[str, object]) -> str:
    """The name in `known` that an earlier transformers called `name`; `name` itself if there is none."""
    if name in known:
        return name
    for old, new in _RENAMED:
        if (now := old.sub(new, name, count=1)) in known:
            return now
    return name


def _check_shapes(
    where: str, found: AdapterFolder, modules: Mapping[str, Any], parameters: Mapping[str, nn.Parameter]
) -> None:
    if not found.layers:
        raise UserError(f"{where} holds no LoRA weights: name the folder that peft's save_pretrained wrote")
    dora = bool(found.described.get("use_dora"))
    for name, tensors in found.layers.items():
        wanted = {"lora_A", "lora_B", *(["lora_magnitude_vector"] if dora else [])}
        if odd := sorted(wanted ^ tensors.keys()):
            raise UserError(f"{where}: {name} has {odd[0]} and not the rest of it: fetch the folder again")
        layer, rank = modules[name], len(tensors["lora_A"])
        shapes = {"lora_A": (rank, layer.in_features), "lora_B": (layer.out_features, rank)}
        for kind, shape in shapes.items():
            _check_shape(where, f"{name}.{kind}", tensors[kind], shape)
    for name, weight in found.whole.items():
        _check_shape(where, name, weight, tuple(parameters[name].shape))
    said = rank_of(next(iter(found.ranks)), found.described.get("r", 8), found.described.get("rank_pattern") or {})
    if not found.described.get("rank_pattern") and set(found.ranks.values()) != {said}:
        raise UserError(
            f"{where}: r is {said} in {CONFIG}, but its weights have rank {max(found.ranks.values())}: they do not "
            "belong together, fetch the folder again"
        )


def _check_shape(where: str, name: str, tensor: Tensor, wanted: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != wanted:
        raise UserError(
            f"{where}: {name} is of shape {tuple(tensor.shape)}, the model takes {wanted}: it was trained on a model "
            "of another size"
        )


def _wrapped(policy: nn.Module, found: AdapterFolder, full: list[str]) -> PeftModel:
    """`policy` with an adapter of the same form, still empty."""
    rank = Counter(found.ranks.values()).most_common(1)[0][0]
    alpha = Counter(found.alphas.values()).most_common(1)[0][0]
    described = found.described
    options = PeftOptions(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=described.get("lora_dropout") or 0.0,
        target_modules="|".join(re.escape(name) for name in found.layers),
        rank_pattern={re.escape(name): own for name, own in found.ranks.items() if own != rank},
        alpha_pattern={re.escape(name): own for name, own in found.alphas.items() if own != alpha},
        use_dora=bool(described.get("use_dora")),
        use_rslora=bool(described.get("use_rslora")),
        modules_to_save=full or None,
    )
    with torch.random.fork_rng(devices=[]):
        return wrap(policy, options)


@torch.no_grad()
def _fill(model: PeftModel, found: AdapterFolder) -> None:
    """Put the adapter's values in."""
    for parameter, value in adapter_values(model, found):
        parameter.copy_(value)


def adapter_values(model: nn.Module, found: AdapterFolder) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """The parameters of peft's wrapper that are the adapter's, and their values as they were read."""
    parameters = dict(unwrap(model).named_parameters())
    for layer, tensors in found.layers.items():
        for kind, tensor in tensors.items():
            parameter = parameters[f"{layer}.{kind}.{ADAPTER}.weight"]
            yield parameter, tensor.view(parameter.shape)
    saved = f".modules_to_save.{ADAPTER}."
    in_full = {name.replace(saved, "."): parameter for name, parameter in parameters.items() if saved in name}
    for name, weight in found.whole.items():
        if name in in_full:
            yield in_full[name], weight
