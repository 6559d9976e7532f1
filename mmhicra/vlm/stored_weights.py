"""Weights that stay in their files: read by range, so that a process reads its own rows of a model that is split.

    skeleton   every parameter on the meta device, in place of the weights as transformers loads them
    stored     name of a parameter -> the file it lies in, and what it is called there

Which weight goes where is asked of transformers itself: it is handed weights without values, and a parameter of the
model it makes then shares its storage with the one that was put in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard
from transformers import GenerationConfig
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from mmhicra.core.errors import UserError
from mmhicra.vlm.model_folder import INDEX, WEIGHTS, weight_files
from mmhicra.vlm.weights import plain_name


@dataclass(frozen=True)
class StoredWeight:
    """Where a weight lies."""

    file: Path
    name: str


def find_files(path: str) -> list[Path]:
    """The safetensors files of a model folder, or of a hub id, which are fetched.

    Raises:
        UserError: a folder has none, or not all that its index names.
        OSError: the hub has none, or cannot be reached.
    """
    if Path(path).is_dir():
        return weight_files(Path(path), f"model.path {path}")
    single: Any = cached_file(path, WEIGHTS, _raise_exceptions_for_missing_entries=False)
    if single is not None:
        return [Path(single)]
    index: Any = cached_file(path, INDEX)
    files, _ = get_checkpoint_shard_files(path, index)
    return [Path(file) for file in files]


def make_skeleton(
    model_class: Any, config: Any, path: str, dtype: torch.dtype = torch.float32
) -> tuple[Any, dict[str, Any], dict[str, StoredWeight]]:
    """A model without values, what transformers says of its weights, and where these lie.

    Buffers that no checkpoint holds have their values, on the CPU.

    Args:
        model_class: of transformers.
        config: of the model.
        path: a folder or a hub id.
        dtype: of the parameters; those in the files are converted as they are read.

    Raises:
        UserError: transformers makes a parameter of several weights, or leaves a buffer without values.
    """
    places: dict[str, StoredWeight] = {}
    empty: dict[str, Tensor] = {}
    for file in find_files(path):
        with safe_open(str(file), framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a dict
                places[name] = StoredWeight(file, name)
                empty[name] = torch.empty(weights.get_slice(name).get_shape(), dtype=dtype, device="meta")
    model, report = model_class.from_pretrained(
        None,
        config=config,
        state_dict=empty,
        dtype=dtype,
        device_map={"": "meta"},
        attn_implementation="sdpa",
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    model.name_or_path = model.config.name_or_path = path
    with suppress(OSError):  # without the file it keeps what its configuration makes
        model.generation_config = GenerationConfig.from_pretrained(path)
    of_storage = {_storage(tensor): places[name] for name, tensor in empty.items()}
    stored = {
        name: of_storage[_storage(tensor)]
        for name, tensor in model.state_dict().items()
        if _storage(tensor) in of_storage
    }
    unread = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    if made := sorted(model.state_dict().keys() - stored.keys() - unread):
        raise UserError(
            f"model.path {path}: transformers makes {made[0]} of several weights of the folder, which is not done part "
            "by part: save the model again with save_pretrained, or set model.shard to false"
        )
    _tie_equal(model, stored)
    _make_buffers(model, path)
    return model, report, stored


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tie_equal(model: Any, stored: Mapping[str, StoredWeight]) -> None:
    """Tie what the configuration ties and the files hold twice, if both are equal; as transformers does with values."""
    for target, source in list(model.all_tied_weights_keys.items()):
        if stored.get(target) == stored.get(source):
            continue
        if _equal(stored[target], stored[source]):
            owner, _, name = target.rpartition(".")
            setattr(model.get_submodule(owner), name, model.get_parameter(source))
        else:
            del model.all_tied_weights_keys[target]


def _equal(one: StoredWeight, other: StoredWeight) -> bool:
    with safe_open(str(one.file), framework="pt") as first, safe_open(str(other.file), framework="pt") as second:
        left, right = first.get_slice(one.name), second.get_slice(other.name)
        rows = left.get_shape()[0]
        pieces = (slice(start, start + 1024) for start in range(0, rows, 1024))
        return left.get_shape() == right.get_shape() and all(torch.equal(left[at], right[at]) for at in pieces)


def _make_buffers(model: Any, path: str) -> None:
    """Compute the buffers that are no weights (rotary frequencies), as transformers does after it has loaded."""
    kept = model.state_dict().keys()
    made = {name for name, _ in model.named_buffers() if name not in kept}
    for name in made:
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        like = getattr(module, own)
        unset = float("nan") if like.is_floating_point() else torch.iinfo(like.dtype).max
        setattr(module, own, torch.full_like(like, unset, device="cpu"))
        module._is_hf_initialized = False
    model.initialize_weights()
    for name, buffer in model.named_buffers():
        if name in made and buffer.is_floating_point() and bool(buffer.isnan().any()):
            raise UserError(
                f"model.path {path}: {type(model).__name__} does not compute its buffer {name} in _init_weights, so it "
                "cannot be loaded part by part: set model.shard to false"
            )


def weights_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a checkpoint holds of a model: name and tensor of its parameters and persistent buffers, tied ones once.

    What peft keeps twice, because it is trained in full beside adapters, comes twice under one name.
    """
    kept = model.state_dict().keys()
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if name in kept)
    for name, tensor in (*model.named_parameters(), *buffers):
        if (plain := plain_name(name.replace(".original_module.", "."))) is not None:
            yield plain, tensor


@torch.no_grad()
def fill(targets: Mapping[str, list[Tensor]], stored: Mapping[str, StoredWeight]) -> None:
    """Fill tensors in place: of a DTensor this rank's rows, and no others are read.

    Args:
        targets: name of a weight -> where it goes.
        stored: name -> where it lies.
    """
    with ExitStack() as stack:
        files = {
            file: stack.enter_context(safe_open(str(file), framework="pt"))
            for file in sorted({stored[name].file for name in targets})
        }
        for name, tensors in targets.items():
            part = files[stored[name].file].get_slice(stored[name].name)
            for tensor in tensors:
                local, rows = own_rows(tensor)
                if local.numel():
                    local.copy_(part[...] if rows is None else part[rows])


def own_rows(tensor: Tensor) -> tuple[Tensor, slice | None]:
    """The part of `tensor` that this rank holds, and which rows of the whole these are; None is all.

    Raises:
        ValueError: it is split in another way than by rows (a bug).
    """
    if not isinstance(tensor, DTensor):
        return tensor.detach(), None
    local = tensor.to_local().detach()
    rows = None
    for dim, placement in enumerate(tensor.placements):
        if isinstance(placement, Replicate):
            continue
        if not isinstance(placement, Shard) or placement.dim != 0 or rows is not None:
            raise ValueError(f"a tensor that is split as {tensor.placements} cannot be filled by rows")
        mesh = tensor.device_mesh
        size = -(-tensor.shape[0] // mesh.size(dim))  # as torch.chunk: all but the last have as many
        start = min(size * mesh.get_local_rank(dim), tensor.shape[0])
        rows = slice(start, start + len(local))
    return local, rows
