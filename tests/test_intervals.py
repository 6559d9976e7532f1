"""Intervals computed by hand."""

import pytest

from mmhicra.core.intervals import ConfidenceInterval, clustered_change, clustered_interval, wilson_interval


def test_a_clustered_interval_is_that_of_the_sums_by_cluster():
    """Mean 3/4; the clusters' deviations 1/2, -3/4 and 1/4; variance 3/2 (1/4 + 9/16 + 1/16) over 4 scores squared."""
    half = 1.959964 * (1.5 * 0.875) ** 0.5 / 4
    assert clustered_interval([1.0, 1.0, 0.0, 1.0], ["a", "a", "b", "c"]) == ConfidenceInterval(
        0.75, pytest.approx(0.75 - half), 1.0, 4, "clustered"
    )
    quarter = clustered_interval([0.5, 0.5, 0.25, 0.5], "aabc")
    assert (quarter.low, quarter.high) == pytest.approx((0.4375 - half / 4, 0.4375 + half / 4))


def test_equal_scores_have_the_interval_of_their_clusters():
    both = clustered_interval([1.0] * 4, "aabc"), wilson_interval(1.0, 3)
    assert [(it.mean, it.low, it.high, it.method) for it in both] == [(1.0, both[1].low, 1.0, "wilson")] * 2
    assert both[0].count == 4
    assert clustered_change([1, 1], "aa") == ConfidenceInterval(1.0, 0.0, 2.0, 2, "clustered"), "one says nothing"


def test_a_file_has_the_names_that_it_always_had():
    it = ConfidenceInterval(0.5, 0.25, 0.75, 9, "normal")
    assert it.as_dict() == {"mean": 0.5, "low": 0.25, "high": 0.75}
    assert list(it.as_dict("accuracy", count="problems").items()) == [
        *(("accuracy", 0.5), ("low", 0.25), ("high", 0.75), ("problems", 9)),
    ]
    assert str(it) == "50.0% [25.0%, 75.0%]"
