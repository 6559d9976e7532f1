"""A policy is loaded as configured, or refused in one line."""

from __future__ import annotations

import json
import re
import shutil

import huggingface_hub.constants
import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor
from transformers.image_processing_backends import TorchvisionBackend

from mmhicra.config import FreezeConfig, LoraConfig, ModelConfig
from mmhicra.core.errors import ConfigError, UserError
from mmhicra.vlm.family import FAMILIES
from mmhicra.vlm.loading import fill_policy, load_policy, load_processor, refuse_nonfinite
from tools.tiny_vlm.factory import make_tiny

pytestmark = pytest.mark.slow


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", FAMILIES)
def test_policy_is_whole(family, tiny_model_folder):
    loaded = load_policy(ModelConfig(path=str(tiny_model_folder(family))))
    assert loaded.family.name == family
    assert type(loaded.model) is loaded.family.model_class
    assert loaded.path == str(tiny_model_folder(family))
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert loaded.tokenizer.convert_ids_to_tokens(loaded.end_token_ids) == ["<|im_end|>", "<|endoftext|>"]
    assert isinstance(loaded.processor.image_processor, TorchvisionBackend)
    assert loaded.model.training


@pytest.mark.parametrize("family", FAMILIES)
def test_factory_is_deterministic(family, tiny_model_folder, tmp_path):
    state = torch.get_rng_state()
    again = make_tiny(family, tmp_path / "again")
    other = make_tiny(family, tmp_path / "other", seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    name = "model.safetensors"
    assert (again / name).read_bytes() == (tiny_model_folder(family) / name).read_bytes()
    assert (again / name).read_bytes() != (other / name).read_bytes()
    assert (
        type(AutoProcessor.from_pretrained(again)).__name__
        == load_processor(ModelConfig(path=str(again))).processor.__class__.__name__
    )


def test_weights_are_float32_masters_of_bf16_checkpoints(tiny_model_folder, tmp_path):
    loaded = load_policy(ModelConfig(path=str(tiny_model_folder("qwen2_5_vl"))))
    loaded.model.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded.processor.save_pretrained(tmp_path)
    again = load_policy(ModelConfig(path=str(tmp_path), precision="bf16")).model
    for name, weight in load_file(tmp_path / "model.safetensors").items():
        assert weight.dtype == torch.bfloat16, name
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}


def test_train_mode_has_no_dropout(tiny_model_folder, tmp_path):
    folder = shutil.copytree(tiny_model_folder("qwen2_5_vl"), tmp_path / "dropout")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["attention_dropout"] = 0.5
    (folder / "config.json").write_text(json.dumps(config))
    model = load_policy(ModelConfig(path=str(folder))).model
    ids = torch.arange(20)[None]
    assert model.config.text_config.attention_dropout == 0.5
    assert torch.equal(model.train()(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_adapts_the_language_model_alone(family, tiny_model_folder):
    """Qwen2.5-VL's vision blocks have a gate_proj, too."""
    lora = LoraConfig(rank=4, alpha=8)
    options = ModelConfig(path=str(tiny_model_folder(family)), lora=lora)
    model = load_policy(options, seed=3).model
    adapted = {re.sub(r"\.lora_[AB]\.default\.weight$", "", name) for name in trainable(model)}
    layers = "base_model.model.model.language_model.layers"
    attention = {f"{layers}.{i}.self_attn.{n}" for i in range(3) for n in ("q_proj", "k_proj", "v_proj", "o_proj")}
    mlp = {f"{layers}.{i}.mlp.{n}" for i in range(3) for n in ("gate_proj", "up_proj", "down_proj")}
    assert adapted == attention | mlp
    assert all(".lora_" in name for name in trainable(model))
    again, other = load_policy(options, seed=3).model, load_policy(options, seed=4).model
    name = f"{layers}.0.self_attn.q_proj.lora_A.default.weight"
    assert torch.equal(model.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(model.get_parameter(name), other.get_parameter(name))


def test_lora_has_the_rank_scale_dropout_and_targets_that_are_configured(tiny_model_folder):
    lora = LoraConfig(rank=3, alpha=12, dropout=0.25, targets=["v_proj", "down_proj"])
    model = load_policy(ModelConfig(path=str(tiny_model_folder("qwen2_5_vl")), lora=lora)).model
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLinear)}
    assert {name.rpartition(".")[2] for name in layers} == {"v_proj", "down_proj"}
    for layer in layers.values():
        assert (layer.r["default"], layer.scaling["default"]) == (3, 12 / 3)
        assert layer.lora_dropout["default"].p == 0.25


def test_lora_targets_are_checked(tiny_model_folder):
    path = str(tiny_model_folder("qwen2_vl"))
    with pytest.raises(ConfigError, match=r"model.lora.targets: qkv is not a linear layer .*: choose from down_proj,"):
        load_policy(ModelConfig(path=path, lora=LoraConfig(targets=["q_proj", "qkv"])))


def test_chat_template_of_the_tokenizer_serves(tiny_model_folder, tmp_path):
    """Checkpoints may ship their template with the tokenizer only."""
    folder = shutil.copytree(tiny_model_folder("mimo_vl"), tmp_path / "run")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "chat_template": template}))
    loaded = load_processor(ModelConfig(path=str(folder)))
    assert loaded.processor.chat_template == template
    assert loaded.family.name == "mimo_vl"


