"""Several processes of a run that hold one copy of the engine's weights together (tensor parallelism).

Each runs its own `vllm.LLM` on the same requests in the same order; vLLM's workers meet inside every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch.distributed as dist

from mmhicra.core.records import Prompt


class GatheredPrompts(NamedTuple):
    """The prompts of several processes one after another, and which of them are this one's."""

    prompts: Sequence[Prompt]
    own: range


class TPGroup:
    """The processes that share one copy; `group` is None if there is just one."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def gather_prompts(self, prompts: Sequence[Prompt]) -> GatheredPrompts:
        """The prompts of all. Every process must call it."""
        if self.group is None:
            return GatheredPrompts(prompts, range(len(prompts)))
        shares = self.gather([_light(prompt) for prompt in prompts])
        start = sum(len(share) for share in shares[: dist.get_rank(self.group)])
        return GatheredPrompts([prompt for share in shares for prompt in share], range(start, start + len(prompts)))

    def gather(self, item: Any) -> list[Any]:
        """One `item` of each. Every process must call it."""
        if self.group is None:
            return [item]
        items: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(items, item, group=self.group)
        return items


ALONE = TPGroup(None)


def _light(prompt: Prompt) -> Prompt:
    """What vLLM needs of it, and its ids to compare with."""
    return replace(prompt, problem=replace(prompt.problem, images=()), vision=prompt.vision.without_pixels())
