"""Intervals computed by hand."""

import pytest

from mmhicra.core.intervals import clustered_interval


def test_a_clustered_interval_is_that_of_the_sums_by_cluster():
    """Mean 3/4; the clusters' deviations 1/2, -3/4 and 1/4; variance 3/2 (1/4 + 9/16 + 1/16) over 4 scores squared."""
    half = 1.959964 * (1.5 * 0.875) ** 0.5 / 4
    assert clustered_interval([1.0, 1.0, 0.0, 1.0], ["a", "a", "b", "c"]) == pytest.approx((0.75 - half, 1.0))
    assert clustered_interval([0.5, 0.5, 0.25, 0.5], "aabc") == pytest.approx((0.4375 - half / 4, 0.4375 + half / 4))
