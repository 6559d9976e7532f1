"""The configuration for one consumer GPU fits one: the memory plan of the published shape, as its comment says."""

from pathlib import Path
from types import SimpleNamespace

from benchmarks.shapes import PRESETS, _tokenizer, model_config
from mmhicra.config import RunConfig
from mmhicra.config.loading import load_config
from mmhicra.core.memory import GIB
from mmhicra.train.update.load import Device, capacity_on, load_of
from mmhicra.train.update.memory_plan import Plan, plan_memory
from mmhicra.vlm.family import FAMILIES
from mmhicra.vlm.shape import empty_model, shape_of

CONFIG = Path(__file__).parents[2] / "configs" / "own_images_3b.yaml"
GPU = Device("cuda", "24 GB", 24 * GIB, 24 * GIB)


def plan_of(config: RunConfig) -> Plan:
    shape = model_config("3b", _tokenizer(PRESETS["3b"]["text"]["vocab_size"]))
    shape.tie_word_embeddings = True
    family = FAMILIES["qwen2_5_vl"]
    model = shape_of(empty_model(shape, family), family, config.model)
    # A picture of the most tokens, and a question of 388.
    reader = SimpleNamespace(longest=900, most_image_tokens=512, held_out=0)
    return plan_memory(model, load_of(config, model, reader, GPU, 1))


def test_the_plan_fits_and_is_what_the_file_says():
    config, text = load_config(CONFIG, []), CONFIG.read_text(encoding="utf-8")
    plan = plan_of(config)
    capacity = capacity_on([GPU], 1)
    assert plan.peak < 0.6 * capacity
    assert f"{plan.total('update') / GIB:.1f} GiB in the update, {plan.total('rollout') / GIB:.1f} GiB in a rol" in text
    assert f"of the {capacity / GIB:.1f} GiB that are planned with" in text
    whole = plan_of(load_config(CONFIG, ["model.quantize=null"]))
    assert whole.peak > capacity
    assert f"update\n# takes {whole.total('update') / GIB:.1f} GiB" in text
