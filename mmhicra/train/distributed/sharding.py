"""Sharding (FSDP2): parameters, gradients and optimizer state split over the ranks, and states made whole again.

A model that is not sharded passes through every function here unchanged, so the trainer has one path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from mmhicra.core.records import Group, Prompt
from mmhicra.rollout.engine import Arrival, Engine, Progress, Sampling
from mmhicra.train.update.policy import Policy

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
"""States as one process would have them; on ranks other than the first they are empty if the model is sharded."""


def shard(policy: Policy, precision: str, mesh: DeviceMesh, reshard: str = "auto") -> None:
    """Split `policy` over the ranks in place, block by block; a block's parameters are whole only while it runs.

    The vision tower is split by itself, so that it can be gathered without the language model.

    Args:
        policy: on the CPU or its device; parameters on the meta device get memory, but no values.
        precision: `model.precision`.
        mesh: from `make_mesh`.
        reshard: `parallel.reshard`; a policy that is never trained should have `always`.
    """
    names = set(policy.model._no_split_modules or ())  # pyright: ignore[reportArgumentType, reportCallIssue]
    bf16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    mixed = bf16 if precision == "bf16" else MixedPrecisionPolicy()
    for block in [module for module in policy.modules() if type(module).__name__ in names]:
        _shard(block, mesh, mixed, reshard != "never")
    _shard(policy.family.vision_tower(policy.model), mesh, mixed, reshard != "never")
    # What lies outside of the blocks is needed at the end of the forward pass and at once again.
    _shard(policy, mesh, mixed, reshard == "always")
    _allocate(policy)
    # Whoever runs first would become the root: before the first update that is a block, in the engine.
    policy._get_fsdp_state()._lazy_init()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    # A whole parameter keeps the `requires_grad` that it is first made with, and peft takes that of adapters away
    # while it computes without them.
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.unshard()
            module.reshard()


def _allocate(policy: nn.Module) -> None:
    """Give every rank memory for its rows of the parameters that are on the meta device; tied ones stay tied."""
    owners: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in policy.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(parameter, []).append((module, name))
    if not any(parameter.is_meta for parameter in owners):
        return
    device = policy.get_buffer("banned").device  # where FSDP has moved all that has values
    policy._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)
    for (first, own), *others in owners.values():
        for module, name in others:
            module.register_parameter(name, getattr(first, own))


def _shard(module: nn.Module, mesh: DeviceMesh, mixed: MixedPrecisionPolicy, reshard: bool) -> None:
    fully_shard(module, mesh=mesh, mp_policy=mixed, reshard_after_forward=reshard)
    _RESHARDS[module] = reshard


_RESHARDS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether a sharded module gives its parameters back after its forward pass."""
_WHOLE: WeakSet[nn.Module] = WeakSet()
"""Modules that `gathered` holds whole now."""


@contextmanager
def gathered(part: nn.Module) -> Iterator[None]:
    """Keep every parameter of a policy or of its vision tower whole on every rank in a `with` block.

    Ranks may then run it out of step. Blocks may be nested; the outermost gathers, and gives back.
    """
    shards = [module for module in part.modules() if isinstance(module, FSDPModule) and module not in _WHOLE]
    _WHOLE.update(shards)
    for module in shards:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in shards:
            _WHOLE.discard(module)
            module.set_reshard_after_forward(_RESHARDS[module], recurse=False)
            module.reshard()
            _forget_forwards(module)


def give_back(policy: nn.Module) -> None:
    """Free what forward passes without a backward pass left whole: an optimizer step would not reach it."""
    for module in policy.modules() if isinstance(policy, FSDPModule) else ():
        if isinstance(module, FSDPModule) and module not in _WHOLE:
            module.reshard()
            _forget_forwards(module)


def _forget_forwards(module: FSDPModule) -> None:
    """Take back that FSDP noted the order of forward passes, by which the next backward pass gathers ahead.

    Ranks run other passes in between, as one without images does not run the vision tower: they would not gather the
    same, and wait for each other for ever.
    """
    state: Any = module._get_fsdp_state()
    state._comm_ctx.post_forward_order.clear()
    if state._fsdp_param_group is not None:
        state._fsdp_param_group._post_forward_indices.clear()


@torch.no_grad()
def copy_values(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the parameters of `source`, which is sharded alike; each rank copies its own rows."""
    for theirs, own in zip(source.parameters(), target.parameters(), strict=True):
        assert isinstance(theirs, DTensor)
        assert isinstance(own, DTensor)
        own.to_local().copy_(theirs.to_local())


@dataclass(frozen=True)
class GatheringEngine:
    """An engine that samples from a sharded policy."""

    engine: Engine
    policy: nn.Module

    @property
    def name(self) -> str:
        """The inner engine's."""
        return self.engine.name

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
        step: int,
        on_finish: Progress | None = None,
        on_group: Arrival | None = None,
    ) -> list[Group]:
        """See `Engine.generate`."""
        with gathered(self.policy):
            return self.engine.generate(prompts, sampling, seed, step, on_finish, on_group)

    def sync(self, model: nn.Module) -> dict[str, float]:
        """See `Engine.sync`."""
        return self.engine.sync(model)

    def sleep(self) -> None:
        """See `Engine.sleep`."""
        self.engine.sleep()


@contextmanager
def accumulating(accelerator: Accelerator, policy: nn.Module, *, last: bool) -> Iterator[None]:
    """Average gradients over the ranks in the `last` micro-batch only.

    Of a sharded model each micro-batch leaves the shards alone, else every rank would keep whole gradients in between;
    its copies exchange theirs in the last.
    """
    if isinstance(policy, FSDPModule):
        policy.set_requires_all_reduce(last)
        yield
    elif last:
        yield
    else:
        with accelerator.no_sync(policy):
            yield


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients down to norm `limit`; returns the norm before, as a scalar on one device."""
    norm = nn.utils.clip_grad_norm_(parameters, limit)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def whole_state(policy: nn.Module) -> dict[str, Any]:
    """The state dict of `policy`, on the CPU. Every rank must call it; only the first gets it if sharded."""
    return get_model_state_dict(policy, options=WHOLE)


def whole_optimizer_state(policy: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state by parameter name; empty before its first step. Every rank must call it."""
    if not optimizer.state:
        # Asked for a state that is not there, torch makes one by a step of its own, which Adam would count.
        return {}
    return get_optimizer_state_dict(policy, optimizer, options=WHOLE)


def restore_states(
    policy: nn.Module, optimizer: torch.optim.Optimizer, weights: dict[str, Any], moments: dict[str, Any]
) -> None:
    """Load whole states into a policy, sharded or not; `weights` may leave out what is not trained."""
    set_model_state_dict(policy, weights, options=StateDictOptions(full_state_dict=True, strict=False))
    if moments:
        set_optimizer_state_dict(policy, optimizer, moments, options=StateDictOptions(full_state_dict=True))
