"""Checkpoints: a Hugging Face folder that loads anywhere, with `trainer_state/` for an exact resume.

    step_000050/
      config.json, model.safetensors, tokenizer and processor files    `from_pretrained` and vLLM take it as it is
      adapter/         with LoRA: the adapters alone; with `log.checkpoint_model: adapter` instead of the files above
      trainer_state/   trainable/part_00001.safetensors, ...           the weights that are trained, a file of each rank
                       optimizer/part_00001.safetensors, optimizer.json
                       random.safetensors, state.json
      manifest.json    a checksum of every file

Any number of ranks goes on from what any number has written: `checkpoint_writer` writes, this file reads. No file is a
pickle, and equal states give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmhicra.core.errors import RunFolderError, one_line
from mmhicra.core.manifest import STATE, STATE_FILE, TIMED
from mmhicra.core.tensor_files import DTYPES
from mmhicra.core.tensor_parts import load_parts, parts_in
from mmhicra.train.distributed.sharding import restore_states
from mmhicra.train.loop.checkpoint_writer import OPTIMIZER, OPTIMIZER_FACTS, RANDOM
from mmhicra.train.loop.staging import moments_of, trained_of
from mmhicra.train.trainer import Trainer
from mmhicra.vlm.trained_weights import OLD_TRAINED_WEIGHTS, load_trained


def restore_checkpoint(path: Path, trainer: Trainer) -> dict[str, Any]:
    """Put the trainer where it was when `path` was written; returns the state given to `save_checkpoint`.

    Raises:
        RunFolderError: the checkpoint does not fit the configured model, or this version.
    """
    state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    missing = [name for name in ("step", "schedule", "collector", "method", TIMED) if name not in state]
    if missing:
        raise RunFolderError(f"{path} was written by another version of mmhicra: it has no {missing[0]}")
    policy = trainer.unwrapped
    if (path / OLD_TRAINED_WEIGHTS).is_file():
        restore_old(path, policy, trainer.optimizer)
    else:
        restore_parts(path, policy, trainer.optimizer)
        restore_random(load_file(path / RANDOM))
    trainer.schedule.load_state_dict(state["schedule"])
    trainer.collector.restore(state["collector"])
    trainer.step_number = state["step"]
    restore_method(trainer, state["method"], path)
    trainer.collector.engine.sync(policy.model)
    times = state.pop(TIMED)
    return {**state, "seconds": times["phases"], "wall_seconds": times["wall"]}


def restore_parts(path: Path, policy: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load trained weights and the optimizer's state from the checkpoint at `path`: on each rank what it holds itself.

    Raises:
        RunFolderError: they are those of another model, or cannot be read.
    """
    trained = trained_of(policy)
    load_trained(path, {name: parameter.detach() for name, parameter in trained.items()})
    try:
        facts = json.loads((path / OPTIMIZER_FACTS).read_text(encoding="utf-8"))
        stored = parts_in(path / OPTIMIZER)
        tensors = {name: _place_for(name, one.dtype, trained, optimizer) for name, one in stored.items()}
        load_parts(path / OPTIMIZER, tensors)
    except (OSError, ValueError, KeyError) as error:
        raise RunFolderError(f"{path} cannot be read ({one_line(str(error))}): restore it, or remove it") from error
    restore_optimizer(path, trained, optimizer, tensors, facts)


def _place_for(
    name: str, dtype: torch.dtype, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> Tensor:
    """Where `PART.NAME` of the optimizer's state is loaded to: the tensor that is there, or one like the weight."""
    part, _, weight = name.partition(".")
    there = optimizer.state.get(trained[weight], {}).get(part)
    return torch.empty_like(trained[weight].detach(), dtype=dtype) if there is None else there


def restore_optimizer(
    path: Path,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> None:
    """Give the optimizer the state that `staging.moments_of` and `staging.optimizer_facts` took.

    Raises:
        RunFolderError: its groups hold other weights.
    """
    names = {id(parameter): name for name, parameter in trained.items()}
    if odd := sorted(moments_of(trained, optimizer).keys() - tensors.keys()):
        raise RunFolderError(f"{path} is of an optimizer of another kind (it has no {odd[0]}): same config?")
    for group, saved in zip(optimizer.param_groups, facts["groups"], strict=False):
        if [names[id(parameter)] for parameter in group["params"]] != saved["weights"]:
            raise RunFolderError(f"{path} has other groups of weights in its optimizer: same config?")
        options = {key: value for key, value in saved.items() if key != "weights"}
        group.update({k: tuple(v) if isinstance(group.get(k), tuple) else v for k, v in options.items()})
    on_device = {id(p) for g in optimizer.param_groups if g.get("fused") or g.get("capturable") for p in g["params"]}
    for name, values in facts["values"].items():
        parameter = trained[name]
        device = parameter.device if id(parameter) in on_device else "cpu"
        optimizer.state[parameter].update({part: restored_value(one, device) for part, one in values.items()})
    for name, tensor in tensors.items():
        part, _, weight = name.partition(".")
        optimizer.state[trained[weight]][part] = tensor


def restored_value(value: Any, device: torch.device | str) -> Any:
    """A single value of the optimizer's state from JSON."""
    if isinstance(value, dict):
        return torch.tensor(value["value"], dtype=DTYPES[value["dtype"]], device=device)
    return value


def restore_old(path: Path, policy: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load what mmhicra wrote before ranks wrote their own parts: whole states in one file each.

    Raises:
        RunFolderError: they are those of another model.
    """
    weights, own = load_file(path / OLD_TRAINED_WEIGHTS), trained_of(policy).keys()
    if odd := sorted(own ^ weights.keys()):
        raise RunFolderError(f"{path} was trained with other parameters (first difference: {odd[0]}): same config?")
    restore_states(policy, optimizer, weights, torch.load(path / STATE / "optimizer.pt", weights_only=True))
    random = torch.load(path / STATE / "random.pt", weights_only=True)
    restore_random({"cpu": random["cpu"], **{f"cuda.{n}": state for n, state in enumerate(random["cuda"])}})


def restore_method(trainer: Trainer, state: dict[str, Any], path: Path) -> None:
    """Take up the method where it was.

    Raises:
        RunFolderError: the gram library is not the one that the checkpoint was trained with.
    """
    library = trainer.credit_assigner.matcher.gram_library
    if state["grams"]["hash"] != library.content_hash:
        raise RunFolderError(
            f"{path} was trained with other grams ({state['grams']['count']}, not {len(library)}; {library.name}): "
            "restore the file that hicra.grams names, or start a new run"
        )
    trainer.credit_assigner.restore(state["crediting"])
    trainer.anchor, trainer.first = state["siren_anchor"], state["first"]
    trainer.updates.restore(state.get("updates", {}))  # older checkpoints have none


def restore_random(states: Mapping[str, Tensor]) -> None:
    """Set torch's global generators, those of the GPUs that are there."""
    torch.set_rng_state(states["cpu"])
    for number in range(torch.cuda.device_count()):
        if (state := states.get(f"cuda.{number}")) is not None:
            torch.cuda.set_rng_state(state, number)
