"""A file is the old one or the new one, whatever happens while it is written; a failed write is one line."""

import errno
import os
import stat

import pytest
from safetensors.torch import save_file
from torch import zeros

from mmhicra.core.errors import RunFolderError
from mmhicra.core.files import append_line, free_name, json_text, sync_tree, write_whole, writing


def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("broken", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, broken):
    path = tmp_path / "summary.json"
    write_whole(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(broken, full)
        with pytest.raises(RunFolderError, match=r"cannot write .*summary\.json: No space left on device"):
            write_whole(path, "new")
    assert path.read_text() == "old"
    write_whole(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
    assert path.read_text() == "new"


def test_the_way_out_is_the_callers(tmp_path):
    with pytest.raises(RunFolderError, match="No such file or directory; name another file with --out"):
        write_whole(tmp_path / "gone" / "x.json", "{}", way_out="name another file with --out")


def test_a_lone_surrogate_becomes_the_escape_that_json_has(tmp_path):
    append_line(tmp_path / "x.jsonl", json_text({"text": "a\ud800é"}))
    assert (tmp_path / "x.jsonl").read_bytes() == '{"text": "a\\ud800é"}\n'.encode()


@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail at inline_container.cc:672] . unexpected pos 15552 vs 15444",
        "PytorchStreamWriter failed writing file data/0",
        "Error while serializing: I/O error: No space left on device (os error 28)",
    ],
)
def test_what_torch_and_safetensors_make_of_a_full_disk(tmp_path, message):
    with pytest.raises(RunFolderError, match="No space left on device"), writing(tmp_path):
        raise RuntimeError(message)


def test_another_error_of_the_system_keeps_its_words(tmp_path):
    with pytest.raises(RunFolderError, match=r"Read-only file system \(os error 30\)"), writing(tmp_path):
        raise RuntimeError("I/O error: Read-only file system (os error 30)")


def test_a_bug_stays_a_bug(tmp_path):
    with pytest.raises(RuntimeError, match="shape"), writing(tmp_path):
        raise RuntimeError("shape mismatch")


def test_private_files_become_as_readable_as_new_ones(tmp_path):
    (tmp_path / "inside").mkdir()
    weights = tmp_path / "inside" / "model.safetensors"
    save_file({"w": zeros(3)}, weights)
    weights.chmod(0o600)
    before = os.umask(0o027)
    try:
        sync_tree(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(weights.stat().st_mode) == 0o640


def test_names_that_are_taken_get_a_number(tmp_path):
    names = []
    for _ in range(3):
        names.append(free_name(tmp_path / "run", ".old").name)
        (tmp_path / names[-1]).mkdir()
    assert names == ["run.old", "run.old2", "run.old3"]
