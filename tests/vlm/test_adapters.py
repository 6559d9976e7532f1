"""Adapters on any part of any family, and adapters of others: continued, merged, refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmhicra.config import FreezeConfig, LoraConfig, ModelConfig
from mmhicra.core.errors import ConfigError, UserError
from mmhicra.vlm import quantise
from mmhicra.vlm.family import FAMILIES
from mmhicra.vlm.loading import load_policy
from mmhicra.vlm.shape import empty_model, shape_of
from mmhicra.vlm.weights import TrainedParts, named_weights

pytestmark = pytest.mark.slow

FREE = FreezeConfig(vision_tower=False, merger=False)
EVERYWHERE = LoraConfig(
    rank=2, alpha=6, targets="all-linear", dora=True, rslora=True, rank_pattern={"q_proj": 3}, alpha_pattern={"qkv": 4}
)
BESIDE = LoraConfig(rank=2, alpha=6, full_merger=True)
KINDS = {"everywhere": (EVERYWHERE, FREE), "merger in full": (BESIDE, FreezeConfig(merger=False))}
QUANTIZE = {"quantize": "nf4"}
"""Of `model`."""


def stir(model):
    """Trained weights as a training leaves them: none at its start."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_is_continued_and_merged_as_it_was_trained(family, kind, tiny_model_folder, tmp_path):
    """Every family has other names. What is merged is what peft itself merges."""
    path, (lora, freeze) = str(tiny_model_folder(family)), KINDS[kind]
    loaded = load_policy(ModelConfig(path=path, lora=lora, freeze=freeze))
    model = stir(loaded.model)
    model.save_pretrained(tmp_path)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    touched = {part for part in ("visual.blocks", "visual.merger", "language_model") if any(part in n for n in trained)}
    full = {"visual.merger", "language_model"}
    assert touched == (full if kind == "merger in full" else {*full, "visual.blocks"})

    options = ModelConfig(path=path, adapter=str(tmp_path), freeze=freeze)
    again = load_policy(options)
    same(dict(model.named_parameters()), dict(again.model.named_parameters()))
    assert [name for name, parameter in again.model.named_parameters() if parameter.requires_grad] == trained
    for described in (options, ModelConfig(path=path, lora=lora, freeze=freeze)):
        shape = shape_of(empty_model(loaded.config, loaded.family), loaded.family, described)
        assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert shape.trained == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

    weights = dict(named_weights(model, loaded.family, TrainedParts()))
    merged = load_policy(ModelConfig(path=path, adapter=str(tmp_path), adapter_mode="merge", freeze=freeze)).model
    same(weights, dict(merged.named_parameters()))
    on_top = load_policy(
        ModelConfig(
            path=path, adapter=str(tmp_path), adapter_mode="merge", freeze=freeze, lora=LoraConfig(rank=1, **ALL)
        )
    )
    same(weights, dict(named_weights(on_top.model, loaded.family, TrainedParts())))
    assert "merged into it" in on_top.model.peft_config["default"].base_model_name_or_path
    same(weights, dict(model.merge_and_unload().named_parameters()))


ALL = {"targets": "all-linear"}
NAMES = {
    "today's": {},
    "before transformers 4.52": {".model.language_model.layers.": ".model.layers.", ".model.visual.": ".visual."},
    "with the adapter's name": {".lora_A.": ".lora_A.default.", ".lora_B.": ".lora_B.default."},
    "wrapped": {"base_model.model.": "module.base_model.model."},
    "compiled": {"base_model.model.": "base_model.model._orig_mod."},
    "of the inner model": {"base_model.model.model.": "base_model.model."},
}


@pytest.fixture(scope="module")
def sft(tiny_model_folder, tmp_path_factory):
    """An adapter on the language model, as a folder."""
    folder = tmp_path_factory.mktemp("sft")
    path = str(tiny_model_folder("qwen2_5_vl"))
    stir(load_policy(ModelConfig(path=path, lora=LoraConfig(rank=2, alpha=6))).model).save_pretrained(folder)
    return folder


def changed(folder, config=(), weights=lambda held: held):
    """Another `adapter_config.json`, and other weights."""
    described = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**described, **dict(config)}))
    file = folder / "adapter_model.safetensors"
    save_file(weights(load_file(file)), file)
    return folder


@pytest.mark.parametrize("names", NAMES)
def test_layers_are_found_by_the_names_of_other_tools(names, sft, tiny_model_folder, tmp_path):
    def renamed(held):
        for old, new in NAMES[names].items():
            held = {name.replace(old, new): tensor.half() for name, tensor in held.items()}
        return held

    folder = changed(shutil.copytree(sft, tmp_path / "sft"), weights=renamed)
    path = str(tiny_model_folder("qwen2_5_vl"))
    wanted = dict(load_policy(ModelConfig(path=path, adapter=str(sft))).model.named_parameters())
    found = dict(load_policy(ModelConfig(path=path, adapter=str(folder))).model.named_parameters())
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[name], wanted[name], atol=1e-3) for name in wanted)


def without(part):
    return lambda held: {name: tensor for name, tensor in held.items() if part not in name}


def added(name, *shape):
    return lambda held: {**held, name: torch.zeros(shape)}


def spoilt(value):
    return lambda held: {name: torch.full_like(t, value) if "1.mlp.up" in name else t for name, t in held.items()}


def narrower(held):
    return {name: t[:, 1:].contiguous() if "lora_A" in name else t for name, t in held.items()}


