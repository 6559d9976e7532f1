"""A base model in 4 bits: what engines and checkpoints get of it. On a GPU: `python -m benchmarks qlora`."""

import pytest
import torch
from torch import nn

from mmhicra.config import LoraConfig, ModelConfig
from mmhicra.core.tensor_files import Stored
from mmhicra.vlm.loading import load_policy
from mmhicra.vlm.saving import disk_names, save_model, shards_of
from mmhicra.vlm.weights import TrainedParts, named_weights

pytestmark = pytest.mark.slow


class Params4bit(nn.Parameter):
    """Stands for bitsandbytes' own, which is told by its name: here a byte for every value."""


def test_weights_are_dequantised_and_then_added_up(tiny_model_folder, monkeypatch):
    """An adapted layer and one without: the sum is that of the dequantised weight, and has its precision."""
    folder = str(tiny_model_folder("qwen2_5_vl"))
    loaded = load_policy(ModelConfig(path=folder, lora=LoraConfig(rank=2, alpha=6, targets=["q_proj"])))
    layer = loaded.family.language_model(loaded.model).layers[0]
    for linear in (layer.self_attn.q_proj.base_layer, layer.mlp.up_proj):
        linear.weight = Params4bit((linear.weight.detach() * 99).round().to(torch.int8), requires_grad=False)
    monkeypatch.setattr("mmhicra.vlm.weights.dequantize_module_weight", lambda module: module.weight.data.half() / 99)
    nn.init.normal_(layer.self_attn.q_proj.lora_B.default.weight, std=0.1)
    found = dict(named_weights(loaded.model, loaded.family, TrainedParts()))
    stem = "model.language_model.layers.0"
    up, adapted = found[f"{stem}.mlp.up_proj.weight"], found[f"{stem}.self_attn.q_proj.weight"]
    assert up.dtype == adapted.dtype == torch.float32
    assert torch.equal(up, (layer.mlp.up_proj.weight.data.half() / 99).float())
    delta = 3 * layer.self_attn.q_proj.lora_B.default.weight @ layer.self_attn.q_proj.lora_A.default.weight
    torch.testing.assert_close(
        adapted, (layer.self_attn.q_proj.base_layer.weight.data.half() / 99).float() + delta, rtol=0, atol=1e-6
    )
    (written,) = shards_of(loaded.model, half=False).files.values()
    names = disk_names(loaded.model.get_base_model(), {name: Stored.of(tensor) for name, tensor in found.items()})
    assert all(torch.equal(written[names[name]].tensor(), found[name]) for name in found)


def test_the_merged_model_computes_what_the_four_bit_one_does(tiny_model_folder, tmp_path, monkeypatch):
    """With the real library, where it is installed: it computes on a CPU, too, slowly."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'mmhicra[qlora]'")
    monkeypatch.setattr("mmhicra.vlm.loading.refuse_quantize", lambda model: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: "cpu")
    folder = str(tiny_model_folder("qwen2_5_vl"))
    loaded = load_policy(ModelConfig(path=folder, lora=LoraConfig(rank=2, alpha=6), quantize="nf4"))
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    save_model(loaded.model, loaded.processor, tmp_path, half=False)
    whole = load_policy(ModelConfig(path=str(tmp_path)))
    ids = torch.arange(5, 30)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.model(input_ids=ids).logits, whole.model(input_ids=ids).logits, atol=1e-4, rtol=0
        )
