"""Memory as it is measured. A phase is told what was held in it, and not what was held before or after."""

from types import SimpleNamespace

import pytest
import torch

from mmhicra.core import memory
from mmhicra.core.memory import MemoryGauge, machine_memory, most_resident, peak_above, resident
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


@pytest.mark.skipif(not MemoryGauge().forgets, reason="this system does not tell memory by phase")
def test_a_piece_of_work_is_told_what_it_held_above_what_was_held():
    kept = bytearray(LITTLE * 2**20)
    assert peak_above(lambda: hold(MUCH)) / 2**20 == pytest.approx(MUCH, abs=50)
    if not torch.cuda.is_available():
        assert most_resident() - resident() == pytest.approx(MUCH * 2**20, abs=50 * 2**20)
        assert resident() > len(kept)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("3000", (3000, 1800)), ("max", (10_000, 4000)), ("20000", (10_000, 4000)), ("7000", (7000, 4000))],
)
def test_a_control_group_allows_less_than_the_machine_has(limit, expected, tmp_path, monkeypatch):
    (tmp_path / "max").write_text(f"{limit}\n")
    (tmp_path / "current").write_text("1200\n")
    files = (("/nowhere/max", "/nowhere/current"), (str(tmp_path / "max"), str(tmp_path / "current")))
    monkeypatch.setattr(memory, "_CONTROL_GROUPS", files)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(total=10_000, available=4000))
    assert machine_memory() == expected
