"""Activation checkpointing: the same gradients to the bit, fewer bytes kept, and no product computed twice."""

from collections import Counter

import pytest
import torch
from made_groups import make_groups, make_policy
from torch.utils._python_dispatch import TorchDispatchMode

from mmhicra.config import ModelConfig
from mmhicra.config.loading import build_config, load_config
from mmhicra.core.errors import ConfigError
from mmhicra.train.update.packing import pack, split_groups
from mmhicra.vlm.activation_checkpointing import ATTENTIONS, PRODUCTS
from mmhicra.vlm.family import FAMILIES
from mmhicra.vlm.loading import load_policy

POLICIES = [("none", None), ("selective", None), ("full", None), ("full", 1)]


class Seen(TorchDispatchMode):
    """Counts operations."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func] += 1
        return func(*args, **(kwargs or {}))


def load(folder, family, lora, **options):
    frozen = {"vision_tower": lora, "merger": lora}
    adapters = {"rank": 4, "alpha": 4, "dropout": 0.2} if lora else None
    model = load_policy(ModelConfig(path=str(folder), family=family, freeze=frozen, lora=adapters, **options))
    torch.manual_seed(0)
    for name, parameter in model.model.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide the gradient of lora_A
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def update(model, batch):
    """Log-probs and gradients of an update, the bytes that were kept for its backward pass, and the operations run."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    policy = make_policy(model)
    with Seen() as seen:
        torch.manual_seed(3)  # of LoRA's dropout
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            stats = policy(batch)
        (stats.logprobs * batch.advantages + 0.1 * stats.entropy).sum().backward()
    gradients = {name: p.grad for name, p in model.model.named_parameters() if p.grad is not None}
    model.model.zero_grad(set_to_none=True)
    return stats.logprobs.detach(), gradients, sum(kept.values()), seen.counts


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_policy_gives_the_same_bits(family, lora, tiny_model_folder):
    """With LoRA the adapters' dropout is drawn again as it was; without, the vision tower is trained, too."""
    found, batch = {}, None
    for kind, layers in POLICIES:
        model = load(tiny_model_folder(family), family, lora, checkpointing=kind, checkpointing_layers=layers)
        batch = batch or pack(split_groups(make_groups(model, [(1, [5, 1, 9]), (0, [4, 4])]), 10**6))
        found[kind, layers] = update(model, batch)
    logprobs, gradients, most, _ = found["none", None]
    for policy, (own, others, _, _) in found.items():
        assert torch.equal(own, logprobs), policy
        assert others.keys() == gradients.keys()
        unequal = [name for name, gradient in gradients.items() if not torch.equal(gradient, others[name])]
        assert not unequal, (policy, unequal)
    kept = {policy: size for policy, (_, _, size, _) in found.items()}
    assert kept["full", None] < kept["full", 1] < most
    runs = {policy: sum(counts[product] for product in PRODUCTS) for policy, (*_, counts) in found.items()}
    attended = {policy: sum(counts[attention] for attention in ATTENTIONS) for policy, (*_, counts) in found.items()}
    assert attended["full", None] > attended["selective", None] == attended["none", None] > 0
    count = len(model.family.language_model(model.model).layers)
    assert runs["full", None] >= runs["none", None] + 6 * count
    # Of seven adapters what their B make is computed again, but for the last, which no gradient needs.
    assert runs["selective", None] - runs["none", None] == (6 * count if lora else 0)


def test_a_model_with_fewer_layers_is_refused(tiny_model_folder):
    with pytest.raises(ConfigError, match=r"model.checkpointing_layers is 99, but the decoder has \d+ layers"):
        load(tiny_model_folder("qwen2_5_vl"), "qwen2_5_vl", False, checkpointing="full", checkpointing_layers=99)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"checkpointing_layers": 2}, "checkpoints none: set checkpointing to selective or full, or drop it"),
        ({"checkpointing": "auto", "checkpointing_layers": 2}, "auto chooses them itself"),
        ({"gradient_checkpointing": True, "checkpointing": "none"}, "older name of checkpointing: full, but .* none"),
    ],
)
def test_contradictions_are_refused(section, message):
    with pytest.raises(ConfigError, match=message):
        build_config({"model": section})


@pytest.mark.parametrize(("older", "kind"), [(True, "full"), (False, "none")])
def test_the_older_field_is_read_and_said(older, kind, capsys):
    config = load_config(None, [f"model.gradient_checkpointing={str(older).lower()}"])
    assert config.model.checkpointing == kind
    line = f"mmhicra: model.gradient_checkpointing is read as model.checkpointing: {kind}\n"
    assert capsys.readouterr().err == line
    assert build_config(config.model_dump()) == config
