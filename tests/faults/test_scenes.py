"""Single disasters: both reward workers are killed, the disk is full during a checkpoint."""

from __future__ import annotations

import random

import pytest
from faults.scenes import fill_disk, kill_workers

pytestmark = pytest.mark.slow

SEED = 14


def test_both_reward_workers_are_killed(place, reference):
    for tried in kill_workers(place, random.Random(SEED)):
        assert not tried.faults, tried


def test_the_disk_is_full_during_a_checkpoint(place, reference):
    for tried in fill_disk(reference, place, random.Random(SEED)):
        assert not tried.faults, tried
