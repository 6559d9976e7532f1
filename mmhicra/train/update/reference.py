"""The reference policy of the KL term: a frozen copy, or with LoRA the base model under the adapters.

An adapter that is continued (`model.adapter`) is a part of the policy that the run began with: its reference keeps a
copy of the adapter's weights, which are few, and puts them in their place while it scores.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from peft import PeftModel
from torch.distributed.tensor import DTensor

from mmhicra.train.distributed.sharding import give_back
from mmhicra.train.update.packing import MicroBatch
from mmhicra.train.update.policy import Policy


class Reference:
    """Scores groups under the policy as it was before training.

    Args:
        policy: as it is then.
        with_adapters: with LoRA, keep the adapters as they are now; else the reference is the base model without them.
    """

    def __init__(self, policy: Policy, with_adapters: bool = False) -> None:
        self.adapters = policy.model if isinstance(policy.model, PeftModel) else None
        self.policy = policy if self.adapters is not None else copy.deepcopy(policy).requires_grad_(False).eval()
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        keeps = with_adapters and self.adapters is not None
        self.kept = [(parameter, parameter.detach().clone()) for parameter in trained] if keeps else []

    @torch.no_grad()
    def logprobs(self, batch: MicroBatch) -> torch.Tensor:
        """(T,) log-probs of the response tokens."""
        plain: AbstractContextManager[object] = self.adapters.disable_adapter() if self.adapters else nullcontext()
        with self._as_kept() if self.kept else plain:
            logprobs = self.policy(batch).logprobs
            give_back(self.policy)  # a sharded module has other parameters while it is whole, and peft marks those
            return logprobs

    @contextmanager
    def _as_kept(self) -> Iterator[None]:
        """The adapters as they were. Storages change places, nothing is copied, and autograd sees no change."""
        self._change_places()
        try:
            yield
        finally:
            self._change_places()

    def _change_places(self) -> None:
        for parameter, kept in self.kept:
            if isinstance(parameter, DTensor) and isinstance(kept, DTensor):
                # What is gathered is its storage, not what it points to.
                own, other = parameter.to_local(), kept.to_local()
                before = own.clone()
                own.copy_(other)
                other.copy_(before)
            else:
                parameter.data, kept.data = kept.data, parameter.data
