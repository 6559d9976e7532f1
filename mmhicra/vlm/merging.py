"""`mmhicra merge`: the whole model folder that an adapter, or a checkpoint that keeps adapters only, stands for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig

from mmhicra.config import ModelConfig
from mmhicra.core.errors import UserError, one_line
from mmhicra.vlm.adapter_folder import base_of, read_description
from mmhicra.vlm.exporting import config_of, find_checkpoint, new_folder, write_model
from mmhicra.vlm.loading import load_policy, resolve_model
from mmhicra.vlm.saving import save_model


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
    with new_folder(Path(out)) as partial:
        checkpoint = find_checkpoint(Path(source))
        if checkpoint is not None:
            options = config_of(checkpoint).model
            if not options.has_adapters:
                raise UserError(f"{checkpoint} was trained without adapters and is a whole model: name it as it is")
            options = options.model_copy(update={"path": base}) if base else options
            write_model(checkpoint, options, partial, half=options.precision == "bf16")
        else:
            options = _adapter_options(str(source), base)
            model = load_policy(options)
            save_model(model.model, model.processor, partial, half=options.precision == "bf16")
    return Merged(checkpoint or Path(source), options.path, Path(out))


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
