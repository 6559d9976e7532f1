"""A training run from configuration to summary: what is checked first, the loop, and what is left behind."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import torch
import transformers

from mmhicra.config import RunConfig
from mmhicra.train.assembly import assemble
from mmhicra.train.checkpoint import restore_checkpoint
from mmhicra.train.loop import Interrupted, Run
from mmhicra.train.metrics import open_sinks, refuse_missing_trackers
from mmhicra.train.processes import describe, make_accelerator
from mmhicra.train.resume import open_folder
from mmhicra.train.run_folder import RunFolder
from mmhicra.train.stopping import stopping_softly
from mmhicra.train.summary import summarise_run
from mmhicra.train.terminal import Terminal

__all__ = ["Interrupted", "Run", "train"]


def train(
    config: RunConfig, *, resume: bool = False, overwrite: bool = False, terminal: Terminal | None = None
) -> dict[str, Any]:
    """Run training to its end and return the summary.

    Args:
        config: a checked configuration.
        resume: continue from the newest checkpoint in the run folder.
        overwrite: replace a run that is already in the folder.
        terminal: where to print.

    Raises:
        Refusal: something the user can mend, before or during the run.
        Interrupted: Ctrl-C or SIGTERM, after a checkpoint was written.
    """
    started = time.perf_counter()
    refuse_missing_trackers(config.log)
    transformers.utils.logging.disable_progress_bar()  # its bars break ours
    accelerator = make_accelerator()
    terminal = terminal or Terminal(quiet=not accelerator.is_main_process)
    if config.threads:
        torch.set_num_threads(config.threads)
    for line in describe(config, accelerator):
        terminal.say(line)
    torch.manual_seed(config.seed)
    folder = RunFolder(config.run_folder)
    checkpoint = open_folder(folder, config, resume, overwrite, accelerator)
    with ExitStack() as stack:
        parts = assemble(config, folder, accelerator, terminal, stack)
        first_step = 0
        state = None
        if checkpoint is not None:
            state = restore_checkpoint(checkpoint, parts.trainer)
            first_step = parts.trainer.step_number
            terminal.say(f"resuming after step {first_step} from {checkpoint}")
        if resume and accelerator.is_main_process:
            folder.rewind(first_step if checkpoint else -1)
        name = folder.path.name
        sinks = (
            open_sinks(config.log, folder.path, name, config.model_dump(), first_step)
            if accelerator.is_main_process
            else []
        )
        for sink in sinks:
            stack.callback(sink.close)
        run = Run(config, folder, terminal, parts, sinks)
        if state is not None:
            run.state = {key: state.get(key) for key in run.state}
        with stopping_softly(run):
            run.loop()
        summary = summarise_run(run, time.perf_counter() - started)
        if accelerator.is_main_process:
            folder.write_summary(summary)
        return summary
