"""Single disasters that take more than one process: one rank of two, both reward workers, a full disk."""

from __future__ import annotations

import random

from faults.scenes import fill_disk, kill_one_rank, kill_workers

SEED = 14


def test_one_rank_of_two_is_killed(place, reference):
    for tried in kill_one_rank(place, random.Random(SEED)):
        assert not tried.faults, tried


def test_both_reward_workers_are_killed(place, reference):
    for tried in kill_workers(place, random.Random(SEED)):
        assert not tried.faults, tried


def test_the_disk_is_full_during_a_checkpoint(place, reference):
    for tried in fill_disk(reference, place, random.Random(SEED)):
        assert not tried.faults, tried
