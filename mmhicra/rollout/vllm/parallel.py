"""Several processes of a run that hold one copy of the engine's weights together (tensor parallelism).

Each runs its own `vllm.LLM` on the same requests in the same order; vLLM's workers meet inside every layer.
"""

from __future__ import annotations

import glob
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
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

SHARED_MEMORY = Path("/dev/shm")


@contextmanager
def own_shared_memory(processes: int) -> Iterator[None]:
    """Names vLLM's shared memory after this run while it starts. Every process of the run must enter it.

    On CPU the processes that generate together meet in shared memory that vLLM names after their ranks alone: a second
    run on the machine, or the first one after a run that was killed, could not start (errno 17, "file exists"). The
    names leave the file system once the processes have met, so that a killed run leaves nothing.
    """
    if processes == 1 or torch.cuda.is_available():
        yield
        return
    from vllm.distributed.device_communicators.cpu_communicator import _CPUSHMDistributed as SharedMemory

    token = [uuid.uuid4().hex]
    dist.broadcast_object_list(token, src=0)
    original, used = SharedMemory.make_group_name, set[str]()

    def make_group_name(communicator: Any) -> str:
        name = f"mmhicra-{token[0]}-{original(communicator).strip('/')}"
        used.add(name)
        return name

    SharedMemory.make_group_name = staticmethod(make_group_name)
    try:
        yield
    finally:
        SharedMemory.make_group_name = staticmethod(original)
        for name in used:  # its group has met, or has failed
            for file in SHARED_MEMORY.glob(f"{glob.escape(name)}_*"):
                file.unlink(missing_ok=True)


def _light(prompt: Prompt) -> Prompt:
    """What vLLM needs of it, and its ids to compare with."""
    return replace(prompt, problem=replace(prompt.problem, images=()), vision=prompt.vision.without_pixels())
