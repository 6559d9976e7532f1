"""A model as the Hugging Face folder that loads anywhere, adapters merged into it.

Its weights lie in files of at most `SHARD_BYTES`, which several ranks write side by side: each tensor is made whole by
itself, and kept only by the rank that writes its file.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.core_model_loading import revert_weight_conversion
from transformers.dynamic_module_utils import custom_object_save

from mmhicra.core.tensor_files import Stored, write_tensors
from mmhicra.vlm.family import unwrap
from mmhicra.vlm.weights import current_weight, plain_name

ADAPTER_FOLDER = "adapter"
"""In a checkpoint: the adapters alone, as peft writes them."""
INDEX = "model.safetensors.index.json"
"""Which file of a model folder has which weight, if there are several."""
SHARD_BYTES = 4 * 10**9
"""A file of weights has so many bytes at most, or one tensor."""


@dataclass(frozen=True)
class ModelShards:
    """The weight files of a model folder.

    Attributes:
        files: those that this rank writes: name of the file -> name on disk -> tensor.
        index: what `INDEX` says; None if there is one file only.
    """

    files: dict[str, dict[str, Stored]]
    index: dict[str, Any] | None

    def write(self, folder: Path, say: Callable[[str], None] = lambda line: None) -> dict[str, dict[str, Any]]:
        """Write this rank's files, and say which; returns what a manifest says of them.

        Raises:
            OSError: one cannot be written.
        """
        written = {}
        for number, (name, tensors) in enumerate(self.files.items(), start=1):
            say(f"{number} of {len(self.files)}: {name}, {len(tensors)} tensors")
            written[name] = write_tensors(folder / name, tensors, {"format": "pt"})
        return written

    def write_index(self, folder: Path) -> None:
        """Write the index, if there is one."""
        if self.index is not None:
            (folder / INDEX).write_text(json.dumps(self.index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_model(model: Any, processor: Any, folder: Path, *, half: bool) -> None:
    """Write weights, configuration and processor.

    Args:
        model: the transformers model, or peft's wrapper, whose adapters are merged into what is written.
        processor: saved beside it.
        folder: where to.
        half: weights become bfloat16.
    """
    for name, content in described(model, processor, half=half).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    shards = shards_of(model, half=half)
    shards.write(folder)
    shards.write_index(folder)


def described(model: Any, processor: Any, *, half: bool) -> dict[str, bytes]:
    """All files of a model folder but its weights, by name: configuration, tokenizer, processor."""
    base = unwrap(model)
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # what is written is not quantised
    config.dtype = str(base.dtype).removeprefix("torch.")
    config.architectures = [type(base).__name__.removeprefix("FSDP")]  # FSDP2 makes a class of its own
    with TemporaryDirectory() as place:
        folder = Path(place)
        config.save_pretrained(folder)
        if half:
            _declare_dtype(folder / "config.json", "bfloat16")
        if base.can_generate():
            base.generation_config.save_pretrained(folder)
        if getattr(base, "_auto_class", None) is not None:
            custom_object_save(base, folder, config=config)
        processor.save_pretrained(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _declare_dtype(config: Path, dtype: str) -> None:
    tree = json.loads(config.read_text(encoding="utf-8"))
    for part in (tree, tree.get("text_config", {}), tree.get("vision_config", {})):
        if "dtype" in part:
            part["dtype"] = dtype
    config.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def shards_of(
    model: Any,
    *,
    half: bool,
    rank: int = 0,
    ranks: int = 1,
    keep: Callable[[nn.Parameter], Tensor] = lambda parameter: parameter.detach(),
) -> ModelShards:
    """The weights of `model` in files, adapters merged and 4-bit weights dequantised; every rank must ask for them.

    Weights that are not trained are not copied: they stay as they are.

    Args:
        model: the transformers model or peft's wrapper, sharded over the ranks or copied.
        half: weights become bfloat16.
        rank: this one, which gets its own files.
        ranks: how many write.
        keep: what is written of a weight that is trained by itself and not sharded; it may give a copy.
    """
    base = unwrap(model)
    modules, owned = dict(base.named_modules()), dict(base.named_parameters())
    kept = stored_names(base)
    whole = {plain: _form(owned.get(name, tensor), half) for plain, (name, tensor) in kept.items()}
    names = disk_names(base, whole)
    if names is None:
        return _converted(base, kept, half, rank)
    planned = plan_files((disk, whole[plain].bytes) for plain, disk in names.items())
    writer = {disk: number % ranks for number, disks in enumerate(planned.values()) for disk in disks}
    together = ranks > 1 and any(isinstance(tensor, DTensor) for tensor in owned.values())
    mine: dict[str, Stored] = {}
    for plain, disk in names.items():
        name, tensor = kept[plain]
        if not together and writer[disk] != rank:
            continue
        value = current_weight(modules, name, tensor)
        if writer[disk] != rank:
            continue
        if value.data_ptr() != _address(tensor):  # made whole or merged just now
            value = value.to(device="cpu", dtype=whole[plain].dtype, copy=isinstance(tensor, DTensor))
        elif name in owned and owned[name].requires_grad:
            value = keep(owned[name])
        mine[disk] = Stored.of(value, whole[plain].dtype)
    files = {file: {disk: mine[disk] for disk in disks} for file, disks in planned.items() if disks[0] in mine}
    return ModelShards(files, _index(planned, sum(one.bytes for one in whole.values())))


def stored_names(base: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """Name without peft -> name and tensor of all that a model folder holds; of tied weights the first."""
    own = {name for name, _ in base.named_parameters()} | {name for name, _ in base.named_buffers()}
    ignored = getattr(base, "_keys_to_ignore_on_save", None) or ()
    found = {}
    for name, tensor in base.state_dict().items():
        plain = plain_name(name)
        if plain is not None and name in own and plain not in ignored:
            found[plain] = name, tensor
    return found


def disk_names(base: Any, tensors: Mapping[str, Stored]) -> dict[str, str] | None:
    """What model folders call each tensor; None if they hold other tensors, e.g. experts one by one."""
    without = {name: torch.empty(one.shape, dtype=one.dtype, device="meta") for name, one in tensors.items()}
    of_tensor = {id(tensor): name for name, tensor in without.items()}
    written = revert_weight_conversion(base, dict(without))
    names = {of_tensor[id(tensor)]: disk for disk, tensor in written.items() if id(tensor) in of_tensor}
    return names if names.keys() == without.keys() else None


def _converted(base: Any, kept: Mapping[str, tuple[str, Tensor]], half: bool, rank: int) -> ModelShards:
    """For models whose folders hold other tensors than they do: the first rank makes all whole and writes them."""
    modules = dict(base.named_modules())
    whole = {
        plain: current_weight(modules, name, tensor).to("cpu", copy=True) for plain, (name, tensor) in kept.items()
    }
    if rank:
        return ModelShards({}, None)
    written = {
        name: Stored.of(t, torch.bfloat16 if half and t.is_floating_point() else t.dtype)
        for name, t in revert_weight_conversion(base, whole).items()
    }
    return shards_in(written)


def shards_in(tensors: Mapping[str, Stored]) -> ModelShards:
    """The files of a model folder that one process writes; `tensors` by their names on disk."""
    planned = plan_files((name, one.bytes) for name, one in tensors.items())
    files = {file: {name: tensors[name] for name in names} for file, names in planned.items()}
    return ModelShards(files, _index(planned, sum(one.bytes for one in tensors.values())))


def plan_files(sizes: Iterable[tuple[str, int]]) -> dict[str, list[str]]:
    """File -> names of its tensors, filled up in order; `sizes` are names and bytes."""
    groups: list[list[str]] = [[]]
    held = 0
    for name, size in sizes:
        if groups[-1] and held + size > SHARD_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{n:05d}-of-{len(groups):05d}.safetensors": names for n, names in enumerate(groups, start=1)}


def _index(planned: Mapping[str, list[str]], size: int) -> dict[str, Any] | None:
    if len(planned) == 1:
        return None
    places = {name: file for file, names in planned.items() for name in names}
    return {"metadata": {"total_size": size}, "weight_map": places}


def _form(tensor: Tensor, half: bool) -> Stored:
    """Type and shape of a weight as it is written; one of 4 bits has others while it is packed."""
    dtype = torch.float32 if type(tensor).__name__ == "Params4bit" else tensor.dtype  # as `weights._is_quantised`
    shape = getattr(getattr(tensor, "quant_state", None), "shape", tensor.shape)
    return Stored(torch.bfloat16 if half and dtype.is_floating_point else dtype, tuple(shape), lambda: tensor)


def _address(tensor: Tensor) -> int:
    return 0 if isinstance(tensor, DTensor) else tensor.data_ptr()


def adapter_state(model: PeftModel, keep: Callable[[nn.Parameter], Tensor]) -> dict[str, Tensor]:
    """The weights that are trained, by their names in `model`, sharded ones made whole; every rank must ask for them.

    Args:
        model: peft's wrapper.
        keep: what is kept of one that is not sharded.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {name: _made_whole(one) if isinstance(one, DTensor) else keep(one) for name, one in trained}


def _made_whole(parameter: DTensor) -> Tensor:
    return parameter.full_tensor().detach().to("cpu", copy=True)
