"""A training run from configuration to summary: what is checked first, the loop, and what is left behind."""

from __future__ import annotations

import logging
import os
import platform
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import accelerate
import torch
import transformers
from accelerate import InitProcessGroupKwargs

from mmhicra.config import RunConfig
from mmhicra.core.errors import DataError, RunFolderError
from mmhicra.core.logs import LogFile, log_file, logged, note
from mmhicra.core.run_folder import RunFolder, bytes_in
from mmhicra.data.digest import digest_problems
from mmhicra.train.distributed.processes import describe, make_accelerator
from mmhicra.train.loop.assembly import Assembly, assemble
from mmhicra.train.loop.best import value_of
from mmhicra.train.loop.checkpoint import restore_checkpoint
from mmhicra.train.loop.checkpoint_writer import CheckpointWriter
from mmhicra.train.loop.disk import bytes_text, disk_need, free_bytes
from mmhicra.train.loop.loop import Interrupted, Run, new_state
from mmhicra.train.loop.opening import Opening, Resume, on_main, open_run
from mmhicra.train.loop.stopping import INTERRUPTED, GraceOver, Stopping
from mmhicra.train.loop.summary import summarise_run
from mmhicra.train.loop.terminal import Terminal
from mmhicra.train.loop.trackers import open_trackers, refuse_missing_trackers

__all__ = ["EXPECTED", "Interrupted", "Run", "train"]

EXPECTED = (Interrupted, GraceOver)
"""How a run may end beside a refusal, and is no fault of the program."""


def train(
    config: RunConfig, *, resume: Resume = False, overwrite: bool = False, terminal: Terminal | None = None
) -> dict[str, Any]:
    """Run training to its end and return the summary.

    Args:
        config: a checked configuration.
        resume: continue from the newest checkpoint in the run folder; `auto` does if it holds a run.
        overwrite: start anew, and move a run that is already in the folder aside.
        terminal: where to print.

    Raises:
        UserError: something the user can mend, before or during the run.
        Interrupted: Ctrl-C, SIGTERM, SIGHUP or SIGUSR1; it says what was saved.
        KeyboardInterrupt: one of them before anything was trained.
    """
    started = time.perf_counter()
    refuse_missing_trackers(config.log)
    transformers.utils.logging.disable_progress_bar()  # its bars break ours
    patience = InitProcessGroupKwargs(timeout=timedelta(seconds=config.train.rank_timeout))
    accelerator = make_accelerator(patience)
    terminal = terminal or Terminal(quiet=not accelerator.is_main_process)
    with ExitStack() as stack:
        log = stack.enter_context(logged(terminal.handler, to_file=True, libraries=logging.ERROR, expected=EXPECTED))
        if config.threads:
            torch.set_num_threads(config.threads)
        for line in describe(config, accelerator):
            terminal.say(line)
        torch.manual_seed(config.seed)
        if config.train.deterministic:
            stack.enter_context(deterministic_operations())
        stop = stack.enter_context(Stopping(quiet=not accelerator.is_main_process))
        opening = open_run(config, resume, overwrite, accelerator, terminal, stack)
        log.candidate = opening.folder.log(accelerator.process_index)
        parts = assemble(config, opening.checked(), accelerator, terminal, stack)
        run = begin(config, opening, parts, terminal, stop, stack)
        open_log(log, run)
        run.started = started
        stop.begin(config.train.grace_seconds, None if parts.trainer.ranks.count == 1 else lambda: abandon(run))
        try:
            run.loop()
        except GraceOver:
            raise Interrupted(run.give_up_step()) from None
        summary = summarise_run(run)
        if accelerator.is_main_process:
            run.folder.write_summary(summary)
        return summary


@contextmanager
def deterministic_operations() -> Iterator[None]:
    """Operations of torch that give the same bits every time, where there are any; the others warn."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def open_log(log: LogFile, run: Run) -> None:
    """Begin this process's log file, or say why there is none: the run goes on without."""
    path = run.folder.log(run.parts.trainer.ranks.index)
    if reason := log.open(path):
        run.terminal.say(f"warning: cannot write {path} ({reason}): this start has no log file")
    accelerator = run.parts.trainer.accelerator
    note(
        logging.DEBUG,
        f"process {os.getpid()} on {socket.gethostname()}, rank {accelerator.process_index} of "
        f"{accelerator.num_processes} on {accelerator.device}; Python {platform.python_version()}, torch "
        f"{torch.__version__}, transformers {transformers.__version__}, accelerate {accelerate.__version__}",
    )


def begin(
    config: RunConfig, opening: Opening, parts: Assembly, terminal: Terminal, stop: Stopping, stack: ExitStack
) -> Run:
    """The run at its first step, or where the one in the folder stood; from here on the folder is this run's.

    Raises:
        UserError: the checkpoint does not fit, or the folder cannot be written.
    """
    folder, trainer = opening.folder, parts.trainer
    state = new_state()
    held_out = digest_problems(parts.held_out)
    if opening.checkpoint is not None:
        with trainer.ranks.refusing_together():
            state |= restore_state(opening, config, parts, held_out)
        terminal.say(f"resuming after step {trainer.step_number} from {opening.checkpoint}")
        plan_anew(opening, config, parts, terminal)
    elif opening.resumes:
        terminal.say(f"{folder.path} has no checkpoint yet: its run starts at the beginning")
    state["held_out"] = held_out
    on_main(trainer.accelerator, lambda: check_disk(config, folder, parts, terminal))
    sinks = []
    with trainer.ranks.refusing_together():
        if trainer.ranks.is_main:
            opening.take(config, terminal)
            sent, after = rewind(opening, trainer.step_number, terminal) if opening.resumes else (0, None)
            if opening.checkpoint is not None and state["best"]:
                folder.write_best(state["best"])  # a kill may have come between the checkpoint and this file
            sinks = open_trackers(config.log, folder, config.model_dump(), after, sent, terminal.say)
            for sink in sinks:
                stack.callback(sink.close)
    saved = trainer.step_number if opening.checkpoint is not None else None
    writer = CheckpointWriter(folder, trainer, parts.processor)
    return Run(config, folder, terminal, parts, sinks, stop, writer, state, saved=saved)


