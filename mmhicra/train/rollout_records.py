"""What a rollout file says about each completion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from mmhicra.records import Completion, Group
from mmhicra.train.trainer import Rollouts


def rollout_records(step: int, rollouts: Rollouts) -> Iterator[dict[str, Any]]:
    """One record per completion: prompt, images by reference, response, planning spans, reward, advantage."""
    for groups, kept in ((rollouts.kept, True), (rollouts.dropped, False)):
        for group in groups:
            for index, completion in enumerate(group.completions):
                yield {
                    "step": step,
                    "kept": kept,
                    "completion": index,
                    **completion_record(group, completion),
                }


def completion_record(group: Group, completion: Completion) -> dict[str, Any]:
    """The fields of one completion. `planning` holds spans of `ids`, the end excluded."""
    problem = group.prompt.problem
    return {
        "prompt": problem.id,
        "task": problem.task,
        "source": problem.source,
        "images": [image.reference for image in problem.images],
        "question": problem.question,
        "response": completion.text,
        "ids": completion.ids,
        "finish_reason": completion.finish_reason,
        "planning": spans(completion.planning) if completion.planning is not None else [],
        "reward": asdict(completion.reward) if completion.reward else None,
        "advantage": completion.base_advantage,
    }


def spans(mask: torch.Tensor) -> list[list[int]]:
    """The runs of True in a (R,) mask as [start, end) pairs."""
    edges = torch.diff(mask.int(), prepend=mask.new_zeros(1).int(), append=mask.new_zeros(1).int())
    starts, ends = (edges == 1).nonzero().flatten(), (edges == -1).nonzero().flatten()
    return [[int(start), int(end)] for start, end in zip(starts, ends, strict=True)]
