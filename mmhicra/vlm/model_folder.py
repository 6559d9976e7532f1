"""What is wrong with the files of a model folder, said before transformers reads them and in words that help.

Only files are looked at: JSON, and the headers of safetensors. Nothing is loaded and nothing of the folder is run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mmhicra.core.errors import UserError, brief, one_line

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
JSON_FILES = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
)
"""The files that hold one JSON object, where a folder has them. `tokenizer.json` is large and checked by its reader."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_WRAPPED = (
    ("base_model.model.", "peft", "merge the adapters (merge_and_unload) and save_pretrained the result"),
    ("_fsdp_wrapped_module.", "FSDP", "save the full state dict of the model inside"),
    ("_orig_mod.", "torch.compile", "save_pretrained the model inside (model._orig_mod)"),
    ("module.", "DistributedDataParallel or DeepSpeed", "save_pretrained the model inside (model.module)"),
    ("_forward_module.", "Lightning Fabric", "save_pretrained the model inside"),
)
"""What training tools put into the names of weights, and how to get rid of it."""
_LORA = re.compile(r"\.(?:lora_[A-Za-z_]+|base_layer|modules_to_save)(?:\.|$)")
_QUANTISED_TYPES = re.compile(r"U8|I8|I4|U4|F4.*|F6_.*|F8.*")
"""Types of safetensors that hold packed or scaled numbers."""
_TYPES = ("F64", "F32", "F16", "BF16")
"""Types of weights that are trained as float32 without losing a part of them."""
_SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("vocab_size", "head_dim", "max_position_embeddings"),
    *("depth", "embed_dim", "num_heads", "patch_size", "spatial_merge_size", "temporal_patch_size", "out_hidden_size"),
    *("in_channels", "in_chans", "mlp_ratio"),
)
"""Fields of config.json and its parts that are counts or sizes."""
_LARGEST_SIZE = 10**8
_HARMLESS = re.compile(r"(?:^|\.)(?:rotary_(?:pos_)?emb\.inv_freq|position_ids|mtp\..+)$")
"""Weights that a checkpoint may have and the model not: computed tables, and heads that predict further tokens."""


def check_folder(path: str, folder: Path) -> None:
    """Refuse a local folder that is no model, or one that cannot be trained, whatever its weights are.

    Args:
        path: as the configuration names it.
        folder: where it lies.

    Raises:
        UserError: names the file and says how to go on.
    """
    where = f"model.path {path}"
    _check_kind(where, folder)
    trees = {name: _read_object(where, folder / name) for name in JSON_FILES if (folder / name).is_file()}
    check_config(where, trees["config.json"])


def check_weights(path: str, folder: Path, described: Mapping[str, Any]) -> None:
    """Refuse weights that are missing, pickled, cut off, quantised or not merged, or far fewer than are described.

    Args:
        path: as the configuration names the folder.
        folder: where it lies.
        described: `config.json` with the defaults of what it leaves out, which are the sizes of large models.

    Raises:
        UserError: names the file and says how to go on.
    """
    where = f"model.path {path}"
    headers = {file.name: _header(where, file) for file in weight_files(folder, where)}
    _check_names(where, headers)
    _check_size(where, described, headers)


def check_config(where: str, tree: Mapping[str, Any]) -> None:
    """Refuse a quantised model, and sizes that are none. Of `config.json`; `where` begins the message.

    Raises:
        UserError: names the field.
    """
    architectures = tree.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise UserError(f"{where}: architectures in its config.json is {brief(architectures)}: fetch the file again")
    parts = {"": tree}
    for name in ("text_config", "vision_config"):
        part = tree.get(name)
        if part is not None and not isinstance(part, dict):
            raise UserError(f"{where}: {name} in its config.json is {brief(part)}, not an object: fetch the file again")
        parts[f"{name}."] = part or {}
    for prefix, part in parts.items():
        method = part.get("quantization_config")
        if method is not None:
            kind = method.get("quant_method") if isinstance(method, dict) else None
            raise UserError(f"{where} is quantised ({kind or 'quantization_config in config.json'}): {_UNQUANTISED}")
        for name in _SIZES:
            size = part.get(name)
            if size is not None and not _is_size(size, whole=name != "mlp_ratio"):
                raise UserError(
                    f"{where}: {prefix}{name} in its config.json is {brief(size)}, not a size: fetch the file again"
                )
        _check_sections(where, prefix, part)


