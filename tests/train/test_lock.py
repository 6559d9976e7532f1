"""One training at a time in a folder, and none is held up by a dead one."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from mmhicra.core.errors import RunFolderError
from mmhicra.train.loop import lock
from mmhicra.train.loop.lock import RunLock

HOLD = (
    "import sys, time; from pathlib import Path; from mmhicra.train.loop.lock import RunLock;"
    "held = RunLock(Path(sys.argv[1])); held.acquire(); print('held', flush=True); time.sleep(600)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def no_locks(monkeypatch):
    """A file system without locks, as some network file systems are."""

    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)


def taken(folder):
    other = RunLock(folder)
    with pytest.raises(RunFolderError) as refusal:
        other.acquire()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_the_second_is_told_who_the_first_is(tmp_path, holder):
    said = taken(tmp_path)
    assert f"process {holder.pid} on {socket.gethostname()}" in said
    assert str(tmp_path) in said


def test_a_killed_process_holds_nobody_up(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / ".lock").read_text())["process"] == holder.pid
    held = RunLock(tmp_path)
    held.acquire()
    assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    held.release()
    assert (tmp_path / ".lock").read_bytes() == b""


def test_without_locks_of_the_file_system_the_record_counts(tmp_path, holder, monkeypatch):
    no_locks(monkeypatch)
    assert f"process {holder.pid}" in taken(tmp_path)
    holder.kill()
    holder.wait()
    held = RunLock(tmp_path)
    held.acquire()
    held.release()


def test_a_number_that_another_process_has_by_now_is_stale(tmp_path, monkeypatch):
    no_locks(monkeypatch)
    record = {**lock.own_record(), "started": 1.0}
    (tmp_path / ".lock").write_text(json.dumps(record))
    RunLock(tmp_path).acquire()


@pytest.mark.parametrize("kernel", [True, False], ids=["locks within a host", "no locks"])
@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.slow
def test_another_host_is_watched(tmp_path, monkeypatch, kernel, alive):
    if not kernel:
        no_locks(monkeypatch)
    monkeypatch.setattr(lock, "WATCH_SECONDS", 1.0)
    path, done = tmp_path / ".lock", threading.Event()
    path.write_text(json.dumps({**lock.own_record(), "host": "elsewhere", "process": 7}))

    def touch():
        while not done.wait(0.1):
            os.utime(path)

    toucher = threading.Thread(target=touch)
    said = []
    if alive:
        toucher.start()
        assert "process 7 on elsewhere" in taken(tmp_path)
        done.set()
        toucher.join()
    else:
        RunLock(tmp_path, said.append).acquire()
        assert "process 7 on elsewhere" in said[0]


def test_a_holder_touches_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "TOUCH_SECONDS", 0.05)
    held = RunLock(tmp_path)
    held.acquire()
    os.utime(tmp_path / ".lock", (1, 1))
    deadline = time.monotonic() + 30
    while (tmp_path / ".lock").stat().st_mtime == 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (tmp_path / ".lock").stat().st_mtime > 1
    held.release()


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    """A child of a killed training may live on for a while."""
    code = (
        "import os, sys, time; from pathlib import Path; from mmhicra.train.loop.lock import RunLock;"
        "held = RunLock(Path(sys.argv[1])); held.acquire()\n"
        "if os.fork() == 0: time.sleep(60); os._exit(0)\n"
        "print('held', flush=True); os.kill(os.getpid(), 9)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.wait()
    try:
        RunLock(tmp_path).acquire()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"host": 1}'])
def test_a_damaged_record_holds_nobody_up(tmp_path, content):
    (tmp_path / ".lock").write_bytes(content)
    RunLock(tmp_path).acquire()
