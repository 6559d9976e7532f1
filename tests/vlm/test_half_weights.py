"""Weights held in bfloat16 compute what autocast computes over float32 ones, to the bit, and are half as large."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmhicra.config import DataConfig, ModelConfig, OptimizerConfig
from mmhicra.core.records import Completion, Group
from mmhicra.train.update.optimizer import make_optimizer
from mmhicra.train.update.packing import pack, split_groups
from mmhicra.train.update.policy import Policy
from mmhicra.vlm.family import FAMILIES
from mmhicra.vlm.half_weights import round_weights
from mmhicra.vlm.loading import load_policy
from mmhicra.vlm.processing import PromptBuilder


def update(model, group):
    """Log-probs of a group and the gradient of every parameter, summed over two micro-batches in bfloat16."""
    policy = Policy(
        model.model, model.family, temperature=0.8, banned_ids=model.banned_token_ids, chunk=7, precision="bf16"
    )
    for completion in group.completions:
        stats = policy(pack(split_groups([Group(group.prompt, [completion])], 10**6)))
        (stats.logprobs.sum() + stats.entropy.square().sum()).backward()
    gradients = {name: p.grad for name, p in model.model.named_parameters() if p.grad is not None}
    return stats.logprobs.detach(), gradients


def loaded_and_rounded(path, **options):
    exact = load_policy(ModelConfig(path=str(path), precision="bf16", **options))
    torch.manual_seed(0)
    for name, parameter in exact.model.named_parameters():  # no value that bfloat16 holds by chance
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.1)
    half = copy.copy(exact)
    object.__setattr__(half, "model", copy.deepcopy(exact.model))
    return exact, half, round_weights(half.model, trained="lora" not in options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{"freeze": {"vision_tower": False, "merger": False}}, {"lora": {"rank": 4}}])
def test_log_probs_and_gradients_are_those_of_autocast(family, options, tiny_model_folder, make_problem):
    exact, half, masters = loaded_and_rounded(tiny_model_folder(family), **options)
    builder = PromptBuilder(exact.processor, exact.family, exact.config, DataConfig())
    prompt = builder.build(make_problem("<image>What is it?", (90, 60)))
    group = Group(prompt, [Completion([7, 8, 9, 7], [0.0] * 4, "length", ""), Completion([11], [0.0], "length", "")])
    (logprobs, gradients), (found, of_half) = update(exact, group), update(half, group)
    assert torch.equal(found, logprobs)
    assert of_half.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert of_half[name].dtype == torch.float32
        assert torch.equal(of_half[name], gradient), name
    parameters = dict(exact.model.named_parameters())
    for name, parameter in half.model.named_parameters():
        if parameter in masters:
            assert torch.equal(masters[parameter], parameters[name])
        assert torch.equal(parameter.float(), parameters[name].to(parameter.dtype).float())
        exempt = any(part in name for part in ("norm", "embed_tokens", "pos_embed", "ln_q", "lora_"))
        assert (parameter.dtype == torch.float32) == exempt, name


class Casts(TorchDispatchMode):
    """Counts how often each of some tensors is rounded to bfloat16."""

    def __init__(self, tensors):
        super().__init__()
        self.counts = {tensor.data_ptr(): 0 for tensor in tensors}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default):
            source = args[-1]
            if result.dtype == torch.bfloat16 and source.data_ptr() in self.counts:
                self.counts[source.data_ptr()] += 1
        return result


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_weight_is_rounded_once_an_update(checkpointing, tiny_model_folder, make_problem):
    """Autocast rounds it in every micro-batch, and again where activations are computed anew."""
    exact, half, masters = loaded_and_rounded(tiny_model_folder("qwen2_5_vl"), gradient_checkpointing=checkpointing)
    prompt = PromptBuilder(exact.processor, exact.family, exact.config, DataConfig()).build(make_problem("What?"))
    group = Group(prompt, [Completion([7, 8 + n], [0.0] * 2, "length", "") for n in range(3)])
    inside = {name for name, p in exact.model.named_parameters() if "layers." in name and p.ndim == 2}
    found = []
    for model, held in ((exact, {}), (half, masters)):
        optimizer = make_optimizer(model.model, OptimizerConfig(), held)
        exact_values = [held.get(p, p) for name, p in model.model.named_parameters() if name in inside]
        with Casts(exact_values) as casts:
            update(model, group)
            optimizer.step()
        found.append(list(casts.counts.values()))
    assert found == [[3 * (1 + checkpointing)] * len(inside), [1] * len(inside)]