def _check_sections(where: str, prefix: str, part: Mapping[str, Any]) -> None:
    """Refuse sections of the multimodal rotary embedding that do not make up half of a head."""
    hidden, heads = part.get("hidden_size"), part.get("num_attention_heads")
    head = part.get("head_dim") or (hidden // heads if hidden and heads else None)
    for name in ("rope_parameters", "rope_scaling"):
        rope = part.get(name)
        sections = rope.get("mrope_section") if isinstance(rope, dict) else None
        if sections is None or head is None:
            continue
        if not isinstance(sections, list) or [type(s) for s in sections] != [int] * 3 or sum(sections) != head // 2:
            raise UserError(
                f"{where}: {prefix}{name}.mrope_section in its config.json is {brief(sections)}, not three parts of "
                f"{head // 2}: fetch the file again"
            )


def unexpected(names: Iterator[str] | list[str]) -> list[str]:
    """Of the weights that a checkpoint has and the model not, those that are not known to be harmless."""
    return sorted(name for name in names if not _HARMLESS.search(name))


_UNQUANTISED = "weights are trained in full precision, so name the model that it was made from"


def _is_size(value: Any, whole: bool) -> bool:
    kinds = int if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 < value <= _LARGEST_SIZE


def _check_kind(where: str, folder: Path) -> None:
    adapter = (folder / "adapter_config.json").is_file()
    if adapter and (folder / "config.json").is_file():
        raise UserError(
            f"{where} holds a model and an adapter (adapter_config.json), and only one of them would be used: "
            "merge the adapter, or move its files away"
        )
    if adapter:
        base = _base_named(folder)
        raise UserError(
            f"{where} is a LoRA adapter without its model: set model.path to {base or 'its base model'} and "
            "model.adapter to this folder, or write the merged model with `mmhicra merge`"
        )
    if not (folder / "config.json").is_file():
        if (folder / "adapter" / "adapter_config.json").is_file():
            raise UserError(
                f"{where} keeps adapters alone: write the model with `mmhicra merge {folder} --out FOLDER`, or name "
                f"{folder / 'adapter'} in model.adapter and its base in model.path"
            )
        if checkpoints := sorted(folder.glob("checkpoints/step_*/config.json")):
            raise UserError(f"{where} is a run: name one of its checkpoints, e.g. {checkpoints[-1].parent}")
        if any(folder.glob("checkpoints/step_*/adapter")):
            raise UserError(f"{where} is a run that keeps adapters alone: `mmhicra merge {folder} --out FOLDER`")
        if any(folder.glob("*.gguf")):
            raise UserError(f"{where} holds a GGUF file, which is for inference: {_UNQUANTISED}")
        raise UserError(f"{where} has no config.json: name a Hugging Face model folder")
    for name in ("quantize_config.json", "quant_config.json"):
        if (folder / name).is_file():
            raise UserError(f"{where} is quantised ({name}): {_UNQUANTISED}")


def _base_named(folder: Path) -> str | None:
    """The base model that an adapter names, if it does."""
    try:
        named = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return named if isinstance(named, str) and named.isprintable() else None


def _read_object(where: str, file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{where}: {file.name} is not JSON ({one_line(str(error), 160)}): fetch the file again"
        ) from None
    if not isinstance(tree, dict):
        raise UserError(f"{where}: {file.name} holds {brief(tree)}, not an object: fetch the file again")
    return tree


def weight_files(folder: Path, where: str = "model.path") -> list[Path]:
    """The safetensors files that make up a model; `where` begins the message.

    Raises:
        UserError: there are none, or not all that the index names.
    """
    index = _read_object(where, folder / INDEX) if (folder / INDEX).is_file() else None
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if index is not None:
        named = index.get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()) or not named:
            raise UserError(f"{where}: weight_map in {INDEX} does not say which file has which weight: fetch it again")
        files = sorted({folder / name for name in named.values()})
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            shown = f"{missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            raise UserError(f"{where}: {INDEX} names {shown}, which is not there: fetch the folder again")
        return files
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    if pickles:
        raise UserError(
            f"{where} has pickled weights only ({pickles[0]}), and reading those can run any code: fetch it as "
            "safetensors, or convert it where you trust it (load it there and save_pretrained)"
        )
    if shards := sorted(file.name for file in folder.glob("*.safetensors") if file.is_file()):
        raise UserError(f"{where} has {shards[0]}, but neither {WEIGHTS} nor {INDEX}: fetch the folder again")
    if any(folder.glob("*.gguf")):
        raise UserError(f"{where} holds a GGUF file, which is for inference: {_UNQUANTISED}")
    raise UserError(f"{where} has no weights ({WEIGHTS}): fetch the folder again")


