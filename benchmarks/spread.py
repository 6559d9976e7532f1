"""Several measurements of one thing: their median and range."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from mmhicra.core.errors import UserError

Spread = dict[str, float]
"""`median`, `low` and `high`."""


def spread(values: Sequence[float]) -> Spread:
    """Of one or more values."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def times_faster(own: Sequence[float], other: Sequence[float]) -> Spread:
    """How many times as long the other side took, pair by pair."""
    return spread([theirs / ours for ours, theirs in zip(own, other, strict=True)])


def shown_range(found: Spread) -> str:
    """The range for a person."""
    return f"{found['low']:.2f} to {found['high']:.2f}"


def refuse_none(bench: str, pairs: int) -> None:
    """Raise UserError if nothing would be measured."""
    if pairs < 1:
        raise UserError(f"bench {bench}: --pairs is {pairs}: measure at least one")
