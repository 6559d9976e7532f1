"""Means and maxima add up over micro-batches and ranks."""

import torch

from mmhicra.train.metrics import Tally


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
