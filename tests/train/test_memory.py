"""Memory by phase: a phase is told what was held in it, and not what was held before or after."""

import pytest

from mmhicra.train.loop.memory import MemoryGauge
from mmhicra.train.loop.metrics import Timers

MUCH, LITTLE = 400, 100
"""MiB."""


def hold(mebibytes):
    held = bytearray(mebibytes * 2**20)  # zeroed, and so resident
    assert len(held)


@pytest.mark.skipif(not MemoryGauge().forgets, reason="this system does not tell memory by phase")
def test_a_phase_is_told_its_own_peak():
    gauge = MemoryGauge()
    timers = Timers(gauge)
    with timers("outer"):
        with timers("much"):
            hold(MUCH)
        with timers("little"):
            hold(LITTLE)
    with timers("little"):
        pass
    mib = {phase: held * 1024 for phase, held in timers.memory.items()}
    assert mib["much"] - mib["little"] == pytest.approx(MUCH - LITTLE, abs=50)
    assert mib["outer"] == mib["much"]
    assert gauge.altogether() >= timers.memory["much"]
