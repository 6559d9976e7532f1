"""A copy of the repository in which one mistake at a time is planted, and tests that run on it in forked processes.

The parent imports what takes long and never changes (torch, transformers, pytest); a fork costs milliseconds. Nothing
of mmhicra is imported before the fork, so every child sees the copy as it is then.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mutants import REPOSITORY, Mutant

TIME_LIMIT = 420
"""Seconds for the tests of one mutant: a hang is noticed too."""
KILLED, SURVIVED, HANGS, BROKEN = "killed", "survived", "killed (hangs)", "broken"


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: `state`, the seconds it took, and the tail of what pytest said."""

    state: str
    seconds: float
    output: str

    @property
    def noticed(self) -> bool:
        """Whether a test failed."""
        return self.state in (KILLED, HANGS)


class Workshop:
    """A copy of the tracked and the new files of the repository.

    Args:
        folder: empty; the copy goes there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            text=True,
        )
        for name in listed.stdout.splitlines():
            source = REPOSITORY / name
            if source.is_file():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)

    def judge(self, mutant: Mutant, time_limit: float = TIME_LIMIT) -> Verdict:
        """Plant `mutant`, run its tests until one fails, and take it out again."""
        path = self.folder / mutant.file
        source, times = path.read_text(encoding="utf-8"), path.stat()
        path.write_text(mutant.plant(source), encoding="utf-8")
        # Python takes a compiled file for that of the source if second and size agree: neither must happen by chance.
        os.utime(path, (times.st_atime, times.st_mtime + 10))
        try:
            return self.run(mutant.tests, time_limit)
        finally:
            path.write_text(source, encoding="utf-8")
            os.utime(path, (times.st_atime, times.st_mtime))

    def run(self, tests: Sequence[str], time_limit: float = TIME_LIMIT) -> Verdict:
        """Run `tests` on the copy as it is until one fails."""
        start = time.monotonic()
        output = self.folder / "pytest.log"
        child = os.fork()
        if child == 0:
            _run_pytest(self.folder, output, tests)
        status = _wait(child, time_limit)
        said = output.read_text(encoding="utf-8", errors="replace")[-4000:]
        state = HANGS if status is None else {0: SURVIVED, 1: KILLED, 2: KILLED}.get(status, BROKEN)
        return Verdict(state, time.monotonic() - start, said)


def warm_up() -> None:
    """Import what every child needs and no mutant changes."""
    import hypothesis
    import peft
    import pytest
    import scipy.stats
    import torch
    import torch.distributed.tensor
    import transformers
    import transformers.models.qwen2_5_vl
    import transformers.models.qwen3_vl

    torch.set_num_threads(1)
    assert all((hypothesis, peft, pytest, scipy, transformers))
    assert "mmhicra" not in sys.modules


def _run_pytest(folder: Path, output: Path, tests: Sequence[str]) -> None:
    """In the child: pytest in a process group of its own; never returns."""
    import pytest

    status = 3
    try:
        os.setpgid(0, 0)
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(folder)
        sys.dont_write_bytecode = True
        os.environ |= {"PYTHONPATH": f"{folder}:{folder / 'tests'}", "PYTHONDONTWRITEBYTECODE": "1"}
        kept = [place for place in sys.path if not (Path(place) / "mmhicra").is_dir() and Path(place).name != "mutants"]
        sys.path[:] = [str(folder), *kept]
        import mmhicra

        assert Path(str(mmhicra.__file__)).is_relative_to(folder), mmhicra.__file__
        basetemp = folder / "pytest_temp"
        status = int(pytest.main(["-x", "-p", "no:cacheprovider", f"--basetemp={basetemp}", *tests]))
    finally:
        sys.stdout.flush()
        os._exit(status)


def _wait(child: int, time_limit: float) -> int | None:
    """The exit status of `child`, or None if it had to be killed."""
    deadline = time.monotonic() + time_limit
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            _end_group(child)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    _end_group(child)
    os.waitpid(child, 0)
    return None


def _end_group(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
