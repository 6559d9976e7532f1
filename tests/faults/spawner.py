"""A process that has imported what a run needs and has never trained; sessions are forked from it.

Importing takes as long as ten short runs, so every test that needs a run in a process of its own asks for one here.

A process of pytest will not do: torch refuses a backward pass in a fork of a process whose autograd has threads, and
which of the tests before leave some is nobody's knowledge.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from faults.watch import Watch

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "TOKENIZERS_PARALLELISM": "false"}


class Child:
    """A session forked from the spawner: `pid`, which any process may send signals to, and as much of `Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = _ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float = 600) -> int:
        """Its exit status once it has ended; raises AssertionError if that takes too long."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < deadline, f"process {self.pid} does not end"
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """If it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Without warning."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """As a batch system does."""
        self.send_signal(signal.SIGTERM)


def fork(
    command: Sequence[str],
    log: Path,
    watch: Watch | None = None,
    *,
    errors: Path | None = None,
    script: str | None = None,
    ranks: int = 0,
    largest_file: int | None = None,
    **environment: str,
) -> Child:
    """Run `mmhicra COMMAND` in a session of its own; returns at once.

    Args:
        command: the arguments of the console command.
        log: what it prints is appended to this file.
        watch: of its file operations.
        errors: where standard error goes, if not to `log`.
        script: a file to run as the main program instead.
        ranks: so many processes, under the launcher that torchrun is the command line of; 0 for one without it.
        largest_file: bytes that no file may grow beyond; writing more is an error, not a signal.
        environment: variables that it has beside those of the spawner.
    """
    files = {"log": str(log), "errors": str(errors or log), "watch": _packed(watch)}
    what = {"command": list(command), "script": script, "ranks": ranks, "environment": environment}
    what["largest_file"] = largest_file
    return Child(_ask({**what, **files}))


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


def warm_vllm() -> None:
    """The same for runs with vLLM, whose import takes as long as all the others together."""
    from mmhicra.rollout.vllm import loading

    os.environ |= {**loading.ENVIRONMENT, **loading.LOGGED, **os.environ, **loading.IN_PROCESS}
    import vllm
    import vllm.model_executor.models.qwen2_5_vl
    import vllm.v1.worker.cpu_model_runner
    import vllm.v1.worker.cpu_worker  # noqa: F401


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
            if "rollout.engine=vllm" in request["command"]:
                warm_vllm()
            answer = os.fork()
            if answer == 0:
                _run(request)
        print(json.dumps(answer), flush=True)


def _run(request: dict[str, Any]) -> None:
    """In the child; never returns."""
    code = 70
    try:
        os.setsid()
        log, errors = (
            os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) for name in ("log", "errors")
        )
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, number in ((nothing, 0), (log, 1), (errors, 2)):
            os.dup2(source, number)
        for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(caught, signal.default_int_handler if caught == signal.SIGINT else signal.SIG_DFL)
        os.environ.update(request["environment"])
        if request["largest_file"] is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"], resource.RLIM_INFINITY))
        watch = _unpacked(request["watch"])
        if watch is not None:
            watch.install()
        begin = _launch if request["ranks"] else _enter
        begin(request)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:  # noqa: BLE001 - what escapes is a finding; the log has it
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _enter(request: dict[str, Any]) -> None:
    """The main program; raises SystemExit if it does not end well."""
    sys.argv = [request["script"] or "mmhicra", *request["command"]]
    if request["script"]:
        runpy.run_path(request["script"], run_name="__main__")
        return
    from mmhicra.cli import main

    status = main(request["command"])
    if status:
        sys.exit(status)


def _launch(request: dict[str, Any]) -> None:
    """As `torchrun --standalone --nproc-per-node RANKS` does it, with forks in place of new interpreters."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    standalone = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": str(uuid.uuid4())}
    sizes = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": request["ranks"], "max_restarts": 0}
    config = LaunchConfig(**sizes, **standalone, start_method="fork", monitor_interval=0.1)
    try:
        elastic_launch(config, _enter)(request)
    except ChildFailedError as failed:
        print(failed, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    serve()
