"""Checkpoints: a Hugging Face folder that loads anywhere, with `trainer_state/` for an exact resume.

    step_000050/
      config.json, model.safetensors, tokenizer and processor files    `from_pretrained` and vLLM take it as it is
      adapter/         with LoRA: the adapters alone; with `log.checkpoint_model: adapter` instead of the files above
      trainer_state/   trainable.safetensors (float32), optimizer.pt, state.json, random.pt
      manifest.json    a checksum of every file

The folder is written beside its final name, synced, and renamed when whole: neither a kill nor a power cut leaves half
a checkpoint under its name.
"""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn

from mmhicra.core.errors import RunFolderError
from mmhicra.core.files import PARTIAL, json_text, sync_tree, writing
from mmhicra.core.manifest import STATE_FILE, TIMED, pack_times, write_manifest
from mmhicra.core.run_folder import RunFolder
from mmhicra.train.distributed.sharding import restore_states, whole_optimizer_state, whole_state
from mmhicra.train.trainer import Trainer
from mmhicra.train.update.updates import refuse_nonfinite_state
from mmhicra.vlm.loading import INSIDE_POLICY, STATE, TRAINED_WEIGHTS
from mmhicra.vlm.saving import ADAPTER_FOLDER, save_model


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


def progress_of(trainer: Trainer) -> Progress:
    """Where `trainer` is now. Every rank must call it."""
    facts = {
        "schedule": trainer.schedule.state_dict(),
        "collector": trainer.collector.state(),
        "method": method_state(trainer),
    }
    return Progress(trainer.step_number, deepcopy(facts), random_states())


def save_checkpoint(
    folder: RunFolder,
    trainer: Trainer,
    processor: Any,
    state: dict[str, Any],
    keep: int,
    best: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the checkpoint of the trainer's step and drop all but the newest `keep`. Every rank must call it.

    Args:
        folder: the run folder.
        trainer: what to save.
        processor: saved beside the model.
        state: JSON-able facts of the run that a resume needs, kept in `state.json`.
        keep: how many checkpoints stay.
        best: the step of one that stays beside them.
        progress: where the trainer was when it had these weights; None is now.

    Raises:
        NotFinite: a trained weight or the optimizer's state is not finite; nothing is written.
        RunFolderError: the disk is full or cannot be written.
    """
    policy = trainer.unwrapped
    refuse_nonfinite_state(policy, trainer.optimizer, trainer.ranks)
    adapted = isinstance(policy.model, PeftModel)
    weights = {name: p.detach().cpu() for name, p in trained_of(policy)} if adapted else whole_state(policy)
    moments = whole_optimizer_state(policy, trainer.optimizer)
    progress = progress or progress_of(trainer)
    if not trainer.ranks.is_main:
        return
    trained = {name: weights[name] for name, _ in trained_of(policy)}
    model_weights = {name.removeprefix(INSIDE_POLICY): tensor for name, tensor in weights.items()}
    final = folder.checkpoint(progress.step)
    partial = final.with_name(final.name + PARTIAL)
    folder.sweep()
    with writing(partial):
        folder.checkpoints.mkdir(exist_ok=True)
        partial.mkdir()
        (partial / STATE).mkdir()
        if trainer.config.log.checkpoint_model == "full":
            half = trainer.config.model.precision == "bf16"
            save_model(policy.model, model_weights, processor, partial, half=half)
        if isinstance(policy.model, PeftModel):
            policy.model.save_pretrained(str(partial / ADAPTER_FOLDER))
        save_file(trained, partial / TRAINED_WEIGHTS)
        save_tensors(moments, partial / STATE / "optimizer.pt")
        save_tensors(progress.random, partial / STATE / "random.pt")
        (partial / STATE_FILE).write_text(state_text(state, progress), encoding="utf-8")
        write_manifest(partial)
        sync_tree(partial)
        folder.keep_checkpoint(partial, final)
        folder.prune_checkpoints(keep, best)


def trained_of(policy: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that are trained, with their names."""
    return [(name, parameter) for name, parameter in policy.named_parameters() if parameter.requires_grad]


def state_text(state: dict[str, Any], progress: Progress) -> str:
    """`state.json`: the run's facts and the trainer's, times apart."""
    times = pack_times({"phases": state["seconds"], "wall": state["wall_seconds"]})
    facts = {name: value for name, value in state.items() if name not in ("seconds", "wall_seconds")}
    return json_text({**facts, "step": progress.step, **progress.facts, TIMED: times}, indent=1)


def save_tensors(value: Any, path: Path) -> None:
    """`torch.save`, to equal bytes for equal values.

    Raises:
        OSError: the file cannot be written; torch would hide that behind errors of its own.
    """
    with path.open("wb") as file:
        recorded = _RecordedFile(file)
        try:
            torch.save(_unshared(value), cast(IO[bytes], recorded))
        except Exception:
            if recorded.error is not None:
                raise recorded.error from None
            raise


class _RecordedFile:
    """Remembers why a write failed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _unshared(value: Any) -> Any:
    """A copy in which pickle finds nothing twice but equal strings, and lists only: torch loads tuples as lists."""
    if isinstance(value, dict):
        return {_unshared(key): _unshared(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_unshared(item) for item in value]
    return sys.intern(value) if type(value) is str else value


def restore_checkpoint(path: Path, trainer: Trainer) -> dict[str, Any]:
    """Put the trainer where it was when `path` was written; returns the state given to `save_checkpoint`.

    Raises:
        RunFolderError: the checkpoint does not fit the configured model, or this version.
    """
    state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    missing = [name for name in ("step", "schedule", "collector", "method", TIMED) if name not in state]
    if missing:
        raise RunFolderError(f"{path} was written by another version of mmhicra: it has no {missing[0]}")
    weights = load_file(path / TRAINED_WEIGHTS)
    policy = trainer.unwrapped
    own = {name for name, _ in trained_of(policy)}
    if own != weights.keys():
        odd = sorted(own ^ weights.keys())[0]
        raise RunFolderError(f"{path} was trained with other parameters (first difference: {odd}): same config?")
    moments = torch.load(path / STATE / "optimizer.pt", weights_only=True)
    restore_states(policy, trainer.optimizer, weights, moments)
    restore_random(torch.load(path / STATE / "random.pt", weights_only=True))
    trainer.schedule.load_state_dict(state["schedule"])
    trainer.collector.restore(state["collector"])
    trainer.step_number = state["step"]
    restore_method(trainer, state["method"], path)
    trainer.collector.engine.sync(policy.model)
    times = state.pop(TIMED)
    return {**state, "seconds": times["phases"], "wall_seconds": times["wall"]}


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


def random_states() -> dict[str, Any]:
    """The states of torch's global generators."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def restore_random(states: dict[str, Any]) -> None:
    """Set torch's global generators."""
    torch.set_rng_state(states["cpu"])
    torch.cuda.set_rng_state_all(states["cuda"])
