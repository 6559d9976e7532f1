"""The weights that are handed to another engine are those of the model as it computes now."""

import torch

from mmhicra.config import ModelConfig
from mmhicra.vlm.loading import load_policy
from mmhicra.vlm.weights import TrainedParts, checksum, named_weights, trained_parts


def test_adapters_are_added_to_the_weight_under_them(tiny_model_folder):
    folder = str(tiny_model_folder("qwen2_5_vl"))
    plain = dict(load_policy(ModelConfig(path=folder)).model.named_parameters())
    loaded = load_policy(ModelConfig(path=folder, lora={"rank": 2, "alpha": 6, "targets": ["q_proj"]}))
    parts = {name: parameter for name, parameter in loaded.model.named_parameters() if "lora_" in name}
    for parameter in parts.values():
        torch.nn.init.normal_(parameter, std=0.1)
    found = dict(named_weights(loaded.model, loaded.family, TrainedParts()))
    assert found.keys() == plain.keys()
    changed = [name for name in plain if not torch.equal(found[name], plain[name])]
    assert changed == [name for name in plain if "language_model" in name and name.endswith("q_proj.weight")]
    for name in changed:
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        product = parts[f"{stem}.lora_B.default.weight"] @ parts[f"{stem}.lora_A.default.weight"]
        torch.testing.assert_close(found[name], plain[name] + 6 / 2 * product)
    assert trained_parts(loaded.model, loaded.family) == TrainedParts(language=True, vision=False)
    language = dict(named_weights(loaded.model, loaded.family, TrainedParts(vision=False)))
    assert language.keys() == {name for name in plain if "visual" not in name}


def test_a_checksum_sees_every_bit_and_no_order():
    values = torch.arange(6, dtype=torch.float32)
    assert checksum(values) == checksum(values.flip(0)) == checksum(torch.cat([values, torch.zeros(3)]))
    nearly = values.clone()
    nearly[3] = torch.nextafter(values[3], torch.tensor(9.0))
    assert checksum(nearly) == checksum(values) + 1
