"""`mmhicra doctor --model X`: whether a model folder or hub id will work, and how to mend it, without a configuration.

Weights are never read, only their names, types and shapes: it takes seconds for a model of any size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from huggingface_hub import get_safetensors_metadata
from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError, OfflineModeIsEnabled
from safetensors import safe_open

import mmhicra
from mmhicra.config import FreezeConfig, LoraConfig, ModelConfig, RunConfig
from mmhicra.config.loading import build_config
from mmhicra.core.errors import UserError
from mmhicra.doctor.capacity import size_text
from mmhicra.doctor.devices import find_devices
from mmhicra.doctor.doctor import Progress
from mmhicra.doctor.findings import CheckResult, Grid, Remedy, Report
from mmhicra.doctor.problems import Reader
from mmhicra.doctor.template import check_template
from mmhicra.train.update.load import capacity_on, load_of
from mmhicra.train.update.memory_plan import plan_memory
from mmhicra.vlm.adapter_folder import fitted_name
from mmhicra.vlm.loading import LoadedProcessor, load_processor
from mmhicra.vlm.model_folder import check_weights, unexpected, weight_files
from mmhicra.vlm.shape import empty_model, shape_of
from mmhicra.vlm.special_tokens import control_token_ids

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""What instructions and rewards of reasoning models are written in."""
WAYS: dict[str, dict[str, Any]] = {
    "all weights but the vision side, fp32": {},
    "all weights but the vision side, bf16": {"precision": "bf16"},
    "LoRA 64 on the language model, bf16": {"precision": "bf16", "lora": LoraConfig()},
    "LoRA 64 over nf4 (model.quantize), bf16": {"precision": "bf16", "lora": LoraConfig(), "quantize": "nf4"},
    "LoRA 64 all-linear, vision too, bf16": {
        "precision": "bf16",
        "lora": LoraConfig(targets="all-linear"),
        "freeze": FreezeConfig(vision_tower=False, merger=False),
    },
}
"""What is trained, with full activation checkpointing, and the fields of `model` that say so."""
PROMPT, RESPONSE = 1024, 1024
"""Tokens of the sequences that the memory plan is made for."""


class ModelDoctor:
    """The checks of one model.

    Args:
        model: `model.path` and the like.
        progress: told which check is being made.
    """

    def __init__(self, model: ModelConfig, progress: Progress = lambda title, done, total: None) -> None:
        self.model = model
        self.config = RunConfig(model=model)
        self.progress = progress
        self.loaded: LoadedProcessor | None = None

    def run(self) -> Report:
        """Make every check that can be made."""
        folder = self._made("model", "Model folder", self.check_folder)
        checks = [folder]
        for name, title, make in (
            ("weights", "Weights, by their names and shapes", self.check_weights),
            ("template", "Chat template", self.check_prompt),
            ("tokens", "Tokens", self.check_tokens),
            ("memory", "Memory for training", self.check_memory),
        ):
            because = "" if self.loaded is not None else "Model folder: has a fault"
            checks.append(CheckResult(name, title, because=because) if because else self._made(name, title, make))
        start = f"mmhicra train --config CONFIG --set model.path={self.model.path}"
        return Report(self.model.path, mmhicra.__version__, checks, start)

    def _made(self, name: str, title: str, make: Any) -> CheckResult:
        self.progress(title, 0, 0)
        check = CheckResult(name, title)
        try:
            make(check)
        except UserError as refusal:
            text = str(refusal)
            check.blame(title.lower(), text, Remedy(words=text.rpartition(": ")[2]))
        return check

    def check_folder(self, check: CheckResult) -> None:
        """Everything of the model but its weights."""
        loaded = load_processor(self.model)
        self.empty = empty_model(loaded.config, loaded.family)
        self.loaded = loaded
        side = loaded.family.image_factor(loaded.config)
        check.facts = {"path": loaded.path, "family": loaded.family.name, "architecture": loaded.family.architecture}
        check.summary = f"{loaded.family.architecture}, family {loaded.family.name}, {side}x{side} pixels a token"

    def check_weights(self, check: CheckResult) -> None:
        """Compare what the files hold with what the architecture has."""
        assert self.loaded is not None
        path = self.loaded.path
        if Path(path).is_dir():
            check_weights(path, Path(path), self.loaded.config.to_dict())
            held = shapes_in(Path(path))
        else:
            found = shapes_on_hub(path)
            if found is None:
                check.because = f"the hub does not say what the files of {path} hold: fetch it, and name the folder"
                return
            held = found
        compare_weights(check, self.empty, held)

    def check_prompt(self, check: CheckResult) -> None:
        """The template's own check, and one rendered prompt."""
        assert self.loaded is not None
        made = check_template(self.config, self.loaded)
        check.summary, check.facts, check.notes = made.summary, made.facts, made.notes
        check.faults, check.doubts = made.faults, made.doubts
        if chat := made.facts.get("chat"):
            check.grids = [Grid("a prompt", ("",), [[line] for line in str(chat).splitlines()])]
            token = getattr(self.loaded.processor, "image_token", None)
            if token and token not in str(chat):
                check.blame(
                    "no image in the prompt",
                    f"the chat template of {self.model.path} writes no {token} for an image, which is not seen then",
                    Remedy(words=f"fetch the template of this very model again into {self.loaded.path}"),
                )

    def check_tokens(self, check: CheckResult) -> None:
        """Tokens that vanish from a response before it is scored."""
        assert self.loaded is not None
        tokenizer = self.loaded.tokenizer
        control = control_token_ids(tokenizer)
        hidden = [tag for tag in TAGS if set(tokenizer.encode(tag, add_special_tokens=False)) & set(control)]
        single = [tag for tag in TAGS if len(tokenizer.encode(tag, add_special_tokens=False)) == 1]
        check.facts = {"vocabulary": len(tokenizer), "tags_of_one_token": single, "hidden_tags": hidden}
        check.summary = f"{len(tokenizer):,} tokens; of one token: {', '.join(single) or 'none of the tags'}"
        if hidden:
            check.blame(
                "hidden tags",
                f"{', '.join(hidden)} are control tokens of {self.model.path}: they vanish from a response before the "
                "reward reads it",
                Remedy(words='add them as plain tokens ("special": false in tokenizer.json), or use other tags'),
            )

    def check_memory(self, check: CheckResult) -> None:
        """What the ways to train take, whatever the data."""
        assert self.loaded is not None
        devices = find_devices()
        capacity = capacity_on(devices, 1)
        rows: list[list[str]] = []
        for words, changes in WAYS.items():
            config = _plan_config(self.model, changes)
            shape = shape_of(self.empty, self.loaded.family, config.model)
            plan = plan_memory(shape, load_of(config, shape, _NoData(config), devices[0], 1))
            rows.append([words, f"{shape.trained:,}", size_text(plan.total("update")), size_text(plan.peak)])
            check.facts[words] = {"trained": shape.trained, "update": plan.total("update"), "peak": plan.peak}
        check.grids = [Grid("", ("what is trained", "values", "update", "peak"), rows)]
        shape = shape_of(self.empty, self.loaded.family, self.model)
        check.summary = (
            f"{shape.parameters:,} parameters; {size_text(capacity)} can be used here ({devices[0].name}); for prompts "
            f"and responses of {PROMPT} tokens, 8 of them, with full activation checkpointing"
        )
        if all(plan["peak"] > capacity for plan in check.facts.values()):
            check.doubts.append("none of these fits here: a larger or another device, or a smaller model")