def edit_json(file, **changes):
    def edit(folder):
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **changes}))

    return edit


def edit_weights(change):
    def edit(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def remove(*files):
    def edit(folder):
        for file in files:
            (folder / file).unlink()

    return edit


BROKEN = {
    "no config": (remove("config.json"), "has no config.json"),
    "no processor": (remove("processor_config.json"), "the processor cannot be loaded: .*image processor"),
    "no tokenizer": (
        remove("tokenizer.json", "tokenizer_config.json"),
        "its tokenizer does not have the model's image",
    ),
    "no template": (remove("chat_template.jinja"), "has no chat template"),
    "no weights": (remove("model.safetensors"), "has no weights .model.safetensors.: fetch the folder again"),
    "cut weights": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:999]),
        "model.safetensors is not whole .*: fetch the file again",
    ),
    "a weight missing": (edit_weights(lambda w: w.pop("model.norm.weight")), "1 weights are missing.*norm.weight"),
    "a weight reshaped": (
        edit_weights(lambda w: w.update({"model.norm.weight": w["model.norm.weight"][:-1].clone()})),
        "1 weights are missing or of another shape.*norm.weight",
    ),
    "config no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
    "config empty": (lambda folder: (folder / "config.json").write_text("{}"), "a model without a type, which"),
    "stranger": (
        edit_json("config.json", model_type="llava", architectures=["LlavaForConditionalGeneration"]),
        "a LlavaForConditionalGeneration, which mmhicra does not support: use qwen2_vl",
    ),
    "config in contradiction": (
        edit_json("config.json", text_config={"num_hidden_layers": 3, "layer_types": ["full_attention"]}),
        "num_hidden_layers. .3. must be equal",
    ),
    "unheard of": (
        edit_json("config.json", model_type="nova", architectures=["Nova"]),
        "a Nova, which mmhicra does not",
    ),
}


@pytest.mark.parametrize(("damage", "says"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_folders_are_refused_in_a_line(damage, says, tiny_model_folder, tmp_path):
    folder = shutil.copytree(tiny_model_folder("qwen2_5_vl"), tmp_path / "broken")
    damage(folder)
    with pytest.raises(UserError, match=rf"^model.path {re.escape(str(folder))}.*{says}") as refusal:
        load_policy(ModelConfig(path=str(folder)))
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError) as part_by_part:
        load_policy(ModelConfig(path=str(folder)), empty=True)
    assert str(part_by_part.value) == str(refusal.value)


def load_in_parts(config):
    model = load_policy(config, empty=True)
    model.model.to_empty(device="cpu")
    refuse_nonfinite(model.path, fill_policy(model))


def spoil_two(weights):
    for name in ("model.norm.weight", "lm_head.weight"):
        weights[name].view(-1)[5] = torch.inf


@pytest.mark.parametrize(
    "change",
    [spoil_two, lambda weights: weights.update(extra=torch.ones(2)), lambda weights: weights.pop("lm_head.weight")],
    ids=["not finite", "surplus", "missing"],
)
def test_weights_are_refused_alike_whole_and_part_by_part(change, tiny_model_folder, tmp_path):
    folder = shutil.copytree(tiny_model_folder("qwen2_5_vl"), tmp_path / "broken")
    edit_weights(change)(folder)
    with pytest.raises(UserError) as refusal:
        load_policy(ModelConfig(path=str(folder)))
    with pytest.raises(UserError) as part_by_part:
        load_in_parts(ModelConfig(path=str(folder)))
    assert str(part_by_part.value) == str(refusal.value)


@pytest.mark.parametrize("path", ["/nowhere/model", "./here/model", "a/b/c", "some folder"])
def test_missing_folders_are_refused(path):
    with pytest.raises(UserError, match=rf"model.path {path}: no such folder, and not a hub id"):
        load_processor(ModelConfig(path=path))


def test_hub_ids_out_of_reach_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"^model.path nobody/no-such-model cannot be loaded: .*(offline|connect)"
    ) as refusal:
        load_processor(ModelConfig(path="nobody/no-such-model"))
    assert "\n" not in str(refusal.value)


def test_sliding_windows_are_refused(tiny_model_folder, tmp_path):
    """An explicit mask would switch the window off without a word."""
    folder = shutil.copytree(tiny_model_folder("qwen2_5_vl"), tmp_path / "sliding")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    del config["text_config"]["layer_types"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="uses sliding-window attention: set use_sliding_window to false"):
        load_policy(ModelConfig(path=str(folder)))


def test_family_overrules_but_does_not_contradict(tiny_model_folder):
    path = str(tiny_model_folder("mimo_vl"))
    assert load_processor(ModelConfig(path=path, family="qwen2_5_vl")).family.name == "qwen2_5_vl"
    with pytest.raises(ConfigError, match=r"model.family is qwen3_vl, but model.path .* is a Qwen2_5_VL"):
        load_processor(ModelConfig(path=path, family="qwen3_vl"))


def test_all_parts_can_be_trained(tiny_model_folder):
    options = FreezeConfig(vision_tower=False, merger=False, language_model=False)
    model = load_policy(ModelConfig(path=str(tiny_model_folder("qwen3_vl")), freeze=options)).model
    assert trainable(model) == {name for name, _ in model.named_parameters()}
