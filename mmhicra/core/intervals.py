"""Confidence intervals: the one type for an estimate with its 95 % interval, and the ways to make one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal

Z95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""

Method = Literal["wilson", "clustered", "normal", "student"]
"""How an interval was made: the score interval of a share, a normal one whose variance is cluster-robust, a normal one
over independent values, or Student's t."""


@dataclass(frozen=True)
class ConfidenceInterval:
    """An estimate with its 95 % confidence interval.

    Attributes:
        mean: the estimate.
        low: the lower end.
        high: the upper end.
        count: how many values the mean is over.
        method: how the interval was made.
    """

    mean: float
    low: float
    high: float
    count: int
    method: Method

    def __str__(self) -> str:
        return f"{self.mean:.1%} [{self.low:.1%}, {self.high:.1%}]"

    def as_dict(self, mean: str = "mean", count: str | None = None) -> dict[str, float | int]:
        """For JSON: the estimate under the name `mean`, both ends, and the count if it is given a name."""
        ends = {mean: self.mean, "low": self.low, "high": self.high}
        return ends | ({count: self.count} if count else {})


def wilson_interval(share: float, count: int) -> ConfidenceInterval:
    """Wilson's score interval of a binomial share; sound near 0 and 1, where share +- 1.96 se is not."""
    if count == 0:
        return ConfidenceInterval(share, 0.0, 1.0, 0, "wilson")
    square = Z95 * Z95
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = Z95 / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return ConfidenceInterval(share, max(0.0, centre - half), min(1.0, centre + half), count, "wilson")


def accuracy_interval(scores: Sequence[float]) -> ConfidenceInterval:
    """The mean of independent scores from 0 to 1.

    Wilson's interval if each score is 0 or 1, else a normal one, cut to 0 and 1.
    """
    mean = fmean(scores) if scores else 0.0
    if len(scores) < 2 or all(score in (0.0, 1.0) for score in scores):
        return wilson_interval(mean, len(scores))
    half = Z95 * stdev(scores) / math.sqrt(len(scores))
    return ConfidenceInterval(mean, max(0.0, mean - half), min(1.0, mean + half), len(scores), "normal")


def change_interval(before: Sequence[float], after: Sequence[float]) -> ConfidenceInterval:
    """The mean change over the same problems; pairing takes out how hard each problem is.

    The interval is infinite for one problem. Raises ValueError if the two are not equally long.
    """
    changes = [b - a for a, b in zip(before, after, strict=True)]
    mean, count = fmean(changes), len(changes)
    half = Z95 * stdev(changes) / math.sqrt(count) if count > 1 else math.inf
    return ConfidenceInterval(mean, mean - half, mean + half, count, "normal")


def clustered_interval(scores: Sequence[float], clusters: Sequence[Hashable]) -> ConfidenceInterval:
    """The mean of scores from 0 to 1 that are alike within clusters, e.g. versions of one problem.

    The variance is that of the clusters' summed deviations (cluster-robust, with the factor G / (G - 1)). With fewer
    than two clusters, or where all scores are equal, the ends are those of Wilson's interval over the clusters.
    """
    mean, count = sum(scores) / len(scores) if scores else 0.0, len(scores)
    squares, groups = _squared_deviations(scores, mean, clusters)
    if groups < 2 or squares == 0:
        return replace(wilson_interval(mean, groups), count=count)
    half = Z95 * math.sqrt(groups / (groups - 1) * squares) / count
    return ConfidenceInterval(mean, max(0.0, mean - half), min(1.0, mean + half), count, "clustered")


def clustered_change(changes: Sequence[float], clusters: Sequence[Hashable]) -> ConfidenceInterval:
    """The mean of paired differences, from -1 to 1, that are alike within clusters: see `clustered_interval`.

    With one cluster, which says nothing of the spread, the interval is 1 to either side.
    """
    mean, count = sum(changes) / len(changes), len(changes)
    squares, groups = _squared_deviations(changes, mean, clusters)
    half = Z95 * math.sqrt(groups / (groups - 1) * squares) / count if groups > 1 else 1.0
    return ConfidenceInterval(mean, mean - half, mean + half, count, "clustered")


def _squared_deviations(values: Sequence[float], mean: float, clusters: Sequence[Hashable]) -> tuple[float, int]:
    """The squares of the clusters' summed deviations from the mean, added up; and how many clusters there are."""
    sums: dict[Hashable, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - mean
    return sum(deviation * deviation for deviation in sums.values()), len(sums)
