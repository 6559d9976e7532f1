"""What a run sets up before its first step."""

import os
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from short_runs import short_config

from mmhicra.core.errors import RunFolderError, UserError
from mmhicra.core.run_folder import RunFolder
from mmhicra.train.loop import run
from mmhicra.train.loop.disk import DiskNeed
from mmhicra.train.loop.terminal import Terminal


class FarEnough(Exception):
    """Ends a run."""


@pytest.mark.parametrize(("threads", "set_to"), [(3, [3]), (0, [])])
def test_ranks_wait_as_long_and_torch_has_the_threads_that_are_configured(tmp_path, monkeypatch, threads, set_to):
    patience, threads_set, seeds = [], [], []

    def make_accelerator(*handlers):
        patience.extend(handler.timeout for handler in handlers)
        return SimpleNamespace(is_main_process=True)

    def describe(*about):
        return []

    def manual_seed(seed):
        seeds.append(seed)
        raise FarEnough

    monkeypatch.setattr(run, "make_accelerator", make_accelerator)
    monkeypatch.setattr(run, "describe", describe)
    monkeypatch.setattr("torch.set_num_threads", threads_set.append)
    monkeypatch.setattr("torch.manual_seed", manual_seed)
    config = short_config(tmp_path, f"threads={threads}", "train.rank_timeout=123", "seed=11")
    with pytest.raises(FarEnough):
        run.train(config, terminal=Terminal(quiet=True))
    assert (patience, threads_set, seeds) == ([timedelta(seconds=123)], set_to, [11])


@pytest.mark.parametrize("wanted", [True, False])
def test_operations_are_deterministic_while_a_run_that_asks_for_it_lasts(tmp_path, monkeypatch, wanted):
    seen = []

    def open_run(*arguments):
        seen.append((torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")))
        raise FarEnough

    monkeypatch.setattr(run, "open_run", open_run)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is as it was afterwards
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with pytest.raises(FarEnough):
        run.train(short_config(tmp_path, f"train.deterministic={str(wanted).lower()}"), terminal=Terminal(quiet=True))
    assert seen == [(True, ":4096:8") if wanted else (False, None)]
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("error", [ZeroDivisionError("a fault"), UserError("mend it")])
def test_a_fault_during_set_up_leaves_its_traceback_and_a_refusal_leaves_nothing(tmp_path, monkeypatch, error):
    def assemble(*about):
        raise error

    monkeypatch.setattr(run, "assemble", assemble)
    config = short_config(tmp_path / "run")
    with pytest.raises(type(error)):
        run.train(config, terminal=Terminal(quiet=True))
    log = RunFolder(tmp_path / "run").log(0)
    assert log.exists() == isinstance(error, ZeroDivisionError)
    if log.exists():
        assert ": processes: 1 on " in log.read_text()
        assert log.read_text().endswith("ZeroDivisionError: a fault\n")


@pytest.mark.parametrize(
    ("free", "done", "refused", "lines"),
    [
        (99, 1, True, ["disk: "]),
        (100, 1, False, ["disk: ", "disk: it may be full before the run ends"]),
        (249, 1, False, ["disk: ", "disk: it may be full before the run ends"]),
        (250, 1, False, ["disk: "]),
        (0, 3, False, []),
    ],
    ids=["no checkpoint fits", "one fits", "nearly all fits", "all fits", "nothing is left to do"],
)
def test_a_run_that_cannot_save_is_refused_and_one_that_may_fill_the_disk_is_told(
    tmp_path, monkeypatch, free, done, refused, lines
):
    """A checkpoint of 100 bytes, three of them at once and 50 bytes of rollouts; one of the three lies there."""
    config, folder = short_config(tmp_path), RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    (folder.checkpoints / "model").write_bytes(b"0" * 100)
    monkeypatch.setattr(run, "disk_need", lambda *about: DiskNeed(100, 3, 50))
    monkeypatch.setattr(run, "free_bytes", lambda path: free)
    said = []
    parts = SimpleNamespace(trainer=SimpleNamespace(step_number=done), parameters={"total": 1, "trained": 1})
    terminal = SimpleNamespace(say=said.append)
    if refused:
        with pytest.raises(RunFolderError, match="No space left on device for a checkpoint, which takes 100 B"):
            run.check_disk(config, folder, parts, terminal)
    else:
        run.check_disk(config, folder, parts, terminal)
    assert len(said) == len(lines)
    assert all(line.startswith(start) for line, start in zip(said, lines, strict=True))
