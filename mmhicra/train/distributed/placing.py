"""A policy and its reference on their device: whole, or split over the processes and filled part by part."""

from __future__ import annotations

from mmhicra.config import RunConfig
from mmhicra.train.distributed.mesh import make_mesh
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.train.distributed.sharding import copy_values, shard
from mmhicra.train.update.policy import Policy
from mmhicra.vlm.loading import LoadedModel, fill_policy, refuse_nonfinite


def split_policy(config: RunConfig, model: LoadedModel, policy: Policy, reference: Policy | None, ranks: Ranks) -> None:
    """Split a policy, and the copy of it that stays as it is, over the ranks; every rank must call it.

    Args:
        config: of the run.
        model: what `policy` was made of; if it has no values yet, both get them.
        policy: what is trained.
        reference: its copy, None without one.
        ranks: of the run.

    Raises:
        UserError: on every rank, if a weight cannot be read or is not finite on any.
    """
    mesh = make_mesh(config, ranks.accelerator)
    shard(policy, config.model.precision, mesh, config.parallel.reshard)
    if reference is not None:
        shard(reference, config.model.precision, mesh, "always")  # no backward pass follows its forward pass
    if model.unfilled is None:
        return
    broken: list[str] = []
    with ranks.refusing_together():
        broken = fill_policy(model)
    found = dict.fromkeys(ranks.gather(broken))
    with ranks.refusing_together():
        refuse_nonfinite(model.path, list(found))
    if reference is not None:
        copy_values(policy, reference)
