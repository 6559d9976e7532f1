"""A sharded policy computes what one process computes; states that are taken and put back change nothing."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from on_ranks import on_ranks
from safetensors.torch import load_file, save_file
from short_runs import VOLATILE
from torch import nn
from train import rank_sharding
from transformers import AutoModelForImageTextToText

from mmhicra.train.distributed.sharding import restore_states, whole_optimizer_state, whole_state
from mmhicra.vlm.family import FAMILIES


def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def take_step(model, optimizer):
    model(torch.arange(6.0).reshape(2, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_saving_before_the_first_step_leaves_no_trace():
    plain, saved = make(), make()
    moments = whole_optimizer_state(*saved)
    assert moments == {}
    restore_states(*saved, whole_state(saved[0]), moments)
    for pair in (plain, saved):
        take_step(*pair)
    assert all(torch.equal(a, b) for a, b in zip(plain[0].parameters(), saved[0].parameters(), strict=True))


def test_restored_equals_never_stopped():
    whole, fresh = make(), make()
    take_step(*whole)
    restore_states(*fresh, *copy.deepcopy((whole_state(whole[0]), whole_optimizer_state(*whole))))
    for pair in (whole, fresh):
        take_step(*pair)
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), fresh[0].parameters(), strict=True))


LORA = "{rank: 4, alpha: 8, targets: all-linear}"
FREE = "{vision_tower: false, merger: false}"
SCENES = {
    "whole model": [],
    "passes": ["train.minibatches=2", "train.epochs=2"],
    "always": ["parallel.reshard=always", "train.loss.kl_coefficient=0.1"],
    "never": ["parallel.reshard=never", "hicra.adaptive={signal: kl, target: 0.5, rate: 0.1}"],
    "vision": [f"model.freeze={FREE}", "train.tokens_per_micro_batch=400"],
    "adapters": [f"model.lora={LORA}", "train.loss.kl_coefficient=0.1", "train.minibatches=2"],
    "DoRA on both sides": [
        f"model.freeze={FREE}",
        "model.lora={rank: 4, alpha: 8, targets: all-linear, dora: true, full_merger: true}",
        *("train.tokens_per_micro_batch=400", "train.loss.kl_coefficient=0.1", "train.minibatches=2"),
    ],
}
"""What is trained on several ranks and in one process, all but `model.shard`."""


def alone(overrides):
    return [each for each in overrides if not each.startswith("parallel.")]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The file with what one process computes of every scene, and its metrics."""
    results = rank_sharding.train({name: alone(overrides) for name, overrides in SCENES.items()})
    path = tmp_path_factory.mktemp("alone") / "expected.pt"
    torch.save(results, path)
    return path, {name: result["metrics"] for name, result in results.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "layout"), [(2, []), (4, ["parallel.replicate=2"])], ids=["split", "copies"])
def test_losses_and_gradients_equal_one_process(ranks, layout, expected, tmp_path):
    path, metrics = expected
    chosen = SCENES.keys() if ranks == 2 else ("whole model", "passes", "vision", "adapters")
    scenes = {name: [*SCENES[name], "model.shard=true", *layout] for name in chosen}
    for result in on_ranks(ranks, "train.rank_sharding:compare", tmp_path, scenes=scenes, expected=str(path)):
        for name, found in result.items():
            # DoRA takes the difference of two lengths that are nearly alike.
            assert found["gap"] < (3e-5 if "DoRA" in name else 1e-5), f"{name}: {found['worst']}"
            for mine, theirs in zip(found["metrics"], metrics[name], strict=True):
                same = {key: value for key, value in theirs.items() if not key.startswith(VOLATILE)}
                assert {key: mine[key] for key in same} == pytest.approx(same, rel=1e-4, abs=1e-6), name


TIED = ("qwen2_vl", "qwen3_vl", "tied", "tied twice")
"""Models whose head is the embeddings."""


def prepared(folder, source, *, pieces=False, half=False, tied=None):
    """A copy of a model folder: in several files, in bfloat16, or with a head that is the embeddings."""
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
    if tied is not None:
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = True
        model.lm_head.weight = model.model.language_model.embed_tokens.weight
    model = model.bfloat16() if half else model
    model.save_pretrained(folder, max_shard_size="300KB" if pieces else "5GB")
    for file in Path(source).iterdir():
        if not (folder / file.name).exists() and not file.name.startswith("model"):
            shutil.copy(file, folder / file.name)
    if tied == "twice":
        weights = load_file(folder / "model.safetensors")
        twin = weights["model.embed_tokens.weight"].clone()
        save_file({**weights, "lm_head.weight": twin}, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


@pytest.mark.slow
def test_a_split_model_is_read_part_by_part_and_is_the_one_that_one_process_loads(tiny_model_folder, tmp_path):
    """No process allocates a whole model: of a parameter it reads its rows, and gathers one block at a time."""
    source = tiny_model_folder("qwen2_5_vl")
    models = {family: {"path": str(tiny_model_folder(family))} for family in FAMILIES}
    models |= {
        "pieces": {"path": prepared(tmp_path / "pieces", source, pieces=True, half=True)},
        "tied": {"path": prepared(tmp_path / "tied", source, tied="once")},
        "tied twice": {"path": prepared(tmp_path / "twice", source, tied="twice")},
        "adapters": {"lora": {"rank": 4, "targets": "all-linear", "rank_pattern": {"q_proj": 2}, "full_merger": True},
                     "freeze": {"vision_tower": False, "merger": False}},
        "DoRA": {"lora": {"rank": 4, "dora": True}},
    }  # fmt: skip
    for found in on_ranks(2, "train.rank_sharding:load", tmp_path / "ranks", models=models):
        for name, result in found.items():
            wrong = {key: result[key] for key in ("broken", "names", "different", "free") if result[key]}
            assert wrong == {}, name
            assert result["ends"][0] == result["ends"][1]
            assert result["tied"][0] == result["tied"][1] == (name in TIED), name
            largest, share = result["largest"], -(-result["parameter"] // 2)
            assert largest["split"] <= result["unit"] + 64 < result["whole"], name
            assert max(largest["load"], largest["fill"]) <= max(share, 20_000), name
