"""What a checkpoint is going to hold, taken from a trainer between two steps: this rank's part of it.

Copied to the CPU, it can be written while training goes on; what is not trained never changes and is not copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmhicra.core.files import json_text
from mmhicra.core.manifest import TIMED, pack_times
from mmhicra.core.tensor_files import NAMES
from mmhicra.core.tensor_parts import own_parts
from mmhicra.train.trainer import Trainer
from mmhicra.train.update.updates import refuse_nonfinite_state
from mmhicra.vlm.saving import ModelShards, adapter_state, shards_of


@dataclass(frozen=True)
class Progress:
    """Where a trainer is between two steps, beside its weights and its optimizer: what a resume restores.

    Attributes:
        step: the last step that was taken.
        facts: JSON-able: schedule, position in the data, what the method has learned.
        random: the states of torch's generators.
    """

    step: int
    facts: dict[str, Any]
    random: dict[str, Any]


@dataclass(frozen=True)
class Staged:
    """This rank's part of a checkpoint, or of the weights alone.

    Attributes:
        step: after which it is.
        model: files of the Hugging Face folder; None without one.
        adapter: all weights of the adapters, by their names in peft's wrapper; None without any.
        resume: what a resume needs; None for the weights alone.
    """

    step: int
    model: ModelShards | None
    adapter: dict[str, Tensor] | None
    resume: Resume | None

    @property
    def bytes(self) -> int:
        """What the tensors take on disk, about."""
        files = self.model.files.values() if self.model is not None else ()
        parts = list((self.adapter or {}).values())
        if self.resume is not None:
            parts += [*self.resume.weights.values(), *self.resume.moments.values()]
        own = [part.to_local() if isinstance(part, DTensor) else part for part in parts]
        return sum(one.bytes for file in files for one in file.values()) + sum(part.nbytes for part in own)


@dataclass(frozen=True)
class Resume:
    """This rank's part of what a resume needs.

    Attributes:
        progress: where the trainer was.
        state: the text of `state.json`.
        weights: name -> this rank's part of what is trained.
        moments: part of the state and name of the weight (`exp_avg.NAME`) -> this rank's part of it.
        optimizer: the rest of the optimizer's state, JSON-able.
    """

    progress: Progress
    state: str
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    optimizer: dict[str, Any]


def stage(
    trainer: Trainer, state: Mapping[str, Any], progress: Progress | None = None, *, copied: bool = True
) -> Staged:
    """Take what a checkpoint holds from `trainer`. Every rank must call it.

    Args:
        trainer: what to save.
        state: JSON-able facts of the run that a resume needs.
        progress: where the trainer was when it had these weights; None is now.
        copied: whether training goes on before it is written.

    Raises:
        NotFinite: a trained weight or the optimizer's state is not finite.
    """
    policy, ranks, optimizer = trainer.unwrapped, trainer.ranks, trainer.optimizer
    refuse_nonfinite_state(policy, optimizer, ranks)
    progress = progress or progress_of(trainer)
    keep = copy_to_cpu if copied else Tensor.detach
    trained = trained_of(policy)
    weights = {name: keep(p) for name, p in own_parts(trained, ranks.index, ranks.count).items()}
    moments = own_parts(moments_of(trained, optimizer), ranks.index, ranks.count)
    kept = {id(trained[name]): tensor for name, tensor in weights.items()}
    model, adapter = _stage_model(trainer, lambda one: kept[id(one)] if id(one) in kept else keep(one))
    resume = Resume(
        progress=progress,
        state=state_text(state, progress),
        weights=weights,
        moments={name: keep(tensor) for name, tensor in moments.items()},
        optimizer=optimizer_facts(trained, optimizer),
    )
    return Staged(progress.step, model, adapter, resume)


def stage_weights(trainer: Trainer, *, copied: bool = True) -> Staged:
    """Take the weights alone; arguments and errors as of `stage`."""
    refuse_nonfinite_state(trainer.unwrapped, trainer.optimizer, trainer.ranks)
    model, adapter = _stage_model(trainer, copy_to_cpu if copied else Tensor.detach)
    return Staged(trainer.step_number, model, adapter, resume=None)


def _stage_model(
    trainer: Trainer, keep: Callable[[nn.Parameter], Tensor]
) -> tuple[ModelShards | None, dict[str, Tensor] | None]:
    """The Hugging Face folder and the adapters, as the configuration asks."""
    policy, ranks, config = trainer.unwrapped, trainer.ranks, trainer.config
    model, adapter = None, None
    if config.log.checkpoint_model == "full":
        half = config.model.precision == "bf16"
        model = shards_of(policy.model, half=half, rank=ranks.index, ranks=ranks.count, keep=keep)
    if isinstance(policy.model, PeftModel):
        adapter = adapter_state(policy.model, keep)
        adapter = adapter if ranks.is_main else {}
    return model, adapter


def copy_to_cpu(tensor: Tensor) -> Tensor:
    """A copy on the CPU; of a DTensor, of this rank's part."""
    return tensor.detach().to("cpu", copy=True)


def trained_of(policy: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}


def moments_of(trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors as `PART.NAME`; those of a single value are in `optimizer_facts`."""
    return {
        f"{part}.{name}": value
        for name, parameter in trained.items()
        for part, value in sorted(optimizer.state.get(parameter, {}).items())
        if isinstance(value, Tensor) and value.ndim
    }


def optimizer_facts(trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's options by group, and its single values (steps) by weight, JSON-able."""
    names = {id(parameter): name for name, parameter in trained.items()}
    groups = [
        {**{key: value for key, value in group.items() if key != "params"}, "weights": _names(group, names)}
        for group in optimizer.param_groups
    ]
    values = {
        name: {
            part: {"value": value.item(), "dtype": NAMES[value.dtype]} if isinstance(value, Tensor) else value
            for part, value in sorted(optimizer.state.get(parameter, {}).items())
            if not isinstance(value, Tensor) or not value.ndim
        }
        for name, parameter in trained.items()
        if parameter in optimizer.state
    }
    return deepcopy({"groups": groups, "values": values})


def _names(group: Mapping[str, Any], names: Mapping[int, str]) -> list[str]:
    return [names[id(parameter)] for parameter in group["params"]]


def progress_of(trainer: Trainer) -> Progress:
    """Where `trainer` is now. Every rank must call it."""
    facts = {
        "schedule": trainer.schedule.state_dict(),
        "collector": trainer.collector.state(),
        "method": method_state(trainer),
    }
    return Progress(trainer.step_number, deepcopy(facts), random_states())


def state_text(state: Mapping[str, Any], progress: Progress) -> str:
    """`state.json`: the run's facts and the trainer's, times apart."""
    times = pack_times({"phases": state["seconds"], "wall": state["wall_seconds"]})
    facts = {name: value for name, value in state.items() if name not in ("seconds", "wall_seconds")}
    return json_text({**facts, "step": progress.step, **progress.facts, TIMED: times}, indent=1)


def method_state(trainer: Trainer) -> dict[str, Any]:
    """What the method has learned or measured so far, and which grams it goes by."""
    library = trainer.credit_assigner.matcher.gram_library
    return {
        "grams": {"name": library.name, "count": len(library), "hash": library.content_hash},
        "crediting": trainer.credit_assigner.state(),
        "siren_anchor": trainer.anchor,
        "updates": trainer.updates.state(),
        "first": trainer.first,
    }


def random_states() -> dict[str, Any]:
    """The states of torch's global generators."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
