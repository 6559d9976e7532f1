"""The weights that a run trained, as its checkpoints keep them: not rounded, adapters by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmhicra.core.errors import RunFolderError, one_line
from mmhicra.core.manifest import STATE
from mmhicra.core.tensor_parts import Whole, load_parts, parts_in

TRAINED_WEIGHTS = f"{STATE}/trainable"
"""In a checkpoint: the weights that were trained, in parts as ranks wrote them."""
OLD_TRAINED_WEIGHTS = f"{STATE}/trainable.safetensors"
"""The same where mmhicra wrote it before there were parts."""
INSIDE_POLICY = "model."
"""Where `train.policy.Policy` keeps the model: the prefix of the names of these weights."""


def stored_weights(checkpoint: Path) -> dict[str, Whole]:
    """Type and shape of the weights in a checkpoint, by name.

    Raises:
        RunFolderError: there are none, or they cannot be read.
    """
    try:
        if (checkpoint / OLD_TRAINED_WEIGHTS).is_file():
            whole = load_file(checkpoint / OLD_TRAINED_WEIGHTS)
            found = {name: Whole(tensor.dtype, tuple(tensor.shape)) for name, tensor in whole.items()}
        else:
            found = parts_in(checkpoint / TRAINED_WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise RunFolderError(f"{checkpoint} is no whole checkpoint of a run: {one_line(str(error))}") from None
    if not found:
        raise RunFolderError(f"{checkpoint} is no whole checkpoint of a run: {TRAINED_WEIGHTS} has no files")
    return found


def refuse_other_weights(checkpoint: Path, trained: Mapping[str, Tensor]) -> None:
    """Raise RunFolderError if a checkpoint has other weights than `trained`, by name and shape, or cannot be read."""
    own = {name: tuple(tensor.shape) for name, tensor in trained.items()}
    stored = {name: one.shape for name, one in stored_weights(checkpoint).items()}
    if odd := [name for name in sorted(own.keys() | stored.keys()) if own.get(name) != stored.get(name)]:
        name = odd[0].removeprefix(INSIDE_POLICY)
        raise RunFolderError(f"{checkpoint} was trained with other parameters (first difference: {name}): same config?")


def load_trained(checkpoint: Path, trained: Mapping[str, Tensor]) -> None:
    """Fill `trained`, the weights of a model by their names in the policy, in place with those of a checkpoint.

    Of a DTensor this rank's part is filled, and no more than that is read.

    Raises:
        RunFolderError: the checkpoint has other weights, or cannot be read.
    """
    refuse_other_weights(checkpoint, trained)
    try:
        if (checkpoint / OLD_TRAINED_WEIGHTS).is_file():
            for name, tensor in load_file(checkpoint / OLD_TRAINED_WEIGHTS).items():
                trained[name].copy_(tensor)
        else:
            load_parts(checkpoint / TRAINED_WEIGHTS, trained)
    except (OSError, ValueError, SafetensorError) as error:
        raise RunFolderError(f"{checkpoint} cannot be read: {one_line(str(error))}") from None
