"""The lab's statistics against textbook values and brute force."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mmhicra.lab.comparison import compare, difference, estimate
from mmhicra.lab.outcomes import Outcome, refuse_unequal_starts
from mmhicra.lab.runs import LabError
from mmhicra.lab.table import csv_text, markdown

values = st.lists(st.floats(0, 1), min_size=2, max_size=12)


def outcome(method, seed, after, start="same"):
    numbers = {"before": 0.1, "after": after, "learning": after / 2, "late_accuracy": after, "minutes": 1.0}
    return Outcome(method, seed, numbers, [{"step": 1, "accuracy/mean": after}], start)


@given(values)
def test_an_estimate_is_the_student_interval(seeds):
    it = estimate(seeds)
    low, high = stats.t.interval(0.95, len(seeds) - 1, np.mean(seeds), stats.sem(seeds) or 1e-300)
    assert (it.mean, it.low, it.high) == pytest.approx((np.mean(seeds), low, high), abs=1e-9)
    assert estimate(seeds[:1]).high == math.inf


@given(values, st.data())
def test_a_difference_is_the_paired_t_test(seeds, data):
    others = data.draw(st.lists(st.floats(0, 1), min_size=len(seeds), max_size=len(seeds)))
    if np.ptp(np.subtract(seeds, others)) < 1e-6:
        return
    it = difference(seeds, others)
    expected = stats.ttest_rel(seeds, others)
    assert it.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    interval = expected.confidence_interval(0.95)
    assert (it.estimate.low, it.estimate.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


@pytest.mark.slow
def test_the_detectable_difference_is_found_with_power_080():
    generator = np.random.default_rng(0)
    n, sd = 6, 0.03
    unit = generator.standard_normal((4000, n))
    detectable = float(np.mean([difference(list(sd * row), [0.0] * n).detectable for row in unit]))
    found = np.mean([difference(list(sd * row + detectable), [0.0] * n).p < 0.05 for row in unit])
    assert found == pytest.approx(0.8, abs=0.06)


def test_rows_are_paired_by_seed_and_not_by_place():
    outcomes = [outcome("grpo", s, a) for s, a in ((0, 0.5), (1, 0.7), (2, 0.6))]
    outcomes += [outcome("hicra", s, a) for s, a in ((2, 0.65), (0, 0.55), (1, 0.75))]
    grpo, hicra = compare(outcomes, "grpo")
    assert grpo.differences == {}
    assert grpo.numbers["after"].mean == pytest.approx(0.6)
    gap = hicra.differences["after"]
    assert gap.estimate.mean == pytest.approx(0.05)
    assert gap.estimate.high - gap.estimate.low < 1e-9  # by place they would range from -0.05 to 0.15
    text = markdown([grpo, hicra], "grpo")
    assert "| hicra | 3 | 10.0 ± 0.0 | 65.0 ±" in text
    assert "| hicra | held-out after | +5.0 (+5.0 to +5.0) | 0.00 |" in text
    assert csv_text([grpo, hicra]).count("difference,after") == 1


def test_unequal_starts_are_refused_by_name():
    same = [outcome("grpo", 0, 0.5), outcome("hicra", 0, 0.5), outcome("grpo", 1, 0.5, start="other")]
    refuse_unequal_starts(same)
    with pytest.raises(LabError, match="seed 0: placebo and grpo did not start alike"):
        refuse_unequal_starts([*same, outcome("placebo", 0, 0.5, start="other")])
