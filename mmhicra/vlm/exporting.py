"""`mmhicra export`: the model folder of any checkpoint, tensor by tensor: no more than one is held at a time.

The model is made on the meta device, without values. A weight that was trained is read from the checkpoint's parts, any
other one from the model that the run began with; a layer with an adapter gets its values just before it is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import GenerationConfig

from mmhicra.config import ModelConfig, RunConfig
from mmhicra.config.loading import build_config, read_yaml
from mmhicra.core.errors import UserError
from mmhicra.core.files import PARTIAL, sync_tree, writing
from mmhicra.core.manifest import STATE, STATE_FILE, damage
from mmhicra.core.run_folder import RunFolder
from mmhicra.core.step_names import step_of
from mmhicra.core.tensor_files import Stored
from mmhicra.core.tensor_parts import load_parts, parts_in
from mmhicra.vlm.adapters import add_adapters
from mmhicra.vlm.family import unwrap
from mmhicra.vlm.loading import LoadedModel, LoadedProcessor, load_policy, load_processor, put_trained, resolve_model
from mmhicra.vlm.model_folder import weight_files
from mmhicra.vlm.saving import ADAPTER_FOLDER, ModelShards, described, disk_names, shards_in, shards_of, stored_names
from mmhicra.vlm.trained_weights import INSIDE_POLICY, OLD_TRAINED_WEIGHTS, TRAINED_WEIGHTS, refuse_other_weights
from mmhicra.vlm.weights import current_weight, plain_name

WAY_OUT = "free the disk or choose another --out"
MASTERS = f"{STATE}/optimizer"
"""In a checkpoint: where the float32 values of weights lie that were held in bfloat16, as `master.NAME`."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        checkpoint: that it was made of.
        out: the model folder, or the adapter's.
    """

    checkpoint: Path
    out: Path


def export(
    source: str | Path,
    out: str | Path | None = None,
    dtype: Literal["bf16", "fp32"] | None = None,
    adapter: Literal["merged", "apart"] = "merged",
    say: Say = lambda line: None,
) -> Exported:
    """Write the Hugging Face folder of a checkpoint, however many processes wrote it.

    Args:
        source: a run (its newest checkpoint), or a checkpoint of one.
        out: the folder to write; nothing may be there. None is `RUN-step_NNNNNN` beside the run.
        dtype: of the weights; None is that of `model.precision`.
        adapter: a run with adapters gives the merged model, or the adapter alone.
        say: is told of each file.

    Raises:
        UserError: something is missing, damaged, or already there.
    """
    checkpoint = find_checkpoint(Path(source))
    if checkpoint is None:
        raise UserError(f"{source} is neither a run nor a checkpoint of one: name one of them")
    config = config_of(checkpoint)
    run = checkpoint.resolve().parents[1]
    out = Path(out) if out is not None else run.with_name(f"{run.name}-{checkpoint.name}")
    with new_folder(out) as partial:
        if adapter == "apart":
            if not config.model.has_adapters:
                raise UserError(f"{checkpoint} was trained without adapters: drop --adapter apart")
            if dtype is not None:
                raise UserError("--dtype is of a model folder, and an adapter by itself is float32: drop one of both")
            shutil.copytree(checkpoint / ADAPTER_FOLDER, partial, dirs_exist_ok=True)
        else:
            half = (dtype or config.model.precision) == "bf16"
            write_model(checkpoint, config.model, partial, half=half, say=say)
    return Exported(checkpoint, out)


def find_checkpoint(source: Path) -> Path | None:
    """The checkpoint that a run, a checkpoint or the adapter in one means; None if it is none of these.

    Raises:
        UserError: it is a run without a checkpoint.
    """
    for folder in (source, source.parent) if source.name == ADAPTER_FOLDER else (source,):
        if (folder / STATE_FILE).is_file():
            return folder
    run = RunFolder(source)
    if not run.config.is_file():
        return None
    newest = run.latest_checkpoint()
    if newest is None:
        raise UserError(f"{source} is a run without a checkpoint: there is nothing to write a model of")
    return newest


def config_of(checkpoint: Path) -> RunConfig:
    """The configuration of the run that wrote a checkpoint.

    Raises:
        UserError: the checkpoint is damaged, or its run's `config.yaml` is not there.
    """
    step = step_of(checkpoint.name)
    if step is not None and (reason := damage(checkpoint, step)):
        raise UserError(f"{checkpoint} cannot be used: {reason}")
    file = checkpoint.resolve().parents[1] / "config.yaml"
    if not file.is_file():
        raise UserError(
            f"{checkpoint}: the configuration of its run, {file}, is not there: put the checkpoint back into its run, "
            f"or merge its {ADAPTER_FOLDER} with `mmhicra merge --base`"
        )
    return build_config(read_yaml(file))


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into, which gets its name when it is whole.

    Raises:
        UserError: `out` is there, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is already there: name a folder that is not")
    partial = out.with_name(out.name + PARTIAL)
    with writing(out, WAY_OUT):
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        yield partial
        sync_tree(partial)
        if out.exists():
            out.rmdir()
        partial.rename(out)


def write_model(
    checkpoint: Path, options: ModelConfig, folder: Path, *, half: bool, say: Say = lambda line: None
) -> None:
    """Write the model folder of a checkpoint, adapters merged.

    A run that began with an adapter, with 4-bit weights or with a model of the hub is loaded whole for that, and so is
    one whose checkpoint is of an earlier version.

    Raises:
        UserError: the checkpoint or the model under it is not whole.
    """
    elsewhere = (checkpoint / OLD_TRAINED_WEIGHTS).is_file() or not Path(resolve_model(options.path)).is_dir()
    if elsewhere or options.adapter is not None or options.quantize is not None:
        loaded = load_policy(options)
        put_trained(loaded, checkpoint)
        if not half:
            load_masters(checkpoint, trained_tensors(loaded.model))
        shards = shards_of(loaded.model, half=half)
    else:
        loaded, places = empty_model(options)
        shards = lazy_shards(loaded.model, places, checkpoint, half=half)
    for name, content in described(loaded.model, loaded.processor, half=half).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    shards.write(folder, say)
    shards.write_index(folder)


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The weights that are trained, by their names in the policy."""
    return {INSIDE_POLICY + name: one.detach() for name, one in model.named_parameters() if one.requires_grad}


