"""Checkpoints: a Hugging Face folder that loads anywhere, with `trainer_state/` for an exact resume.

    step_000050/
      config.json, model.safetensors, tokenizer and processor files    `from_pretrained` and vLLM take it as it is
      trainer_state/   trainable.safetensors (float32), optimizer.pt, state.json, random.pt

The folder is written beside its final name and renamed when whole, so a kill never leaves half a checkpoint.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmhicra.config import ModelConfig
from mmhicra.refusals import RunFolderRefusal
from mmhicra.train.run_folder import PARTIAL, RunFolder, jsonable, writing
from mmhicra.train.sharding import restore_states, whole_optimizer_state, whole_state
from mmhicra.train.trainer import Trainer
from mmhicra.train.updates import refuse_nonfinite_state
from mmhicra.vlm.loading import INSIDE_POLICY, STATE, TRAINED_WEIGHTS


def save_checkpoint(
    folder: RunFolder, trainer: Trainer, processor: Any, state: dict[str, Any], keep: int, best: int | None = None
) -> None:
    """Write the checkpoint of the trainer's step and drop all but the newest `keep`. Every rank must call it.

    Args:
        folder: the run folder.
        trainer: what to save.
        processor: saved beside the model.
        state: JSON-able facts of the run that a resume needs, kept in `state.json`.
        keep: how many checkpoints stay.
        best: the step of one that stays beside them.

    Raises:
        NotFinite: a trained weight or the optimiser's state is not finite; nothing is written.
        RunFolderRefusal: the disk is full or cannot be written.
    """
    policy = trainer.unwrapped
    refuse_nonfinite_state(policy, trainer.optimizer, trainer.ranks)
    weights = whole_state(policy)
    moments = whole_optimizer_state(policy, trainer.optimizer)
    collected = trainer.collector.state()
    if not trainer.accelerator.is_main_process:
        return
    trained = {name: weights[name] for name, parameter in policy.named_parameters() if parameter.requires_grad}
    model_weights = {name.removeprefix(INSIDE_POLICY): tensor for name, tensor in weights.items()}
    whole = {
        **state,
        "step": trainer.step_number,
        "schedule": trainer.schedule.state_dict(),
        "collector": collected,
        "method": method_state(trainer),
    }
    final = folder.checkpoint(trainer.step_number)
    partial = final.with_suffix(PARTIAL)
    with writing(partial):
        for leftover in folder.checkpoints.glob(f"*{PARTIAL}"):
            shutil.rmtree(leftover)
        (partial / STATE).mkdir(parents=True)
        save_model(policy.model, model_weights, processor, partial, trainer.config.model)
        save_file(trained, partial / TRAINED_WEIGHTS)
        torch.save(moments, partial / STATE / "optimizer.pt")
        torch.save(random_states(), partial / STATE / "random.pt")
        (partial / STATE / "state.json").write_text(json.dumps(jsonable(whole), indent=1), encoding="utf-8")
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
    for old in sorted(folder.checkpoints.glob("step_*"))[:-keep]:
        if best is None or old != folder.checkpoint(best):
            shutil.rmtree(old)


def restore_checkpoint(path: Path, trainer: Trainer) -> dict[str, Any]:
    """Put the trainer where it was when `path` was written; returns the state given to `save_checkpoint`.

    Raises:
        RunFolderRefusal: the checkpoint does not fit the configured model.
    """
    state = json.loads((path / STATE / "state.json").read_text(encoding="utf-8"))
    weights = load_file(path / TRAINED_WEIGHTS)
    policy = trainer.unwrapped
    own = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    if own != weights.keys():
        odd = sorted(own ^ weights.keys())[0]
        raise RunFolderRefusal(f"{path} was trained with other parameters (first difference: {odd}): same config?")
    moments = torch.load(path / STATE / "optimizer.pt", weights_only=True)
    restore_states(policy, trainer.optimizer, weights, moments)
    restore_random(torch.load(path / STATE / "random.pt", weights_only=True))
    trainer.schedule.load_state_dict(state["schedule"])
    trainer.collector.restore(state["collector"])
    trainer.step_number = state["step"]
    restore_method(trainer, state["method"], path)
    trainer.collector.engine.sync(policy.model)
    return state


def method_state(trainer: Trainer) -> dict[str, Any]:
    """What the method has learned or measured so far, and which grams it goes by."""
    library = trainer.crediting.matcher.gram_library
    return {
        "grams": {"name": library.name, "count": len(library), "hash": library.content_hash},
        "crediting": trainer.crediting.state(),
        "siren_anchor": trainer.anchor,
        "updates": trainer.updates.state(),
        "first": trainer.first,
    }


def restore_method(trainer: Trainer, state: dict[str, Any], path: Path) -> None:
    """Take up the method where it was.

    Raises:
        RunFolderRefusal: the gram library is not the one that the checkpoint was trained with.
    """
    library = trainer.crediting.matcher.gram_library
    if state["grams"]["hash"] != library.content_hash:
        raise RunFolderRefusal(
            f"{path} was trained with other grams ({state['grams']['count']}, not {len(library)}; {library.name}): "
            "restore the file that hicra.grams names, or start a new run"
        )
    trainer.crediting.restore(state["crediting"])
    trainer.anchor, trainer.first = state["siren_anchor"], state["first"]
    trainer.updates.restore(state.get("updates", {}))  # older checkpoints have none


def random_states() -> dict[str, Any]:
    """The states of torch's global generators."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def restore_random(states: dict[str, Any]) -> None:
    """Set torch's global generators."""
    torch.set_rng_state(states["cpu"])
    torch.cuda.set_rng_state_all(states["cuda"])


def save_model(model: Any, weights: dict[str, Tensor], processor: Any, folder: Path, options: ModelConfig) -> None:
    """Write a Hugging Face folder; LoRA is merged into it, and also written alone under `adapter/`.

    Args:
        model: the transformers model, or peft's wrapper.
        weights: its whole state dict.
        processor: saved beside it.
        folder: where to.
        options: whether weights become bfloat16.
    """
    adapted = isinstance(model, PeftModel)
    base: Any = model.get_base_model() if adapted else model
    if adapted:
        weights = merged_state(base)
    if options.precision == "bf16":
        weights = {name: w.bfloat16() if w.is_floating_point() else w for name, w in weights.items()}
    base.save_pretrained(folder, state_dict=weights)
    if options.precision == "bf16":
        _declare_dtype(folder / "config.json", "bfloat16")
    processor.save_pretrained(folder)
    if adapted:
        model.save_pretrained(str(folder / "adapter"))


def merged_state(base: nn.Module) -> dict[str, Tensor]:
    """The state dict of `base` with adapters added in, under the names the model has without peft.

    Computed beside the live weights: merging in place and back would round them, and a run that saves
    a checkpoint would no longer equal one that does not.
    """
    state = {
        name.replace(".base_layer.", "."): tensor.detach()
        for name, tensor in base.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in base.named_modules():
        if isinstance(layer, LoraLinear):
            for adapter in layer.active_adapters:
                state[f"{name}.weight"] = state[f"{name}.weight"] + layer.get_delta_weight(adapter).detach()
    return state


def _declare_dtype(config: Path, dtype: str) -> None:
    tree = json.loads(config.read_text(encoding="utf-8"))
    for part in (tree, tree.get("text_config", {}), tree.get("vision_config", {})):
        if "dtype" in part:
            part["dtype"] = dtype
    config.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
