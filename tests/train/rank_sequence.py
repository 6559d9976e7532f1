"""What each of several ranks does in tests/train/test_sequence.py: rows computed together, and by one process.

Both are computed on every rank: together as the trainer does it, alone through a policy that knows of no other rank.
"""

import torch
import torch.distributed as dist
from made_groups import make_groups
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from mmhicra.config import ModelConfig
from mmhicra.core.records import Group
from mmhicra.train.distributed.sequence import SequenceGroup
from mmhicra.train.distributed.sharding import shard
from mmhicra.train.update.losses import Totals, peak_entropy, token_weights
from mmhicra.train.update.packing import pack, split_groups
from mmhicra.train.update.policy import Policy
from mmhicra.vlm.features import FrozenVision
from mmhicra.vlm.loading import load_policy

SHAPES = {
    "several groups": [(3, [5, 1, 9]), (0, [1]), (1, [2, 2, 2, 2])],
    "one group": [(3, [6, 9])],
    "text": [(0, [3, 60, 2])],
}
"""Rows; an image of the second one lies on the cut between two ranks."""
TOTALS = Totals(tokens=100, sequences=11, max_new_tokens=16)


def load(folder, kind):
    """A tiny model: all of it trained, or with LoRA on a frozen vision tower."""
    whole = "lora" not in kind
    options = {"freeze": {"vision_tower": not whole, "merger": not whole}, "lora": None if whole else {"rank": 4}}
    options["checkpointing"] = next((word for word in ("selective", "full") if word in kind), "none")
    model = load_policy(ModelConfig(path=folder, **options))
    torch.manual_seed(0)
    for name, parameter in model.model.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide the gradient of lora_A
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def make_policy(model, kind, sequence):
    options = {"banned_ids": model.banned_token_ids, "chunk": 7, "nucleus": 0.8, "plain": "plain" in kind}
    options["logprob_kernel"] = "fused"  # what a CPU has by default
    options["attention"] = "dense" if "dense" in kind else "segments"
    return Policy(
        model.model, model.family, temperature=0.8, **options, sequence=sequence, always_runs_vision="lora" not in kind
    )


def loss_of(stats, batch):
    """A loss that every result has a part in, whole responses too."""
    weights = token_weights(batch.sequence, "sequence_mean", TOTALS)
    peaks = peak_entropy(stats.nucleus_entropy, batch.sequence, 0.6, int(batch.sequence.max()) + 1)
    return (weights * (stats.logprobs * batch.advantages + 0.1 * stats.entropy)).sum() + 0.3 * peaks.sum()


def train(policy, batches, scale):
    """The stats of the last batch, and the gradients by name of `scale` times the sum of the losses."""
    policy.zero_grad(set_to_none=True)
    stats = None
    for batch in batches:
        stats = policy(batch)
        (scale * loss_of(stats, batch)).backward()
    gradients = {name: p.grad for name, p in policy.named_parameters() if p.requires_grad}
    assert stats is not None
    return torch.stack(stats).detach(), {
        name: g.full_tensor() if isinstance(g, DTensor) else g.clone() for name, g in gradients.items() if g is not None
    }


def compare(accelerator, folders, cases):
    """The largest differences by case, and how much of a row a rank had in its MLPs.

    Args:
        accelerator: of this rank.
        folders: by family.
        cases: family, ranks of a sequence group, and the kind of policy in words that are looked for below.
    """
    rank, count = accelerator.process_index, accelerator.num_processes
    results = {}
    for family, size, kind in cases:
        sequence = SequenceGroup.of(size, rank, count)
        assert sequence is not None
        results[f"{family} {size} {kind}"] = check(load(folders[family], kind), kind, sequence, rank // size, count)
    return results


def check(model, kind, sequence, number, count):
    """One case; if there are two sequence groups each has a row of its own."""
    shares = []
    for shapes in SHAPES.values():
        groups = make_groups(model, shapes)
        if "lora" in kind:
            vision = FrozenVision(model.model, model.family, "fp32")
            groups = [Group(vision.add_features([group.prompt])[0], group.completions) for group in groups]
        parts = split_groups(groups, 10**6, "plain" in kind)
        rows = [[part] for part in parts] if "plain" in kind else [parts]
        shares.append([pack(row) for row in rows])
    shares = shares if count == sequence.size else shares[:2]
    assert count // sequence.size in (1, len(shares)), "rows for every sequence group"
    everything = [batch for share in shares for batch in share]
    own = everything if count == sequence.size else shares[number]
    cuts = [batch.image_positions[sequence.length(len(batch.ids)) - 1 :][:2] for batch in everything]
    assert any(bool(cut.all()) for cut in cuts), "no image lies on a cut"
    assert any(len(batch.ids) % sequence.size for batch in everything), "every row can be divided"

    _, expected = train(make_policy(model, kind, None), everything, 1.0)
    wanted = torch.stack(make_policy(model, kind, None)(own[-1])).detach()
    policy = make_policy(model, kind, sequence)
    if "shard" in kind:
        shard(policy, "fp32", init_device_mesh("cpu", (2, count // 2), mesh_dim_names=("replicate", "shard")))
    held = []
    hooks = [
        module.register_forward_hook(lambda module, given, found: held.append(found.shape[1]))
        for name, module in policy.named_modules()
        if "language_model" in name and name.endswith(".mlp.act_fn")
    ]
    assert hooks
    found, gradients = train(policy, own, float(count))
    for hook in hooks:
        hook.remove()
    if "shard" not in kind:  # the ranks' average, as data-parallel wrappers have it
        for name in sorted(gradients):
            dist.all_reduce(gradients[name])
            gradients[name] /= count
    assert held
    return {
        "stats": float((found - wanted).abs().max() / wanted.abs().max()),
        **errors(gradients, expected),
        "held": max(held) / max(sequence.length(len(batch.ids)) for batch in own),
    }


def errors(found, expected):
    """The largest difference of a gradient, relative to its norm, and where it is; gradients that are there or not."""
    found = {name.replace("_orig_mod.", ""): value for name, value in found.items()}
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    largest = max(value.abs().max() for value in expected.values())
    by_name = {
        name: float((found[name] - value).norm() / max(value.norm(), 1e-2 * largest))
        for name, value in expected.items()
    }
    worst = max(by_name, key=lambda name: by_name[name])
    return {"gradient": by_name[worst], "worst": worst}
