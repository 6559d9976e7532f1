"""Numbers of a step by source, where there are several."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import NamedTuple

from mmhicra.core.records import Group
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.train.step import Step


class _Seen(NamedTuple):
    """One group: whose problem, whether it was kept, and its completions' rewards and verdicts."""

    source: str
    kept: bool
    rewards: list[float]
    right: list[bool]


def source_metrics(step: Step, sources: Iterable[str], ranks: Ranks) -> dict[str, float]:
    """For each source, over all ranks: `data/NAME/share` of the groups of the step, how many are `kept`, and the mean
    `reward` and `accuracy` of their completions, which a source without a group in the step lacks.

    Every rank must call it.
    """
    sources = list(sources)
    if not sources:
        return {}
    own = [_seen(group, kept) for groups, kept in ((step.kept, True), (step.dropped, False)) for group in groups]
    seen: list[_Seen] = ranks.gather(own)
    numbers: dict[str, float] = {}
    for name in sources:
        groups = [group for group in seen if group.source == name]
        numbers[f"data/{name}/share"] = len(groups) / max(1, len(seen))
        numbers[f"data/{name}/kept"] = float(sum(group.kept for group in groups))
        if groups:
            numbers[f"data/{name}/reward"] = fmean(reward for group in groups for reward in group.rewards)
            numbers[f"data/{name}/accuracy"] = fmean(right for group in groups for right in group.right)
    return numbers


def _seen(group: Group, kept: bool) -> _Seen:
    right = [c.reward is not None and c.reward.verdict == "right" for c in group.completions]
    return _Seen(group.prompt.problem.dataset, kept, group.rewards(), right)