def restore_state(opening: Opening, config: RunConfig, parts: Assembly, held_out: str) -> dict[str, Any]:
    """Put the trainer where the checkpoint was written; returns the run's own facts.

    Raises:
        RunFolderError: the run has done more steps than are configured, or the checkpoint does not fit.
        DataError: the held-out problems are others than before training.
    """
    assert opening.checkpoint is not None
    kept = restore_checkpoint(opening.checkpoint, parts.trainer)
    done = parts.trainer.step_number
    if done > config.train.steps:
        raise RunFolderError(
            f"{opening.folder.path} has done {done} steps, more than train.steps ({config.train.steps}): "
            f"set it to {done} or more, or start another run"
        )
    if kept["held_out"] not in (None, held_out):
        raise DataError(
            "cannot resume: the held-out problems changed since the checkpoint; put the data back, or start a new run"
        )
    if kept["before"] and not config.eval.benchmarks:
        value_of(config.eval, kept["before"]["record"])  # a wrong eval.best_by is refused here
    return {name: kept[name] for name in new_state() if name in kept}


def check_disk(config: RunConfig, folder: RunFolder, parts: Assembly, terminal: Terminal) -> None:
    """Say what the run takes of the disk, and whether it may not fit.

    Raises:
        RunFolderError: the next checkpoint cannot fit: all that is trained until then would be lost.
    """
    done = parts.trainer.step_number
    if done == config.train.steps:
        return
    need = disk_need(config, parts.parameters["total"], parts.parameters["trained"], done)
    free = free_bytes(folder.path)
    terminal.say(f"disk: {need}; {bytes_text(free)} free for {folder.path}")
    if need.checkpoint > free:
        raise RunFolderError(
            f"cannot write {folder.checkpoints}: No space left on device for a checkpoint, which takes "
            f"{bytes_text(need.checkpoint)} of {bytes_text(free)}; free or choose another run_folder"
        )
    if need.limit is not None and need.least > need.limit:
        raise RunFolderError(
            f"log.checkpoint_gib ({config.log.checkpoint_gib:g}) is too little: the newest whole checkpoint, the best "
            f"one and the one that is written, as far as this run has them, take {need.least / 2**30:.3g} GiB: raise "
            "it, or set eval.keep_best to false"
        )
    lying = bytes_in(folder.checkpoints) if folder.checkpoints.exists() else 0
    if need.total - lying > free:
        terminal.say(
            "disk: it may be full before the run ends, which then stops and can be resumed; lower "
            f"log.keep_checkpoints ({config.log.keep_checkpoints}), or set log.rollouts_keep or log.rollouts_share"
        )


def plan_anew(opening: Opening, config: RunConfig, parts: Assembly, terminal: Terminal) -> None:
    """With another number of steps than before, go by the schedule of the new number from the next update on."""
    steps, before, options = config.train.steps, opening.steps_before, config.train.optimizer
    if before in (None, steps):
        return
    schedule = parts.trainer.schedule
    assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
    planned = schedule.get_last_lr()[0]
    rates = [
        base * factor(schedule.last_epoch) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    schedule._last_lr = rates  # what the checkpoint holds is the rate of the old plan
    for group, rate in zip(parts.trainer.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    what = "the learning rate is constant"
    if options.schedule != "constant":
        what = (
            f"the {options.schedule} schedule ends at the new last step; the learning rate of step "
            f"{parts.trainer.step_number + 1} is {rates[0]:.3g}, by the old plan it was {planned:.3g}"
        )
    terminal.say(f"train.steps was {before}, is {steps}: {what}")


def rewind(opening: Opening, step: int, terminal: Terminal) -> tuple[int, int]:
    """Take back what was written after the checkpoint; the last step that was logged, and the last that stays."""
    folder, after = opening.folder, step if opening.checkpoint is not None else -1
    sent = max(folder.recorded_steps(), default=0)
    lost = folder.rewind(after)
    if lost:
        terminal.say(
            f"{folder.metrics} does not tell of {len(lost)} steps before the checkpoint (first {lost[0]}, last "
            f"{lost[-1]}): they were trained, but their numbers are lost"
        )
    return sent, after


def abandon(run: Run) -> None:
    """End this process where a step takes longer than the grace time and other processes may be waited for."""
    if run.is_main:
        newest = run.folder.latest_checkpoint()
        where = f"go on from {newest} with --resume" if newest else "there is no checkpoint yet"
        run.terminal.say(f"the step did not end within {run.config.train.grace_seconds:g} s and is given up: {where}")
    if (log := log_file()) is not None:
        note(logging.WARNING, "the step did not end within train.grace_seconds: where each thread stands follows")
        log.dump_threads()
    os._exit(INTERRUPTED)
