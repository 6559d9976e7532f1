"""Run in a process of its own: what updates of models really take, beside what the plan says.

`python measure_memory.py FOLDER JSON`: the JSON is a list of cases, each a `shape` of `benchmarks.shapes`, whether
there is an `image`, whether the micro-batch is `alone` in its optimizer step, an `optimizer` (`OptimizerConfig`), and
options of `ModelConfig`. Prints one line of JSON for each.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from benchmarks.shapes import write_model
from mmhicra.config import DataConfig, ModelConfig, OptimizerConfig
from mmhicra.core.memory import peak_above, resident
from mmhicra.core.records import Completion, Group, Problem, ProblemImage
from mmhicra.train.update.load import Load
from mmhicra.train.update.memory_plan import plan_memory
from mmhicra.train.update.optimizer import make_optimizer
from mmhicra.train.update.packing import pack, split_groups
from mmhicra.train.update.policy import Policy
from mmhicra.train.update.stored_bytes import Storage
from mmhicra.vlm.half_weights import round_weights
from mmhicra.vlm.loading import load_policy
from mmhicra.vlm.processing import PromptBuilder
from mmhicra.vlm.shape import empty_model, shape_of

CHUNK, GROUP, RESPONSE = 256, 4, 150
PICTURE = 560


def measure(folder: Path, shape: str, image: bool = False, alone: bool = False, optimizer=None, **options) -> dict:
    if not folder.exists():
        write_model(shape, folder, torch.float32)
    config = ModelConfig(path=str(folder), **options)
    before = resident()
    loaded = load_policy(config)
    for parameter in loaded.model.parameters():
        parameter.data = parameter.data.clone()  # what was loaded is a mapped file
    weights = resident() - before
    group = make_group(loaded, image)
    stored = OptimizerConfig(learning_rate=1e-9, **(optimizer or {}))
    load = replace(
        load_of(config, group, alone),
        storage=Storage(half_weights=config.weights == "bf16", eight_bits=stored.kind == "adamw_8bit"),
        offload=stored.offload,
    )
    masters = round_weights(loaded.model, trained=config.lora is None) if config.weights == "bf16" else {}
    plan = plan_memory(shape_of(empty_model(loaded.config, loaded.family), loaded.family, config), load)
    policy = Policy(
        loaded.model,
        loaded.family,
        temperature=1.0,
        banned_ids=loaded.banned_token_ids,
        chunk=CHUNK,
        precision=config.precision,
    )

    def update() -> None:
        policy(pack(split_groups([group], 10**6))).logprobs.sum().backward()

    update()
    if alone:
        policy.zero_grad(set_to_none=True)
    peak = peak_above(update)  # gradients of earlier micro-batches are there already
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    of_weights = make_optimizer(policy, stored, masters)
    of_weights.step()
    exact = {
        "weights": sum(parameter.nbytes for parameter in policy.parameters()),
        "gradients": sum(parameter.grad.nbytes for parameter in trained if parameter.grad is not None),
        "optimizer": sum(value.nbytes for state in of_weights.state.values() for value in state.values()),
    }
    return {
        "exact": exact,
        "planned": {**plan.held, **plan.phases["update"]},
        "peak": peak,
        "resident": weights,
    }


def make_group(loaded, image: bool) -> Group:
    builder = PromptBuilder(loaded.processor, loaded.family, loaded.config, DataConfig(max_prompt_tokens=4096))
    picture = ProblemImage(Image.effect_noise((PICTURE, PICTURE), 60).convert("RGB"), "noise.png")
    images = (picture,) if image else ()
    prompt = builder.build(Problem("p", "<image>" * len(images) + "the " * 400, images, "1"))
    ids = torch.randint(5, 300, (GROUP, RESPONSE)).tolist()
    return Group(prompt, [Completion(row, [0.0] * RESPONSE, "length", "") for row in ids])


def load_of(config: ModelConfig, group: Group, alone: bool) -> Load:
    """The group is a micro-batch, and the optimizer step if it is `alone`."""
    return Load(
        half=config.precision == "bf16",
        checkpointing=config.checkpointing,
        checkpointed=config.checkpointing_layers,
        dense=False,
        adapters=config.lora is not None,
        vision_frozen=config.vision_frozen,
        reference=False,
        processes=1,
        shard=False,
        cuda=False,
        embedded=True,
        engine=0,
        engine_rests=False,
        budget=len(group.prompt) + group.prompt.patches + GROUP * RESPONSE,
        prompt=len(group.prompt),
        patches=group.prompt.patches,
        response=RESPONSE,
        group=GROUP,
        groups=1 if alone else 2,
        chunk=CHUNK,
        nucleus=False,
        sequences=GROUP,
        step_prompts=1,
        evaluation_group=0,
        evaluation_sequences=0,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in json.loads(sys.argv[2]):
        print(json.dumps(measure(Path(sys.argv[1]) / case["shape"], **case)))
