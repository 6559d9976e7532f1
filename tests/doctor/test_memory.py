"""The memory plan against what is really held, and against itself."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from benchmarks.memory import ALLOCATOR
from benchmarks.shapes import REGIMES, model_config
from mmhicra.config import ModelConfig
from mmhicra.rollout.hf.cache import ResponseCache
from mmhicra.train.update.load import Load
from mmhicra.train.update.memory_plan import (
    ACTIVATION_FACTOR,
    choose_checkpointing,
    largest_budget,
    most_sequences,
    plan_memory,
    slots,
)
from mmhicra.train.update.stored_bytes import Storage
from mmhicra.vlm.family import FAMILIES
from mmhicra.vlm.loading import load_policy, load_processor
from mmhicra.vlm.shape import ModelShape, empty_model, shape_of
from tools.tiny_vlm.factory import make_tokenizer

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
MIB = 2**20
CASES = {
    "float32": {"shape": "tiny"},
    "gradient checkpointing": {"shape": "tiny", "checkpointing": "full"},
    "selective checkpointing": {"shape": "tiny", "checkpointing": "selective"},
    "bfloat16": {"shape": "tiny", "precision": "bf16"},
    "LoRA": {"shape": "tiny", "lora": {"rank": 16, "alpha": 16}},
    "vision trained": {"shape": "tiny", "image": True, "freeze": {"vision_tower": False, "merger": False}},
    "weights in bfloat16": {"shape": "tiny", "precision": "bf16", "weights": "bf16"},
    "LoRA over bfloat16": {"shape": "tiny", "precision": "bf16", "weights": "bf16", "lora": {"rank": 16, "alpha": 16}},
    "moments in 8 bits": {
        **{"shape": "tiny", "precision": "bf16", "weights": "bf16"},
        "optimizer": {"kind": "adamw_8bit", "offload": True},
    },
    "40 M, bfloat16 and checkpointing": {"shape": "40m", "precision": "bf16", "checkpointing": "full"},
    "40 M, alone": {"shape": "40m", "checkpointing": "full", "alone": True},
}

SHAPE = ModelShape(
    parameters=10**9,
    trained=8 * 10**8,
    tensors=300,
    linear=7 * 10**8,
    block=3 * 10**7,
    layers=24,
    hidden=2048,
    query=2048,
    key=256,
    inner=8192,
    vocabulary=150_000,
    normed_heads=False,
    adapter=0,
    deepstack=0,
    tower_layers=32,
    tower_width=1280,
    tower_saved=20_000,
    tower_products=12_000,
    merger_saved=5_000,
    patch_values=1176,
    merged=4,
)
LOAD = Load(
    half=True,
    checkpointing="full",
    dense=False,
    adapters=False,
    vision_frozen=True,
    reference=False,
    processes=1,
    shard=False,
    cuda=True,
    embedded=True,
    engine=0,
    engine_rests=False,
    budget=16384,
    prompt=1200,
    patches=4000,
    response=2048,
    group=8,
    groups=64,
    chunk=1024,
    nucleus=False,
    sequences=64,
    step_prompts=64,
    evaluation_group=1,
    evaluation_sequences=64,
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Case -> what one update of it really took, all in one fresh process."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("resident memory at its peak is only told by Linux")
    script = Path(__file__).with_name("measure_memory.py")
    command = [sys.executable, str(script), str(tmp_path_factory.mktemp("models")), json.dumps(list(CASES.values()))]
    paths = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **ALLOCATOR, "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(zip(CASES, lines, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_weights_gradients_and_optimizer_are_exact(case, measured):
    exact, planned = measured[case]["exact"], measured[case]["planned"]
    assert exact == {part: planned[part] for part in exact}


@pytest.mark.parametrize("case", CASES)
def test_the_peak_of_an_update_is_within_the_stated_factor(case, measured):
    parts = ["activations", "working set", "copies of weights"]
    if CASES[case].get("alone"):
        parts.append("gradients")
    planned = sum(measured[case]["planned"].get(part, 0) for part in parts)
    assert 1 / ACTIVATION_FACTOR < planned / measured[case]["peak"] < ACTIVATION_FACTOR


def test_weights_are_what_the_process_holds(measured):
    """Resident memory that loading adds, give or take what the process held or holds for other reasons."""
    large = measured["40 M, bfloat16 and checkpointing"]
    assert large["resident"] == pytest.approx(large["planned"]["weights"], abs=8 * MIB)


@pytest.mark.parametrize(("regime", "gib"), [("A", 28.5), ("B", 28.6)])
def test_the_plan_of_seven_billion_parameters_beside_a_gpu(regime, gib):
    """What one update took on an H200 above the weights, gradients included (docs/explanation/performance.md)."""
    lengths, family = REGIMES[regime], FAMILIES["qwen2_5_vl"]
    shape = shape_of(empty_model(model_config("7b", make_tokenizer("qwen2_5_vl")), family), family, ModelConfig())
    load = replace(LOAD, prompt=lengths.prompt, patches=0, response=max(lengths.responses), groups=1)
    assert load.alone
    planned = sum(plan_memory(shape, load).phases["update"].values()) / 2**30
    assert gib / ACTIVATION_FACTOR < planned < gib * ACTIVATION_FACTOR


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 4}])
def test_counts_equal_those_of_the_loaded_model(family, lora, tiny_model_folder):
    options = ModelConfig(path=str(tiny_model_folder(family)), family=family, lora=lora)
    folder, model = load_processor(options), load_policy(options).model
    shape = shape_of(empty_model(folder.config, folder.family), folder.family, options)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.trained, shape.tensors) == (sum(parameter.numel() for parameter in trained), len(trained))


@pytest.mark.parametrize("response", [1, 64, 65, 200, 1000])
def test_slots_are_those_of_the_cache(response):
    prompts = DynamicCache()
    prompts.update(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2), 0)
    cache = ResponseCache(prompts, torch.tensor([3]), repeats=2)
    sizes = [cache.layers[0][0].shape[2]]
    for _ in range(response):
        cache.make_room()
        sizes.append(cache.layers[0][0].shape[2])
    grown = sorted(set(sizes))
    assert slots(response) == (([0, *grown])[-2], grown[-1])


loads = st.builds(
    replace,
    st.just(LOAD),
    half=st.booleans(),
    checkpointing=st.sampled_from(["none", "selective", "full"]),
    checkpointed=st.one_of(st.none(), st.integers(1, 30)),
    vision_frozen=st.booleans(),
    dense=st.booleans(),
    groups=st.integers(1, 200),
)


@given(loads, st.integers(10**9, 10**12))
def test_the_largest_budget_fits_and_more_does_not(load, room):
    budget = largest_budget(SHAPE, load, room)

    def total(tokens):
        return plan_memory(SHAPE, replace(load, budget=tokens)).total("update")

    looked_at = 0 if load.vision_frozen else load.patches
    if budget is None:
        assert total(load.prompt + looked_at + load.response) > room
        return
    assert total(budget) <= room
    whole_step = load.groups * (load.prompt + looked_at + load.group * load.response)
    assert budget == whole_step or total(budget + 2 * max(256, load.patches)) > room


@given(loads, st.integers(10**9, 10**12))
def test_the_chosen_checkpointing_fits_and_less_of_it_does_not(load, room):
    def total(kind, count):
        changed = replace(load, checkpointing=kind, checkpointed=count)
        return plan_memory(SHAPE, changed).total("update")

    chosen = choose_checkpointing(SHAPE, load, room)
    kind, count = chosen.checkpointing, chosen.checkpointed
    if total("none", None) <= room:
        assert (kind, count) == ("none", None)
    elif total(kind, count) <= room:
        assert kind != "none"
        assert (count or SHAPE.layers) == 1 or total(kind, (count or SHAPE.layers) - 1) > room
        assert kind == "selective" or total("selective", None) > room
    else:
        assert (kind, count) == ("full", None)


@given(st.integers(10**9, 10**12), st.sampled_from(["rollout", "evaluation"]))
def test_the_most_sequences_fit(room, phase):
    count = most_sequences(SHAPE, LOAD, room, phase)
    changed = {"rollout": "sequences", "evaluation": "evaluation_sequences"}[phase]
    group = {"rollout": LOAD.group, "evaluation": LOAD.evaluation_group}[phase]
    if count is None:
        assert plan_memory(SHAPE, replace(LOAD, **{changed: group})).total(phase) > room
        return
    assert plan_memory(SHAPE, replace(LOAD, **{changed: count})).total(phase) <= room
    assert count == getattr(LOAD, changed) or (
        plan_memory(SHAPE, replace(LOAD, **{changed: count + group})).total(phase) > room
    )


def test_shards_divide_what_is_trained_and_copies_add_buckets():
    alone, copied = plan_memory(SHAPE, LOAD), plan_memory(SHAPE, replace(LOAD, processes=8))
    sharded = plan_memory(SHAPE, replace(LOAD, processes=8, shard=True))
    assert copied.held["buckets of data parallelism"] == 4 * SHAPE.trained
    assert sharded.held["weights"] == alone.held["weights"] // 8
    assert sharded.held["optimizer"] == alone.held["optimizer"] // 8
    assert sharded.phases["rollout"]["whole weights"] == 2 * SHAPE.parameters  # the embedded engine gathers them


def test_copies_that_are_sampled_from_are_planned_by_how_they_are_rounded():
    def copies(**changed):
        return plan_memory(SHAPE, replace(LOAD, half=False, **changed)).phases["rollout"].get("copies of weights", 0)

    found = [copies(cuda=cuda, samples_rounded=rounded) for cuda in (False, True) for rounded in (False, True)]
    assert found == [4 * SHAPE.linear, 2 * SHAPE.linear, 0, 2 * SHAPE.linear]


def test_a_gpu_holds_less_by_what_is_stored_elsewhere_or_shorter():
    """A shape of which 700 M of 800 M trained values are rounded, and all frozen ones."""
    shape = replace(SHAPE, rounded=9 * 10**8, rounded_trained=7 * 10**8, trained_shapes=((10_000, 512),) * 100)
    plain = plan_memory(shape, LOAD).held
    half = plan_memory(shape, replace(LOAD, storage=Storage(half_weights=True))).held
    assert plain["weights"] - half["weights"] == 2 * 9 * 10**8
    assert half["optimizer"] - plain["optimizer"] == 4 * 7 * 10**8
    split = replace(LOAD, shard=True, processes=2, storage=Storage(half_weights=True, split=True))
    assert plain["weights"] - 2 * plan_memory(shape, split).held["weights"] == 2 * 2 * 10**8
    short = plan_memory(shape, replace(LOAD, storage=Storage(eight_bits=True))).held
    assert plain["optimizer"] - short["optimizer"] == 100 * 10_000 * 512 * 2 * 3 - 100 * 10_000 * 2 * 2 * 4
    assert "optimizer" not in plan_memory(shape, replace(LOAD, offload=True)).held
    assert plan_memory(shape, replace(LOAD, offload=True, cuda=False)).held["optimizer"] == plain["optimizer"]
