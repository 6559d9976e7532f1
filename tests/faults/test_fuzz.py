"""A short part of the fuzzing that `make faults` does at length; and the fuzzer itself sees every kind of fault."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from faults import fuzz as fuzzing
from faults.fuzz import Nonsense, Target, fuzz, replay
from faults.targets import TARGETS

from mmhicra.core.errors import UserError

pytestmark = pytest.mark.slow

SEED = 14
COUNTS = {"config": 250, "rows": 80, "images": 150, "answers": 60, "grams": 120, "models": 8}
"""Inputs of each kind; about two minutes of processor time in all."""


@pytest.mark.parametrize("name", COUNTS)
def test_every_input_is_fine_or_refused_with_one_line(name, tmp_path):
    report = fuzz(TARGETS[name], COUNTS[name], SEED, tmp_path)
    assert not report.faults, f"{report.line()}\n{report.faults[:3]}"
    assert report.outcomes.total() == COUNTS[name]
    assert report.outcomes["fine"] + report.outcomes["refused"] == COUNTS[name]


def test_damaged_run_folders_in_a_process_that_has_never_trained(tmp_path):
    """Its cases train in forks; torch refuses that in forks of some processes that have trained."""
    command = ["-m", "faults", "fuzz", "--only", "runs", "--count", "4", "--seed", str(SEED), "--out", str(tmp_path)]
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs: 4 inputs" in done.stdout


def behave(folder):
    """By the case's number."""
    case = int((folder / "case").read_text())
    if case == 1:
        raise UserError("x: no")
    if case == 2:
        raise UserError("x" * 9000)
    if case == 3:
        raise Nonsense("1 + 1 = 3")
    if case == 4:
        raise KeyError("x")
    if case == 5:
        os.abort()
    if case == 6:
        while True:
            time.sleep(0)
    if case == 7:
        raise SystemExit(3)


def test_the_fuzzer_tells_the_kinds_apart_and_keeps_the_input(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzzing, "HANG", 1.0)
    target = Target("made", lambda rng, folder: (folder / "case").write_text(folder.name) and None, behave)
    report = fuzz(target, 9, 0, tmp_path)
    assert report.outcomes == {"fine": 2, "refused": 1, "nonsense": 2, "traceback": 2, "died": 1, "hang": 1}
    assert {fault.case for fault in report.faults} == {2, 3, 4, 5, 6, 7}
    again = replay(target, tmp_path / "made_0_3", tmp_path / "again")
    assert (again.outcome, again.detail) == ("nonsense", "1 + 1 = 3")


@pytest.mark.parametrize("name", ["config", "rows", "answers", "grams"])
def test_a_seed_gives_the_same_inputs(name, tmp_path):
    import random

    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        TARGETS[name].write(random.Random("7"), tmp_path / folder)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in ("one", "two"))
    assert one == two