def load_masters(checkpoint: Path, trained: Mapping[str, Tensor]) -> None:
    """Fill those of `trained` that the run held in bfloat16 with the float32 values of which they were the rounding."""
    folder = checkpoint / MASTERS
    stored = parts_in(folder) if folder.is_dir() else {}
    masters = {f"master.{name}": tensor for name, tensor in trained.items() if f"master.{name}" in stored}
    if masters:
        load_parts(folder, masters)


@dataclass(frozen=True)
class Place:
    """Where a weight of the model lies that a run began with."""

    file: Path
    name: str


def empty_model(options: ModelConfig) -> tuple[LoadedModel, dict[str, Place]]:
    """The model of a local folder on the meta device, frozen or adapted as configured, and where its weights lie.

    Which weight goes where is asked of transformers: it is handed weights without values, and a parameter of the model
    that it makes shares its storage with the one that was put in its place.

    Raises:
        UserError: like `load_processor`; or weights are missing.
    """
    parts = load_processor(options)
    places: dict[str, Place] = {}
    without: dict[str, Tensor] = {}
    for file in weight_files(Path(parts.path), f"model.path {parts.path}"):
        with safe_open(str(file), framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a dict
                places[name] = Place(file, name)
                shape = weights.get_slice(name).get_shape()
                without[name] = torch.empty(shape, dtype=torch.float32, device="meta")
    base: Any = parts.family.model_class.from_pretrained(
        None,
        config=parts.config,
        state_dict=dict(without),
        dtype=torch.float32,
        device_map={"": "meta"},
    )
    base.generation_config = _generation_config(parts, base)
    of_storage = {_storage(tensor): places[name] for name, tensor in without.items()}
    found = {name: of_storage.get(_storage(tensor)) for name, tensor in base.state_dict().items()}
    model = base
    if options.lora is None:
        parts.family.freeze(base, options.freeze)
    else:
        model = add_adapters(base, parts.family, options.freeze, options.lora, seed=0)
    loaded = LoadedModel(parts.path, parts.config, parts.family, parts.processor, model)
    return loaded, {name: place for name, place in found.items() if place is not None}


def _generation_config(parts: LoadedProcessor, base: Any) -> Any:
    try:
        return GenerationConfig.from_pretrained(parts.path)
    except OSError:  # it has none, and keeps the one that its configuration makes
        return base.generation_config


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def lazy_shards(model: nn.Module, places: Mapping[str, Place], checkpoint: Path, *, half: bool) -> ModelShards:
    """The files of a model folder, whose tensors are read and merged when they are written.

    Args:
        model: from `empty_model`.
        places: where the weights lie that were not trained.
        checkpoint: that has those that were.
        half: weights become bfloat16.

    Raises:
        UserError: the checkpoint has other weights than the model.
    """
    trained = trained_tensors(model)
    refuse_other_weights(checkpoint, trained)
    masters = set() if half or not (checkpoint / MASTERS).is_dir() else parts_in(checkpoint / MASTERS).keys()
    base = unwrap(model)
    modules, own = dict(base.named_modules()), {**dict(base.named_parameters()), **dict(base.named_buffers())}
    in_policy = {id(one): INSIDE_POLICY + name for name, one in model.named_parameters()}
    in_folder = {id(one): plain_name(name) for name, one in own.items()}

    def values(empty: Tensor) -> Tensor:
        """Of a parameter of the empty model."""
        name, plain = in_policy.get(id(empty), ""), in_folder[id(empty)] or ""
        whole = torch.empty(empty.shape, dtype=empty.dtype)
        if f"master.{name}" in masters:
            load_parts(checkpoint / MASTERS, {f"master.{name}": whole})
        elif name in trained:
            load_parts(checkpoint / TRAINED_WEIGHTS, {name: whole})
        elif plain in places:
            with safe_open(str(places[plain].file), framework="pt") as weights:
                whole.copy_(weights.get_tensor(places[plain].name))
        else:
            raise UserError(f"the model that the run began with has no {plain}: fetch its folder again")
        return whole

    def weight(name: str) -> Tensor:
        """A weight as the model computes with it."""
        layer = name.removesuffix(".base_layer.weight")
        if layer == name:
            return values(own[name])
        with filled(modules[layer], values):
            return current_weight(modules, name, own[name])

    stored = {
        plain: Stored(
            torch.bfloat16 if half and tensor.is_floating_point() else tensor.dtype,
            tuple(tensor.shape),
            lambda name=name: weight(name),
        )
        for plain, (name, tensor) in stored_names(base).items()
    }
    names = disk_names(base, stored)
    if names is None:
        raise UserError(f"a {type(base).__name__} cannot be exported: its folders hold other tensors than it does")
    return shards_in({disk: stored[plain] for plain, disk in names.items()})


@contextmanager
def filled(layer: nn.Module, values: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Give a layer of an empty model its values in a `with` block."""
    places = [(module, name, one) for module in layer.modules() for name, one in module.named_parameters(recurse=False)]
    for module, name, parameter in places:
        setattr(module, name, nn.Parameter(values(parameter), requires_grad=False))
    try:
        yield
    finally:
        for module, name, parameter in places:
            setattr(module, name, parameter)
