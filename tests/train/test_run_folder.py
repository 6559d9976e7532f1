"""What is ours in a run folder is read, replaced and removed; what others put there stays."""

import json
import shutil

import pytest

from mmhicra.core.errors import RunFolderError
from mmhicra.core.manifest import damage, pack_times, refuse_damaged_model, write_manifest
from mmhicra.core.run_folder import RunFolder
from mmhicra.core.step_names import step_of, steps_in


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step_000006", 6),
        ("step_1234567", 1234567),
        ("step_000006_backup", None),
        ("step_0000006", None),
        ("step_6", None),
        ("step_notes.txt", None),
        ("step_000006.partial", None),
        ("step_٠٠٠٠٠٦", None),
        ("Step_000006", None),
    ],
)
def test_names_of_steps_are_strict(name, step):
    assert step_of(name) == step


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path / "run")
    made.make()
    made.checkpoints.mkdir()
    return made


def checkpoint(folder, step):
    """A small checkpoint with a manifest."""
    path = folder.checkpoint(step)
    (path / "trainer_state").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    state = {"step": step, "seconds": pack_times({"phases": {"rollout": 1.5}})}
    (path / "trainer_state" / "state.json").write_text(json.dumps(state))
    write_manifest(path)
    return path


def test_pruning_removes_our_files_only(folder):
    for step in (2, 4, 6, 8):
        checkpoint(folder, step)
    (folder.checkpoint(2) / "notes.txt").write_text("mine")
    (folder.checkpoints / "step_000006_backup").mkdir()
    (folder.checkpoints / "step_000000_note").write_text("mine")
    (folder.checkpoints / "step_000001").write_text("mine, though called like a checkpoint")
    folder.prune_checkpoints(keep=1, best=6)
    assert sorted(p.name for p in folder.checkpoints.iterdir()) == [
        "step_000000_note",
        "step_000001",
        "step_000002.old",
        "step_000006",
        "step_000006_backup",
        "step_000008",
    ]
    assert [p.name for p in (folder.checkpoints / "step_000002.old").rglob("*")] == ["notes.txt"]
    folder.sweep()
    assert (folder.checkpoints / "step_000002.old" / "notes.txt").read_text() == "mine"


def test_a_manifest_cannot_name_files_outside(folder):
    path = checkpoint(folder, 2)
    folder.metrics.write_text("mine")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"] |= {"../../metrics.jsonl": {}, str(folder.metrics): {}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    checkpoint(folder, 4)
    folder.prune_checkpoints(keep=1, best=None)
    assert folder.metrics.read_text() == "mine"


def test_a_kill_while_a_checkpoint_takes_the_place_of_another_loses_neither(folder):
    final = checkpoint(folder, 2)
    final.rename(folder.checkpoints / "step_000002.replaced")
    folder.sweep()
    assert final.is_dir()
    checkpoint(folder, 4).rename(folder.checkpoints / "step_000004.partial")
    final.rename(folder.checkpoints / "step_000002.replaced")
    checkpoint(folder, 2)
    folder.sweep()
    assert [p.name for p in folder.checkpoints.iterdir()] == ["step_000002"]


def test_the_newest_checkpoint_is_the_one_of_the_largest_step(folder):
    assert folder.latest_checkpoint() is None
    for step in (999_999, 1_000_000, 4):
        checkpoint(folder, step)
    assert folder.latest_checkpoint() == folder.checkpoint(1_000_000)
    assert [step for step, _ in steps_in(folder.checkpoints)] == [4, 999_999, 1_000_000]


LINES = b'{"step": 0, "a": NaN}\n{"step": 1}\n{"step": 2}\n{"step": 3}\n'


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (LINES, b'{"step": 0, "a": NaN}\n{"step": 1}\n{"step": 2}\n'),
        (LINES[:-3], b'{"step": 0, "a": NaN}\n{"step": 1}\n{"step": 2}\n'),
        (LINES + b"\x00\x00\x00", b'{"step": 0, "a": NaN}\n{"step": 1}\n{"step": 2}\n'),
        (LINES + b"\xff\xfe", b'{"step": 0, "a": NaN}\n{"step": 1}\n{"step": 2}\n'),
        (b"", b""),
    ],
    ids=["whole", "cut off", "zeros at the end", "no text at the end", "empty"],
)
def test_rewinding(folder, content, kept):
    folder.metrics.write_bytes(content)
    missing = folder.rewind(2)
    assert folder.metrics.read_bytes() == kept
    assert missing == ([] if content else [1, 2])


@pytest.mark.parametrize(
    "bad", [b"{", b"[]", b"7", b'{"step": "1"}', b'{"step": true}', b"\xff\xfe", b"{}", b"[" * 10**5]
)
def test_a_damaged_line_before_the_last_is_named(folder, bad):
    content = b'{"step": 0}\n' + bad + b'\n{"step": 2}\n'
    folder.metrics.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl, line 2 is damaged"):
        folder.rewind(2)
    assert folder.metrics.read_bytes() == content


def test_rewinding_removes_the_files_of_later_steps_only(folder):
    folder.write_rollouts(1, [{"a": 1}])
    folder.write_rollouts(2, [{"a": 1}])
    (folder.rollouts / "step_old.jsonl").write_text("mine")
    (folder.rollouts / "step_000009_mine.jsonl").write_text("mine")
    for step in (1, 2):
        folder.evaluation(step).mkdir(parents=True)
        (folder.evaluation(step) / "mathvista.responses.jsonl").write_text("{}")
        (folder.evaluation(step) / "mathvista.robust.json").write_text("{}")
    (folder.evaluation(2) / "notes.txt").write_text("mine")
    (folder.evaluations / "step_mine").mkdir()
    folder.rewind(1)
    assert sorted(p.name for p in folder.rollouts.iterdir()) == [
        "step_000001.jsonl.zst",
        "step_000009_mine.jsonl",
        "step_old.jsonl",
    ]
    assert [p.name for p in folder.evaluation(2).iterdir()] == ["notes.txt"]
    assert len(list(folder.evaluation(1).iterdir())) == 2
    assert (folder.evaluations / "step_mine").is_dir()


