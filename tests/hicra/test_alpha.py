"""Alpha by step: the schedule, and a controller that finds its target and keeps its bounds."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmhicra.hicra.alpha import AlphaController, adapted_alpha, scheduled_alpha

shares = st.floats(0, 0.99)


@given(shares, shares, st.integers(2, 50))
def test_a_schedule_is_a_straight_line_that_stays_at_its_end(start, end, steps):
    values = [scheduled_alpha(step, start, end, steps) for step in range(1, steps + 3)]
    assert values[0] == start
    assert values[steps - 1 :] == [end] * 3
    changes = [b - a for a, b in itertools.pairwise(values[:steps])]
    assert changes == pytest.approx([(end - start) / (steps - 1)] * len(changes), abs=1e-9)


@given(shares, st.floats(0, 10), st.floats(0.01, 5), st.tuples(shares, shares), st.floats(0.001, 1))
def test_a_controller_moves_towards_its_target_within_its_bounds(alpha, measured, target, bounds, rate):
    minimum, maximum = sorted(bounds)
    alpha = min(max(alpha, minimum), maximum)
    after = adapted_alpha(alpha, measured, target, minimum=minimum, maximum=maximum, rate=rate)
    assert minimum <= after <= maximum
    assert abs(after - alpha) <= rate * (1 + 1e-9)
    assert (after - alpha) * (target - measured) >= 0


def test_the_share_of_mass_settles_at_its_target():
    density, target = 0.2, 0.24
    controller = AlphaController(0.0, signal="mass", target=target, maximum=0.9, rate=0.1)
    shares_seen = []
    for step in range(1, 200):
        amplified = density * (1 + controller.at(step))  # of |A| all alike, in successes
        shares_seen.append(amplified / (amplified + 1 - density))
        controller.observe(shares_seen[-1])
    assert shares_seen[0] == pytest.approx(0.2)
    assert shares_seen[-1] == pytest.approx(target, abs=1e-3)


def test_constant_alpha_ignores_what_it_sees_and_no_measurement_moves_nothing():
    constant, adaptive = AlphaController(0.2), AlphaController(0.2, signal="kl", target=1.0)
    constant.observe(99.0)
    adaptive.observe(None)
    assert constant.at(7) == adaptive.at(7) == 0.2
    adaptive.observe(0.0)
    assert adaptive.at(8) == 0.2 + adaptive.rate


@pytest.mark.parametrize(
    "wrong", [{"target": 0.0}, {"minimum": -0.1}, {"maximum": 1.0}, {"minimum": 0.5, "maximum": 0.4}]
)
def test_impossible_targets_and_bounds_are_errors(wrong):
    options = {"target": 1.0, "minimum": 0.0, "maximum": 0.5, "rate": 0.1, **wrong}
    with pytest.raises(ValueError, match="need target"):
        adapted_alpha(0.2, 1.0, options.pop("target"), **options)
    with pytest.raises(ValueError, match="count from 1"):
        scheduled_alpha(0, 0.1, 0.2, 5)
