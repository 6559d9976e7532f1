"""How the processes of a run are laid out: copies of the model, and the processes that a copy is split over."""

from __future__ import annotations

from accelerate import Accelerator
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from mmhicra.config import RunConfig
from mmhicra.core.errors import ConfigError


def refuse_layout(config: RunConfig, processes: int) -> None:
    """Raise ConfigError if the processes cannot be laid out as `parallel` says."""
    copies = config.parallel.replicate
    if copies == 1:
        return
    if processes % copies:
        raise ConfigError(
            f"parallel.replicate ({copies}) does not divide the number of processes ({processes}): set it to a "
            "divisor, or start as many processes as it divides"
        )
    if processes == copies:
        raise ConfigError(
            f"parallel.replicate ({copies}) leaves one process to each copy of the model, and nothing to split: set "
            "model.shard to false, or start more processes"
        )


def make_mesh(config: RunConfig, accelerator: Accelerator) -> DeviceMesh:
    """The mesh that a sharded model lies on: (copies, shards), or (shards,) if there is one copy.

    The shards of a copy are neighbours in rank, so that those of one node gather parameters from each other, and only
    sums of gradients pass between nodes. Every rank must call it.

    Raises:
        ConfigError: see `refuse_layout`.
    """
    refuse_layout(config, accelerator.num_processes)
    kind, copies = accelerator.device.type, config.parallel.replicate
    shards = accelerator.num_processes // copies
    if copies == 1:
        return init_device_mesh(kind, (shards,), mesh_dim_names=("shard",))
    return init_device_mesh(kind, (copies, shards), mesh_dim_names=("replicate", "shard"))