def test_the_configuration_is_not_written_again_if_it_says_the_same(folder):
    folder.write_config("seed: 0\n")
    folder.config.chmod(0o444)
    before = folder.config.stat()
    folder.write_config("seed: 0\n")
    assert folder.config.stat().st_mtime_ns == before.st_mtime_ns
    assert folder.config.stat().st_ino == before.st_ino
    folder.write_config("seed: 1\n")
    assert folder.config.read_text() == "seed: 1\n"


def test_a_run_is_set_aside_whole_and_what_others_put_there_stays(folder):
    folder.write_config("seed: 0\n")
    folder.append_metrics({"step": 0})
    checkpoint(folder, 2)
    (folder.path / "notes.txt").write_text("mine")
    first = folder.set_aside()
    assert first == folder.path.with_name("run.old")
    assert sorted(p.name for p in first.iterdir()) == ["checkpoints", "config.yaml", "metrics.jsonl"]
    assert [p.name for p in folder.path.iterdir()] == ["notes.txt"]
    assert folder.set_aside() is None
    folder.append_metrics({"step": 0})
    assert folder.set_aside() == folder.path.with_name("run.old2")


def test_a_kill_while_a_run_is_set_aside_leaves_it_in_one_place_in_the_end(folder, monkeypatch):
    folder.write_config("seed: 0\n")
    folder.append_metrics({"step": 0})
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "own_entries", lambda self: [self.config, self.path / "gone"])
        with pytest.raises(RunFolderError):
            folder.set_aside()
    assert not folder.config.exists()
    aside = folder.set_aside()
    assert aside is not None
    assert sorted(p.name for p in aside.iterdir()) == ["checkpoints", "config.yaml", "metrics.jsonl"]
    assert [p.name for p in folder.path.parent.iterdir() if p != folder.path] == ["run.old"]


def test_trackers_know_a_run_by_what_they_knew_it_by_before(folder):
    assert folder.tracker_identity("wandb") is None
    for tracker, identity in (("wandb", "a1"), ("trackio", "b2")):
        assert folder.keep_tracker_identity(tracker, identity) == identity
    assert [folder.tracker_identity(tracker) for tracker in ("wandb", "trackio", "mlflow")] == ["a1", "b2", None]
    folder.trackers.write_text("{")
    assert folder.tracker_identity("wandb") is None


def spoil_state(path, change):
    state = json.loads((path / "trainer_state" / "state.json").read_text())
    change(state)
    (path / "trainer_state" / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: (path / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda path: (path / "model.safetensors").write_bytes(b"weight"), "model.safetensors has 6 bytes, not 7"),
        (lambda path: (path / "model.safetensors").write_bytes(b"weighus"), "model.safetensors has other bytes"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda path: (path / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda path: (path / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
        (lambda path: (path / "manifest.json").write_text('{"files": {}}'), "manifest.json does not name"),
        (lambda path: (path / "manifest.json").write_text('{"files": {"a": 1}}'), "a is missing"),
        (lambda path: (path / "manifest.json").write_text('{"files": {"model.safetensors": 1}}'), "cannot be read"),
        (lambda path: (path / "manifest.json").write_bytes(b"\xff"), "manifest.json cannot be read"),
        (lambda path: (path / "trainer_state/state.json").write_bytes(b""), "state.json cannot be read"),
        (lambda path: (path / "trainer_state/state.json").write_text("[]"), "state.json cannot be read"),
        (lambda path: spoil_state(path, lambda state: state.pop("step")), "state.json says something else"),
        (lambda path: spoil_state(path, lambda state: state["seconds"].update(rollout=1)), "state.json says something"),
    ],
)
def test_damage_of_a_checkpoint_is_named(folder, spoil, said):
    path = checkpoint(folder, 2)
    (path / "notes.txt").write_text("mine")
    assert damage(path, 2) is None
    spoil(path)
    assert said in (damage(path, 2) or "")


def test_a_copy_of_another_step_and_a_file_are_no_checkpoint(folder):
    path = checkpoint(folder, 4)
    path = path.rename(folder.checkpoint(6))
    assert damage(path, 6) == "it is a copy of step 4"
    folder.checkpoint(7).write_text("a file")
    assert damage(folder.checkpoint(7), 7) == "it is no folder"
    folder.checkpoint(8).mkdir()
    assert damage(folder.checkpoint(8), 8) == "manifest.json is missing"


def test_a_model_is_judged_by_its_own_files_and_by_nobody_else_s_manifest(folder):
    path = checkpoint(folder, 2)
    refuse_damaged_model(path)
    shutil.rmtree(path / "trainer_state")  # what a resume needs takes most of the disk
    refuse_damaged_model(path)
    for content in ('{"files": []}', '["checksum"]', "{", "3"):
        other = path.parent / "other"
        other.mkdir(exist_ok=True)
        (other / "manifest.json").write_text(content)
        refuse_damaged_model(other)
    refuse_damaged_model(path.parent / "nothing")
    model = next(file for file in path.iterdir() if file.name != "manifest.json")
    model.write_bytes(model.read_bytes() + b"x")
    with pytest.raises(RunFolderError, match=rf"the checkpoint {path} is damaged: {model.name} has"):
        refuse_damaged_model(path)
