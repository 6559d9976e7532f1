"""The reference policy of the KL term: a frozen copy, or with LoRA the base model under the adapters."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from peft import PeftModel

from mmhicra.train.update.packing import MicroBatch
from mmhicra.train.update.policy import Policy


class Reference:
    """Scores groups under the policy as it was before training."""

    def __init__(self, policy: Policy) -> None:
        self.adapters = policy.model if isinstance(policy.model, PeftModel) else None
        self.policy = policy if self.adapters is not None else copy.deepcopy(policy).requires_grad_(False).eval()

    @torch.no_grad()
    def logprobs(self, batch: MicroBatch) -> torch.Tensor:
        """(T,) log-probs of the response tokens."""
        plain: AbstractContextManager[object] = self.adapters.disable_adapter() if self.adapters else nullcontext()
        with plain:
            return self.policy(batch).logprobs
