"""What a rollout file says about each completion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from mmhicra.core.records import Completion, Group
from mmhicra.hicra.planning import PlanningTags
from mmhicra.hicra.spans import token_spans
from mmhicra.train.credit import planning_tags
from mmhicra.train.step import Step

DIGITS = 5
"""Decimals of per-token numbers: they are for looking at."""


def rollout_records(step: Step, tokenizer: Any) -> Iterator[dict[str, Any]]:
    """One record per completion: prompt, images by reference, response, planning spans, reward, advantage, tokens."""
    for groups, kept in ((step.kept, True), (step.dropped, False)):
        for group in groups:
            for index, (completion, tags) in enumerate(zip(group.completions, planning_tags(group), strict=True)):
                yield {
                    "step": step.number,
                    "kept": kept,
                    "completion": index,
                    **completion_record(group, completion),
                    **token_record(completion, tags, tokenizer),
                }


def completion_record(group: Group, completion: Completion) -> dict[str, Any]:
    """The fields of one completion. `planning` holds spans of `ids`, the end excluded."""
    problem = group.prompt.problem
    return {
        "prompt": problem.id,
        "task": problem.task,
        "source": problem.source,
        "images": [image.reference for image in problem.images],
        **({"system": problem.system} if problem.system else {}),
        "question": problem.question,
        "choices": list(problem.choices),
        "response": completion.text,
        "ids": completion.ids,
        "finish_reason": completion.finish_reason,
        **({"masked": True} if completion.masked else {}),
        "planning": spans(completion.planning) if completion.planning is not None else [],
        "reward": asdict(completion.reward) if completion.reward else None,
        "advantage": completion.base_advantage,
    }


def token_record(completion: Completion, tags: PlanningTags, tokenizer: Any) -> dict[str, Any]:
    """What each of the R tokens wrote and got; `None` where the run did not measure it.

    `decoded` is the text of all ids, an end token included, and `token_spans` are (R, 2) spans of its characters.
    `grams` are the occurrences of grams as text, function, and a span of `ids`.
    """
    decoded, characters = token_spans(completion.ids, tokenizer)
    return {
        "decoded": decoded,
        "token_spans": characters.tolist(),
        "grams": [[match.gram.text, match.gram.function, match.start_token, match.end_token] for match in tags.matches],
        "advantages": rounded(completion.advantages),
        "engine_logprobs": rounded(completion.logprobs),
        "old_logprobs": rounded(completion.old_logprobs),
        "entropy": rounded(completion.entropy),
    }


def rounded(values: torch.Tensor | list[float] | None) -> list[float] | None:
    """(R,) numbers as JSON has them."""
    if values is None:
        return None
    numbers: list[float] = values.tolist() if isinstance(values, torch.Tensor) else values
    return [round(number, DIGITS) for number in numbers]


def spans(mask: torch.Tensor) -> list[list[int]]:
    """The runs of True in a (R,) mask as [start, end) pairs."""
    edges = torch.diff(mask.int(), prepend=mask.new_zeros(1).int(), append=mask.new_zeros(1).int())
    starts, ends = (edges == 1).nonzero().flatten(), (edges == -1).nonzero().flatten()
    return [[int(start), int(end)] for start, end in zip(starts, ends, strict=True)]
