"""What of a configuration is left to the machine: the checkpointing that fits the memory that is free."""

from __future__ import annotations

from collections.abc import Callable

from accelerate import Accelerator

from mmhicra.config import ModelConfig, RunConfig
from mmhicra.core.memory import gpu_memory, machine_memory
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.train.update.load import Device, LargestData, capacity_on, load_of
from mmhicra.train.update.memory_plan import checkpointing_text, choose_checkpointing, plan_memory
from mmhicra.vlm.processing import PromptBuilder
from mmhicra.vlm.shape import empty_model, shape_of


def checkpointing_that_fits(
    config: RunConfig, prompts: PromptBuilder, accelerator: Accelerator, say: Callable[[str], None]
) -> ModelConfig:
    """`config.model` with `checkpointing: auto` replaced by what fits the memory that is free now; says what it is.

    The choice may differ when a run is resumed: no gradient depends on it. Every rank must call it; all get what the
    fullest device can take.
    """
    model = config.model
    if model.checkpointing != "auto":
        return model
    ranks, kind = Ranks(accelerator), accelerator.device.type
    with ranks.refusing_together():
        free = gpu_memory(accelerator.local_process_index) if kind == "cuda" else machine_memory()
        device = Device(kind, "", *free)
        shape = shape_of(empty_model(prompts.model_config, prompts.family), prompts.family, model)
        load = load_of(config, shape, LargestData.of(config), device, ranks.count)
    capacity = min(ranks.gather([capacity_on([device], ranks.count)]))
    load = choose_checkpointing(shape, load, capacity)
    needed = plan_memory(shape, load).total("update")
    fits = "" if needed <= capacity else ", and not even that fits: see `mmhicra doctor`"
    say(
        f"checkpointing: {checkpointing_text(load)} (model.checkpointing: auto): an update takes about "
        f"{needed / 2**30:.2f} GiB of {capacity / 2**30:.2f} GiB{fits}"
    )
    return model.model_copy(update={"checkpointing": load.checkpointing, "checkpointing_layers": load.checkpointed})
