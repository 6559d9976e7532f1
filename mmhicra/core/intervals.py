"""Confidence intervals."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

Z95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95 % Wilson score interval of a binomial share; sound near 0 and 1, where share +- 1.96 se is not."""
    if count == 0:
        return 0.0, 1.0
    square = Z95 * Z95
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = Z95 / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def clustered_interval(scores: Sequence[float], clusters: Sequence[Hashable]) -> tuple[float, float]:
    """95 % normal interval of a mean whose scores are alike within clusters, e.g. versions of one problem.

    The variance is that of the clusters' summed deviations (cluster-robust, with the factor G / (G - 1)). With fewer
    than two clusters, or where all scores are equal, the Wilson interval over the clusters.
    """
    count = len(scores)
    sums: dict[Hashable, float] = defaultdict(float)
    mean = sum(scores) / count if count else 0.0
    for score, cluster in zip(scores, clusters, strict=True):
        sums[cluster] += score - mean
    groups = len(sums)
    squares = sum(deviation * deviation for deviation in sums.values())
    if groups < 2 or squares == 0:
        return wilson_interval(mean, groups)
    half = Z95 * math.sqrt(groups / (groups - 1) * squares) / count
    return max(0.0, mean - half), min(1.0, mean + half)
