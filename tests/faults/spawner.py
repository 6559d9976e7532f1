"""A process that has imported what a run needs and has never trained; sessions are forked from it.

A process of pytest will not do: torch refuses a backward pass in a fork of a process whose autograd has threads, and
which of the tests before leave some is nobody's knowledge.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from faults.watch import Watch

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "TOKENIZERS_PARALLELISM": "false"}


class Child:
    """A session forked from the spawner: `pid`, which any process may send signals to."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs. Not to be asked again afterwards."""
        return _ask({"poll": self.pid})


def fork(command: Sequence[str], log: Path, watch: Watch | None = None) -> Child:
    """Run the command in a session of its own; returns at once."""
    return Child(_ask({"command": list(command), "log": str(log), "watch": _packed(watch)}))


def warm() -> None:
    """Import what a run needs, before forking."""
    import peft  # noqa: F401
    import torch
    import torch.utils.tensorboard
    import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl  # noqa: F401

    import mmhicra.commands.train
    import mmhicra.rewards.verify
    import mmhicra.train.loop.assembly
    import mmhicra.train.loop.run  # noqa: F401

    torch.set_num_threads(1)
    os.environ.update(ENVIRONMENT)


@cache
def _spawner() -> subprocess.Popen[str]:
    """Started when it is first needed; it ends when its standard input does."""
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-m", "faults.spawner"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _ask(request: dict[str, Any]) -> Any:
    process = _spawner()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def _packed(watch: Watch | None) -> dict[str, Any] | None:
    return None if watch is None else {**asdict(watch), "folder": str(watch.folder), "record": str(watch.record)}


def _unpacked(packed: dict[str, Any] | None) -> Watch | None:
    if packed is None:
        return None
    return Watch(**{**packed, "folder": Path(packed["folder"]), "record": Path(packed["record"])})


def serve() -> None:
    """Answer requests, one JSON line each, until the input ends: fork a session, or tell how one ended."""
    warm()
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            done, raw = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(raw) if done else None
        else:
            answer = os.fork()
            if answer == 0:
                _run(request["command"], request["log"], _unpacked(request["watch"]))
        print(json.dumps(answer), flush=True)


def _run(command: list[str], log: str, watch: Watch | None) -> None:
    """In the child; never returns."""
    code = 70
    try:
        os.setsid()
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, number in ((nothing, 0), (written, 1), (written, 2)):
            os.dup2(source, number)
        for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(caught, signal.default_int_handler if caught == signal.SIGINT else signal.SIG_DFL)
        if watch is not None:
            watch.install()
        from mmhicra.cli import main

        code = main(command)
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:  # noqa: BLE001 - what escapes is a finding; the log has it
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