HEAD = "base_model.model.lm_head.weight"
REFUSED = {
    "another kind": ({"peft_type": "IA3"}, None, r"of peft's type 'IA3': merge it"),
    "pissa": ({"init_lora_weights": "pissa"}, None, "began with pissa, which changes the weights under it"),
    "biases": ({"bias": "all"}, None, "trained with peft's bias"),
    "new tokens": ({"trainable_token_indices": [3]}, None, "trained with peft's trainable_token_indices"),
    "of another rank": ({"r": 7}, None, "r is 7 in adapter_config.json, but its weights have rank 2"),
    "half of it": ({}, without("2.self_attn.q_proj.lora_B"), r"layers.2.self_attn.q_proj has lora_B and not the rest"),
    "not finite": ({}, spoilt(torch.nan), "2 weights hold NaN or infinity, e.g. .*layers.1.mlp.up_proj"),
    "of another size": ({}, narrower, r"is of shape \(2, \d+\), the model takes \(2, \d+\): .* of another size"),
    "of another model": (
        {},
        added("base_model.model.model.layers.9.q_proj.lora_A.weight", 2, 9),
        "1 of its 43 weights fit",
    ),
    "the head in full": ({}, added(HEAD, 1576, 64), r"holds 1 weights that were trained in full, e.g. lm_head.weight"),
    "no weights": ({}, lambda held: {}, "holds no LoRA weights"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_named(kind, sft, tiny_model_folder, tmp_path):
    config, weights, said = REFUSED[kind]
    folder = changed(shutil.copytree(sft, tmp_path / "sft"), config, weights or (lambda held: held))
    if kind == "the head in full":
        width = load_policy(ModelConfig(path=str(tiny_model_folder("qwen2_5_vl")))).model.lm_head.weight.shape
        changed(folder, weights=lambda held: {**held, HEAD: torch.zeros(width)})
    with pytest.raises(UserError, match=said):
        load_policy(ModelConfig(path=str(tiny_model_folder("qwen2_5_vl")), adapter=str(folder)))


def test_where_no_adapter_is(sft, tiny_model_folder, tmp_path):
    path = str(tiny_model_folder("qwen2_5_vl"))
    (tmp_path / "adapter_config.json").write_text("[1")
    for adapter, said in (
        (tmp_path / "none", "no such folder, and not a hub id"),
        (path, "has no adapter_config.json: name the folder that peft's save_pretrained wrote"),
        (tmp_path, "adapter_config.json is not JSON"),
        (tmp_path / "adapter_config.json", "is a file: name the folder"),
    ):
        with pytest.raises(UserError, match=said):
            load_policy(ModelConfig(path=path, adapter=str(adapter)))
    pickled = shutil.copytree(sft, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(UserError, match=r"has adapter_model.bin, but not adapter_model.safetensors"):
        load_policy(ModelConfig(path=path, adapter=str(pickled)))
    with pytest.raises(ConfigError, match=r"has none on the merger, which model.freeze.merger: false leaves free"):
        load_policy(ModelConfig(path=path, adapter=str(sft), freeze=FreezeConfig(merger=False)))
    with pytest.raises(UserError, match=rf"set model.path to {path} and model.adapter to this folder"):
        load_policy(ModelConfig(path=str(sft)))


FREED = {
    "no layer of the tower": (
        LoraConfig(),
        "is false, but model.lora.targets names no layer of it .*: set model.lora.tar",
    ),
    "strange target": (LoraConfig(targets=["qkv", "lm_head"]), "lm_head is not a linear layer of the vision tower and"),
    "strange rank": (LoraConfig(rank_pattern={"qkvv": 3}, **ALL), "rank_pattern: qkvv is the end of no layer"),
    "no expression": (LoraConfig(alpha_pattern={"(": 3}, **ALL), r"alpha_pattern: \( is no regular expression"),
}


@pytest.mark.parametrize("kind", FREED)
def test_new_adapters_are_checked(kind, tiny_model_folder):
    lora, said = FREED[kind]
    with pytest.raises(ConfigError, match=said):
        load_policy(ModelConfig(path=str(tiny_model_folder("qwen2_vl")), lora=lora, freeze=FREE))


def test_four_bits_need_a_gpu_and_their_library(tiny_model_folder, monkeypatch):
    options = ModelConfig(path=str(tiny_model_folder("qwen2_vl")), lora=LoraConfig(), precision="bf16", **QUANTIZE)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"model.quantize: nf4 needs a CUDA GPU, and there is none here: drop it"):
        load_policy(options)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("mmhicra.core.extras.is_installed", lambda module: False)
    with pytest.raises(UserError, match=r"needs bitsandbytes, which is not installed: pip install 'mmhicra\[qlora\]'"):
        load_policy(options)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_four_bits_are_asked_for(family, tiny_model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    loaded = tiny_model(family)
    assert quantise.quantised_loading(loaded.config, loaded.family, ModelConfig()) == {}
    options = ModelConfig(lora=LoraConfig(), precision="bf16", **QUANTIZE)
    asked = quantise.quantised_loading(loaded.config, loaded.family, options)
    described = asked["quantization_config"]
    assert asked["device_map"] == {"": 3}
    assert (described.load_in_4bit, described.bnb_4bit_quant_type, described.bnb_4bit_use_double_quant) == (
        *(True, "nf4", True),
    )
    assert described.bnb_4bit_compute_dtype == torch.bfloat16
    assert described.llm_int8_skip_modules == ["model.visual", "lm_head"]
