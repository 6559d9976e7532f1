"""What a rollout file says about each completion, and which groups of a step are written."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from mmhicra.config import RunConfig
from mmhicra.core.records import Completion, Group
from mmhicra.core.rollout_files import UNWRITTEN, id_bytes
from mmhicra.core.run_folder import RunFolder
from mmhicra.hicra.planning import PlanningTags
from mmhicra.hicra.spans import token_spans
from mmhicra.train.credit import planning_tags
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.train.step import Step

DIGITS = 5
"""Decimals of per-token numbers: they are for looking at."""


def write_rollouts(folder: RunFolder, config: RunConfig, step: Step, ranks: Ranks, tokenizer: Any) -> dict[str, float]:
    """Write this rank's rollout file; every rank must call it. Returns what `metrics.jsonl` says of it.

    Raises:
        RunFolderError: a rank could not write.
    """
    log, written, numbers = config.log, None, {}
    if log.rollouts_share < 1:
        everyone = ranks.gather([group.prompt.problem.id for group in step.groups])
        written = written_groups(everyone, log.rollouts_share, config.seed, step.number)
        numbers[UNWRITTEN] = float(len(everyone) - len(written))
    with ranks.refusing_together():
        folder.write_rollouts(step.number, rollout_records(step, tokenizer, written), ranks.index, ranks.count)
    with ranks.refusing_together():
        if log.rollouts_keep is not None and ranks.is_main:
            folder.prune_rollouts(log.rollouts_keep)
    return numbers


def written_groups(problems: Sequence[str], share: float, seed: int, step: int) -> frozenset[str]:
    """Which groups of a step are written, by the ids of their problems: one at least.

    The draw is a function of its arguments, whatever the order of `problems` and on whichever rank a group is.
    """
    drawn = sorted(problems, key=lambda problem: hashlib.sha256(id_bytes(f"{seed}/{step}/{problem}")).digest())
    return frozenset(drawn[: max(1, round(share * len(drawn)))])


def rollout_records(step: Step, tokenizer: Any, written: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """One record per completion: prompt, images by reference, response, planning spans, reward, advantage, tokens.

    They are sorted by `rollout_files.place`; `written` names the problems whose groups are wanted, None wants all.
    """
    for groups, kept in ((step.kept, True), (step.dropped, False)):
        for group in sorted(groups, key=lambda group: id_bytes(group.prompt.problem.id)):
            if written is not None and group.prompt.problem.id not in written:
                continue
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
