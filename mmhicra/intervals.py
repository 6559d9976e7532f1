"""Confidence intervals."""

from __future__ import annotations

import math

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
