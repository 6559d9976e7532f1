"""A run is never lost and never quietly another one: damaged, copied, shared, replaced, stopped, out of disk."""

import io
import json
import os
import resource
import shlex
import shutil
import signal
from contextlib import contextmanager

import pytest
from rich.console import Console
from short_runs import assert_same_run, metrics, printed, run, short_config, start, wait_for

from mmhicra.cli import main
from mmhicra.config.loading import dump_config
from mmhicra.core.errors import ConfigError, RunFolderError
from mmhicra.core.run_folder import RunFolder
from mmhicra.train.loop.lock import RunLock
from mmhicra.train.loop.opening import refuse_foreign_config
from mmhicra.train.loop.run import Interrupted, train
from mmhicra.train.loop.stopping import GraceOver
from mmhicra.train.loop.terminal import Terminal
from mmhicra.train.trainer import Trainer

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(finished_run, tmp_path):
    """A copy of the finished run, without its last checkpoint and its summary."""
    folder = shutil.copytree(finished_run, tmp_path / "copy")
    shutil.rmtree(folder / "checkpoints" / "step_000003")
    (folder / "summary.json").unlink()
    (folder / ".lock").unlink()
    return folder


def files_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def said_by(folder, *overrides, **options):
    """Train, and return what the terminal said."""
    text = io.StringIO()
    train(short_config(folder, *overrides), terminal=Terminal(Console(file=text, width=500)), **options)
    return text.getvalue()


def command(*arguments):
    return main(["train", "--config", *map(str, arguments)])


def one_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    flip_a_bit(folder / "checkpoints" / "step_000003" / "trainer_state" / "optimizer" / "part_00001.safetensors")
    shutil.copytree(folder / "checkpoints" / "step_000001", folder / "checkpoints" / "step_000009_backup")
    said = said_by(folder, resume=True)
    assert (
        "step_000003 is damaged (trainer_state/optimizer/part_00001.safetensors has other bytes than were written)"
        in said
    )
    assert "resuming after step 2" in said
    assert_same_run(finished_run, folder, step=3)
    assert (folder / "checkpoints" / "step_000003.damaged" / "config.json").is_file()
    assert (folder / "checkpoints" / "step_000009_backup" / "config.json").is_file()
    first, second = (json.loads((f / "summary.json").read_text())["wall_seconds"] for f in (finished_run, folder))
    state = json.loads((folder / "checkpoints/step_000002/trainer_state/state.json").read_text())
    assert second > state["seconds"]["wall"] > 0 < first


def test_without_a_whole_checkpoint_nothing_is_changed(copy):
    for step in (1, 2):
        (copy / "checkpoints" / f"step_00000{step}" / "manifest.json").write_text("{")
    before = files_of(copy)
    with pytest.raises(RunFolderError, match=r"no checkpoint .* is whole \(step_000002: manifest.json cannot be read"):
        run(copy, resume=True)
    assert files_of(copy) == before | {copy / ".lock": b""}


def test_checkpoints_without_checksums_are_not_resumed_and_it_is_said_why(copy):
    """As versions before checksums wrote them."""
    for manifest in copy.glob("checkpoints/*/manifest.json"):
        manifest.unlink()
    newest = max((copy / "checkpoints").glob("step_*"))
    with pytest.raises(RunFolderError, match=r"manifest.json is missing: an mmhicra before checksums wrote it") as said:
        run(copy, resume=True)
    assert f"a new run with --set model.path={newest} begins with its weights" in str(said.value)
    run(copy.parent / "new", f"model.path={newest}", "train.steps=1", "eval.problems=0")


def test_a_configuration_of_the_user_s_own_is_not_replaced(tmp_path):
    """The run folder is where it lies; one that a run left, killed before its first line, is replaced."""
    folder = tmp_path / "run"
    folder.mkdir()
    for text in ("# mine\ntrain:\n  steps: 5\n", "train:\n  steps: 5\n", "- 1\n", "{", "\xff"):
        (folder / "config.yaml").write_bytes(text.encode("latin-1"))
        with pytest.raises(RunFolderError, match="was not written by a run, and would be replaced"):
            run(folder, "eval.problems=0")
        assert (folder / "config.yaml").read_bytes() == text.encode("latin-1")
    for text in (dump_config(short_config(folder)), ""):
        (folder / "config.yaml").write_text(text)
        refuse_foreign_config(RunFolder(folder))


