"""Means and maxima add up over micro-batches and ranks."""

import time
from types import SimpleNamespace

import pytest
import torch

from mmhicra.train.loop.metrics import Tally, Timers


def tally(*parts):
    made = Tally()
    for values in parts:
        made.mean("mean", torch.tensor(values))
        made.maximum("largest", torch.tensor(values))
    return made


def test_a_mean_is_over_all_elements_however_they_are_spread():
    whole = tally([1.0, 2.0, 6.0, 7.0]).result()
    assert whole == tally([1.0, 2.0, 6.0], [7.0]).result() == {"mean": 4.0, "largest": 7.0}
    merged = tally([1.0, 2.0, 6.0]).merge([tally([7.0]), Tally(), tally([])])
    assert merged.result() == whole
    assert tally([7.0]).merge([tally([1.0, 2.0, 6.0])]).result() == whole
    assert tally([]).result() == {}


def test_the_seconds_of_a_phase_add_up_and_an_inner_phase_counts_for_both(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 7.0, 10.0, 14.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    timers = Timers(SimpleNamespace(since_last=lambda: None))
    with timers("forward"), timers("siren"):  # 0 to 7, and 1 to 3 inside
        pass
    with timers("forward"):  # 10 to 14
        pass
    assert timers.seconds == pytest.approx({"forward": 11.0, "siren": 2.0})
    assert timers.memory == {}