class _NoData(Reader):
    """Stands for data whose prompts are all as long as they may be."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config, None, cast(Any, None))


def _plan_config(model: ModelConfig, changes: Mapping[str, Any]) -> RunConfig:
    """A run of one prompt at a time, eight responses to it."""
    own = model.model_copy(update={"checkpointing": "full", **changes})
    tree = {
        "model": own.model_dump(),
        "data": {"max_prompt_tokens": PROMPT},
        "rollout": {"n": 8, "max_sequences": 8, "max_new_tokens": RESPONSE},
        "train": {"tokens_per_micro_batch": 8 * PROMPT},
        "eval": {"problems": 0},
    }
    return build_config(tree)


def shapes_in(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every weight in a folder's safetensors files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        with safe_open(str(file), framework="pt") as weights:
            shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    return shapes


def shapes_on_hub(path: str) -> dict[str, tuple[int, ...]] | None:
    """The same of a hub id, without fetching the files; None if the hub cannot say."""
    with suppress(HfHubHTTPError, NotASafetensorsRepoError, OfflineModeIsEnabled, OSError):
        metadata = get_safetensors_metadata(path)
        files = metadata.files_metadata.values()
        return {name: tuple(tensor.shape) for file in files for name, tensor in file.tensors.items()}
    return None


def compare_weights(check: CheckResult, empty: Any, held: Mapping[str, Sequence[int]]) -> None:
    """Blame weights that are missing, left over, or of another shape than the architecture's.

    Args:
        check: gets summary, facts and faults.
        empty: the model without its weights.
        held: name in the files -> shape; names of earlier transformers are understood.
    """
    wanted = {name: tuple(parameter.shape) for name, parameter in empty.named_parameters()}
    known = {**wanted, **{name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}}
    found = {fitted_name(name, known): tuple(shape) for name, shape in held.items()}
    missing = sorted(wanted.keys() - found.keys())
    surplus = unexpected([name for name in found if name not in known])
    reshaped = sorted(name for name in found.keys() & known.keys() if found[name] != known[name])
    check.facts = {"held": len(found), "missing": missing, "unexpected": surplus, "reshaped": reshaped}
    check.summary = f"{len(found)} weights, {sum(math.prod(shape) for shape in found.values()):,} values"
    fetch = Remedy(words="fetch the folder again, or save the whole model (save_pretrained)")
    for kind, names, words in (
        ("missing weights", missing, "are missing"),
        ("unexpected weights", surplus, "have no place in the model: merge or remove them"),
        ("weights of another shape", reshaped, "are of another shape than config.json says"),
    ):
        if names:
            check.blame(kind, f"{len(names)} weights {words}, e.g. {', '.join(names[:3])}", fetch)