def test_lost_checkpoints_are_no_reason_to_begin_anew(copy):
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(RunFolderError, match="tells of 3 steps, but .* has no checkpoint"):
        run(copy, resume=True)
    assert len(metrics(copy)) == 4


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "config.yaml").unlink(), "config.yaml"),
        (lambda folder: (folder / "config.yaml").write_text(""), "is empty"),
        (lambda folder: (folder / "config.yaml").write_text("train: [", encoding="utf-8"), "is not YAML"),
        (lambda folder: (folder / "config.yaml").write_bytes(b"\xff\xfe\x00"), "is not UTF-8"),
        (lambda folder: (folder / "config.yaml").write_text("train: 3"), "train is 3"),
        (
            lambda folder: (folder / "metrics.jsonl").write_bytes(b'{"step": 0}\n{"st\n{"step": 2}\n'),
            "line 2 is damaged",
        ),
    ],
)
def test_a_damaged_folder_gives_one_line(copy, spoil, said):
    spoil(copy)
    with pytest.raises(RunFolderError, match=said) as refusal:
        run(copy, resume=True)
    assert "\n" not in str(refusal.value)


def test_a_copied_run_resumes_itself(finished_run, copy, capsys, monkeypatch, tmp_path):
    """Its configuration names the original; a relative folder seen from elsewhere is the same."""
    before = files_of(finished_run)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command(os.path.relpath(copy / "config.yaml"), "--resume") == 0
    assert "it goes on where its config.yaml lies" in capsys.readouterr().out
    assert files_of(finished_run) == before
    assert_same_run(finished_run, copy, step=3)


def test_a_copied_run_does_not_overwrite_the_original(copy, capsys):
    assert command(copy / "config.yaml", "--overwrite") == 2
    assert "say which one is meant" in one_line(capsys)


def test_an_empty_configuration_in_a_run_folder_is_not_the_default_one(copy, capsys):
    (copy / "config.yaml").write_text("\n")
    assert command(copy / "config.yaml", "--resume") == 2
    assert "config.yaml is empty" in one_line(capsys)


def test_two_trainings_in_one_folder(copy):
    held = RunLock(copy)
    held.acquire()
    before = files_of(copy)
    for options in ({}, {"resume": True}, {"resume": "auto"}, {"overwrite": True}):
        with pytest.raises(RunFolderError, match=f"being trained in by process {os.getpid()} on "):
            run(copy, **options)
    assert files_of(copy) == before
    held.release()


def test_overwriting_comes_after_every_check_and_keeps_the_run(copy):
    before = files_of(copy)
    for mistake in ("data.source=/nowhere/at/all", "hicra.grams=/nowhere.json", "model.path=/nowhere/at/all"):
        with pytest.raises(Exception, match="/nowhere"):
            run(copy, mistake, overwrite=True)
    assert files_of(copy) == before | {copy / ".lock": b""}
    (copy / "notes.txt").write_text("mine")
    run(copy, "train.steps=1", "eval.problems=0", overwrite=True)
    old = copy.with_name("copy.old")
    assert {path.relative_to(old) for path in files_of(old)} == {path.relative_to(copy) for path in before}
    assert len(metrics(copy)) == 1
    assert (copy / "notes.txt").read_text() == "mine"
    assert (copy / "refused.jsonl").is_file()


def test_resume_auto_starts_a_run_and_goes_on_with_it(tmp_path):
    short = ("train.steps=1", "eval.problems=0")
    assert run(tmp_path / "run", *short, resume="auto")["steps"] == 1
    before = metrics(tmp_path / "run")
    assert run(tmp_path / "run", *short, resume="auto")["steps"] == 1
    assert metrics(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("override", "error", "said"),
    [
        ("train.steps=2", RunFolderError, r"has done 3 steps, more than train.steps \(2\)"),
        ("eval.problems=4", ConfigError, "eval.problems was 6, is 4"),
        ("eval.n=2", ConfigError, "eval.n was 1, is 2"),
        ("eval.best_by=eval/nothing", ConfigError, "eval.best_by eval/nothing is no metric"),
    ],
)
def test_what_a_resumed_run_may_not_change(finished_run, tmp_path, override, error, said):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    with pytest.raises(error, match=said):
        run(folder, override, resume=True)


def test_more_steps_go_by_the_new_schedule_and_it_is_said(tmp_path):
    cosine = ("train.optimizer.schedule=cosine", "eval.problems=0")
    run(tmp_path / "run", *cosine, "train.steps=2")
    said = said_by(tmp_path / "run", *cosine, "train.steps=3", resume=True)
    assert "train.steps was 2, is 3: the cosine schedule ends at the new last step" in said
    rate = short_config(tmp_path).train.optimizer.learning_rate
    assert metrics(tmp_path / "run")[-1]["optimizer/learning_rate"] == pytest.approx(rate * 0.25)


def test_a_signal_during_set_up_gives_one_line(tmp_path):
    process = start(tmp_path / "run", [], forked=False)
    wait_for(tmp_path / "run" / ".lock", process)
    process.send_signal(signal.SIGTERM)
    status, output = process.wait(timeout=120), printed(tmp_path / "run").read_text()
    assert status == 130, output
    assert "mmhicra: SIGTERM during set-up: nothing was trained, nothing is lost" in output
    assert "Traceback" not in output


