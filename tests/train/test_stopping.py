"""Signals that ask a run to stop."""

import os
import signal

import pytest

from mmhicra.train.loop.stopping import TO_STOP, GraceOver, Stopped, Stopping


@pytest.mark.parametrize("number", [*TO_STOP, signal.SIGINT])
def test_a_signal_is_taken_in_each_phase_and_given_back(number, monkeypatch):
    monkeypatch.setattr("mmhicra.train.loop.stopping.leave_terminal", lambda: None)
    before = signal.getsignal(number)
    with Stopping(quiet=True) as stop:
        with pytest.raises(Stopped, match=number.name):
            os.kill(os.getpid(), number)
        stop.begin(grace=0.0)
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # once more within a second
        assert stop.requested == number.name
    assert signal.getsignal(number) is before


def test_the_grace_time_ends_whatever_is_under_way():
    with Stopping(quiet=True) as stop:
        stop.begin(grace=0.05)
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(GraceOver):
            signal.pause()