def _header(where: str, file: Path) -> dict[str, tuple[str, int]]:
    """Type and number of elements of every weight in a file."""
    try:
        with safe_open(str(file), framework="pt") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 - not a dict
            return {name: (str(part.get_dtype()), math.prod(part.get_shape())) for name, part in slices.items()}
    except (OSError, SafetensorError, ValueError) as error:
        reason = one_line(str(error), 160)
        raise UserError(f"{where}: {file.name} is not whole ({reason}): fetch the file again") from None


def _check_names(where: str, headers: Mapping[str, Mapping[str, tuple[str, int]]]) -> None:
    """Refuse names of weights that training tools leave behind, and quantised types."""
    for file, weights in headers.items():
        for name, (kind, _) in weights.items():
            for mark, tool, advice in _WRAPPED:
                if name.startswith(mark) or (mark.startswith("_") and f".{mark}" in name):
                    said = f"{file} names its weights as {tool} does (e.g. {name})"
                    raise UserError(f"{where}: {said}: {advice}, and name that folder")
            if _LORA.search(name):
                raise UserError(
                    f"{where}: {file} holds LoRA weights that are not merged (e.g. {name}): merge them "
                    "(peft: merge_and_unload, then save_pretrained) and name that folder"
                )
            if _QUANTISED_TYPES.fullmatch(kind):
                raise UserError(f"{where} is quantised ({name} in {file} is of type {kind}): {_UNQUANTISED}")
            if kind not in _TYPES and not _HARMLESS.search(name):
                raise UserError(
                    f"{where}: {name} in {file} is of type {kind}, no floating-point weight: fetch the file again"
                )


def _check_size(where: str, tree: Mapping[str, Any], headers: Mapping[str, Mapping[str, tuple[str, int]]]) -> None:
    """Refuse a config.json that describes a far larger model, which would be made at random and fill the memory."""
    held = sum(count for weights in headers.values() for _, count in weights.values())
    text = {**tree, **(tree.get("text_config") or {})}
    vision = tree.get("vision_config") or {}
    hidden, inner = text.get("hidden_size") or 1, text.get("intermediate_size") or 1
    width, wide = vision.get("embed_dim") or vision.get("hidden_size") or 1, vision.get("intermediate_size") or 1
    described = (
        hidden * (text.get("vocab_size") or 1)
        + 3 * hidden * inner * (text.get("num_hidden_layers") or 1)
        + 2 * width * wide * (vision.get("depth") or 1)
    )
    if described > 1.5 * held:
        raise UserError(
            f"{where}: its config.json describes {described} weights or more, but its files hold {held}: "
            "fetch the folder again"
        )