def test_a_hang_up_saves_and_the_command_that_is_said_goes_on(finished_run, tmp_path):
    folder = tmp_path / "a run"
    process = start(folder, ["log.checkpoint_every=0"])
    wait_for(folder / "rollouts" / "step_000001.jsonl.zst", process)
    process.send_signal(signal.SIGHUP)
    status, output = process.wait(timeout=120), printed(folder).read_text()
    assert status == 130, output
    said = output.strip().splitlines()[-1].partition("go on with: mmhicra ")[2]
    assert main(shlex.split(said)) == 0
    assert_same_run(finished_run, folder, step=3)


@pytest.mark.parametrize(
    ("phase", "said", "kept"),
    [
        ("collect", "step 2 was given up, saved after step 1", 1),
        ("sync", "step 2 was given up and could not be saved, there is no checkpoint yet", None),
    ],
    ids=["before the update", "after the update"],
)
def test_a_step_that_outlasts_the_grace_time(finished_run, tmp_path, monkeypatch, phase, said, kept):
    """Before the optimizer steps, the state before the step is there and is saved."""
    work = getattr(Trainer, phase)

    def slow(self, step):
        work(self, step)
        if step.number == 2:
            raise GraceOver

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, phase, slow)
        with pytest.raises(Interrupted, match=said):
            run(tmp_path / "run", "log.checkpoint_every=0")
    if kept:
        run(tmp_path / "run", resume=True)
        assert_same_run(finished_run, tmp_path / "run", step=3)


def test_the_grace_time_is_kept(tmp_path):
    """The second step never ends, because its rewards never come."""
    reward = tmp_path / "reward.py"
    reward.write_text(
        "import pathlib, time\nrollouts = pathlib.Path(__file__).parent / 'run/rollouts/step_000001.jsonl.zst'\n"
        "def score(problem, completion, record):\n"
        "    while rollouts.exists(): time.sleep(0.01)\n"
        "    return 0.1 * (len(completion) % 3)\n"
    )
    custom = f"reward.custom=[{{path: '{reward}:score'}}]"
    process = start(tmp_path / "run", ["train.steps=500", "train.grace_seconds=0.2", "eval.problems=0", custom])
    wait_for(tmp_path / "run" / "rollouts" / "step_000001.jsonl.zst", process)
    process.send_signal(signal.SIGTERM)
    status, output = process.wait(timeout=120), printed(tmp_path / "run").read_text()
    assert status == 130, output
    assert "SIGTERM: stopping after this step, within 0.2 s" in output
    assert "saved" in output
    assert "Traceback" not in output


@contextmanager
def largest_file(size):
    """No file may grow beyond `size` bytes: a write that fails in the kernel, for anybody."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "where"),
    [
        (1_000, "config.yaml"),
        (4_000, "rollouts/step_000001.jsonl.zst"),
        (8_000_000, "checkpoints/step_000001.partial"),
        (12_000_000, "checkpoints/step_000001.partial"),
    ],
    ids=["configuration", "rollouts", "safetensors", "torch.save"],
)
def test_a_write_that_fails_is_one_line_and_the_run_goes_on_later(finished_run, tmp_path, size, where):
    folder = tmp_path / "run"
    with largest_file(size), pytest.raises(RunFolderError, match=r"File too large") as refusal:
        run(folder, *(("rollout.n=32",) if size == 4_000 else ()))  # else they are shorter than the configuration
    assert f"cannot write {folder / where}" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    if size == 12_000_000:
        run(folder, resume=True)
        assert_same_run(finished_run, folder, step=3)


def test_a_folder_that_is_removed_midway(tmp_path, monkeypatch):
    step = Trainer.step

    def remove(self):
        if self.step_number == 1:
            while (tmp_path / "run").exists():  # the checkpoint of the step before may be written into it
                shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return step(self)

    monkeypatch.setattr(Trainer, "step", remove)
    with pytest.raises(RunFolderError, match="cannot write .*rollouts.*: No such file or directory"):
        run(tmp_path / "run", "log.tensorboard=true", "eval.problems=0")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_may_not_be_written_any_more(finished_run, tmp_path, monkeypatch):
    step, root = Trainer.step, os.geteuid() == 0

    def lock(self):
        result = step(self)
        if self.step_number == 2:
            os.seteuid(65534) if root else (tmp_path / "run" / "rollouts").chmod(0o500)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", lock)
        try:
            with pytest.raises(RunFolderError, match="cannot write .*: Permission denied"):
                run(tmp_path / "run")
        finally:
            os.seteuid(0) if root else (tmp_path / "run" / "rollouts").chmod(0o700)
    run(tmp_path / "run", resume=True)
    assert_same_run(finished_run, tmp_path / "run", step=3)
