"""Curves of a run that was killed and resumed: no step twice, and the trackers know it again."""

import sys
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmhicra.config import LogConfig
from mmhicra.core.errors import RunFolderError
from mmhicra.core.run_folder import RunFolder
from mmhicra.train.loop.metrics import TensorBoardSink, open_sinks


def curve(folder):
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return [(event.step, event.value) for event in read.Scalars("reward/mean")]


@pytest.mark.parametrize("after", [-1, 0, 2])
def test_tensorboard_shows_every_step_once(tmp_path, after):
    """The first sink is never closed, as in a killed run."""
    killed = TensorBoardSink(tmp_path, None)
    for step in range(4):
        killed.log(step, {"step": step, "grams": "f00", "reward/mean": float(step)})
    resumed = TensorBoardSink(tmp_path, after)
    for step in range(after + 1, 6):
        resumed.log(step, {"step": step, "reward/mean": float(step)})
    assert curve(tmp_path) == [(step, float(step)) for step in range(6)]


def test_a_lost_folder_gives_one_line(tmp_path):
    with pytest.raises(RunFolderError, match="cannot write"):
        TensorBoardSink(tmp_path / "gone" / "tensorboard", None)


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_tracker_knows_a_resumed_run_again(tmp_path, monkeypatch, package):
    started, logged = [], []
    fake = SimpleNamespace(
        init=lambda **options: started.append(options),
        log=lambda numbers, step: logged.append(step),
        finish=lambda: None,
    )
    monkeypatch.setitem(sys.modules, package, fake)
    options = LogConfig(tensorboard=False, **{package: True})
    for sent in (0, 3):
        (sink,) = open_sinks(options, RunFolder(tmp_path), {"seed": 0}, None, sent)
        for step in range(5):
            sink.log(step, {"step": step, "reward/mean": 1.0})
        sink.close()
    assert started[0] == started[1]
    assert started[0]["resume"] == "allow"
    assert ("id" in started[0]) == (package == "wandb")
    assert started[0]["name"].startswith(tmp_path.name)
    assert logged == [0, 1, 2, 3, 4, 3, 4]
