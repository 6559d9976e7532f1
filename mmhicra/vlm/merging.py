"""`mmhicra merge`: the whole model folder that an adapter, or a checkpoint that keeps adapters only, stands for."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig

from mmhicra.config import ModelConfig, RunConfig
from mmhicra.config.loading import build_config, read_yaml
from mmhicra.core.errors import UserError, one_line
from mmhicra.core.files import PARTIAL, sync_tree, writing
from mmhicra.core.manifest import STATE_FILE, damage
from mmhicra.core.run_folder import RunFolder
from mmhicra.core.step_names import step_of
from mmhicra.vlm.adapter_folder import base_of, read_description
from mmhicra.vlm.loading import LoadedModel, load_policy, put_trained, resolve_model
from mmhicra.vlm.saving import ADAPTER_FOLDER, save_model

WAY_OUT = "free the disk or choose another --out"


@dataclass(frozen=True)
class Merged:
    """What was written.

    Attributes:
        source: the adapter or checkpoint that was merged.
        base: the model it was merged into.
        out: the model folder.
    """

    source: Path
    base: str
    out: Path


def merge(source: str | Path, out: str | Path, base: str | None = None) -> Merged:
    """Write the model folder of an adapter.

    Of a run it is what a checkpoint with `log.checkpoint_model: full` holds, to the bit; of an adapter alone the sum is
    computed in float32 and written in the type that the base model declares.

    Args:
        source: a run (its newest checkpoint), a checkpoint, the `adapter` folder in one, or an adapter of anybody's.
        out: the folder to write; nothing may be there.
        base: the model under the adapter, instead of the one that run or adapter names.

    Raises:
        UserError: something is missing, damaged, or already there.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is already there: name a folder that is not")
    checkpoint = _checkpoint_of(Path(source))
    if checkpoint is not None:
        options = _options_of(checkpoint, base)
        model = load_policy(options)
        put_trained(model, checkpoint)
    else:
        options = _adapter_options(str(source), base)
        model = load_policy(options)
    _write(model, out, half=options.precision == "bf16")
    return Merged(checkpoint or Path(source), options.path, out)


def _checkpoint_of(source: Path) -> Path | None:
    """The checkpoint of ours that `source` means; None if it is an adapter of somebody's."""
    for folder in (source, source.parent) if source.name == ADAPTER_FOLDER else (source,):
        if (folder / STATE_FILE).is_file():
            return folder
    run = RunFolder(source)
    if not run.config.is_file():
        return None
    newest = run.latest_checkpoint()
    if newest is None:
        raise UserError(f"{source} is a run without a checkpoint: nothing to merge")
    return newest


def _options_of(checkpoint: Path, base: str | None) -> ModelConfig:
    """The model that a checkpoint's run trained."""
    step = step_of(checkpoint.name)
    if step is not None and (reason := damage(checkpoint, step)):
        raise UserError(f"{checkpoint} cannot be used: {reason}")
    file = checkpoint.parent.parent / "config.yaml"
    if not file.is_file():
        raise UserError(
            f"{checkpoint}: the configuration of its run, {file}, is not there: merge its {ADAPTER_FOLDER} from "
            "another place, with --base"
        )
    config: RunConfig = build_config(read_yaml(file))
    if not config.model.has_adapters:
        raise UserError(f"{checkpoint} was trained without adapters and is a whole model: name it as it is")
    return config.model.model_copy(update={"path": base}) if base else config.model


def _adapter_options(adapter: str, base: str | None) -> ModelConfig:
    """An adapter merged into its base, in the type that the base has."""
    path = base or base_of(read_description(adapter))
    if not path:
        raise UserError(f"{adapter} does not name its base model: name it with --base MODEL")
    try:
        declared = AutoConfig.from_pretrained(resolve_model(path)).dtype
    except UserError as refusal:
        raise UserError(f"{refusal}; it is the base that {adapter} names: name another with --base MODEL") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"the base model {path} of {adapter} cannot be read ({one_line(str(error), 160)}): name it with --base"
        ) from None
    precision = "bf16" if str(declared) == "torch.bfloat16" else "fp32"
    return ModelConfig(path=path, adapter=adapter, adapter_mode="merge", precision=precision)


def _write(model: LoadedModel, out: Path, *, half: bool) -> None:
    """Beside its name first, so that half a folder never has it."""
    partial = out.with_name(out.name + PARTIAL)
    with writing(out, WAY_OUT):
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        save_model(model.model, model.processor, partial, half=half)
        sync_tree(partial)
        if out.exists():
            out.rmdir()
        partial.rename(out)
