"""A training run from configuration to summary: the door, the loop, and what is left behind."""

from __future__ import annotations

import platform
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator

import mmhicra
from mmhicra.config import BenchmarkConfig, RunConfig
from mmhicra.config_loading import dump_config, read_yaml
from mmhicra.refusals import ConfigRefusal, RunFolderRefusal
from mmhicra.train.assembly import Assembly, assemble
from mmhicra.train.best import better, value_of
from mmhicra.train.checkpoint import restore_checkpoint, save_checkpoint
from mmhicra.train.evaluation import Evaluation, evaluate, paired_change, summarise
from mmhicra.train.metrics import Sink, open_sinks, refuse_missing_trackers
from mmhicra.train.rollout_records import rollout_records
from mmhicra.train.run_folder import RunFolder
from mmhicra.train.sharding import gathered
from mmhicra.train.terminal import Terminal

NOTHING_HELD_OUT: dict[str, Any] = {"accuracy": None, "by_task": None, "by_problem": [], "record": {}}
"""The facts of an evaluation without held-out problems."""

MAY_CHANGE_ON_RESUME = (
    "run_folder",
    "threads",
    "train.steps",
    "eval",
    "log",
    "reward.workers",
    "reward.time_limit",
)
"""What a resumed run may set anew; anything else would make it another run."""


class Interrupted(Exception):
    """The run stopped early at the user's wish, after saving."""


@dataclass
class Run:
    """One run and its progress; `state` is what checkpoints carry beside the trainer's own."""

    config: RunConfig
    folder: RunFolder
    terminal: Terminal
    parts: Assembly
    sinks: Sequence[Sink]
    state: dict[str, Any] = field(default_factory=lambda: {"seconds": {}, "before": None, "latest": None, "best": None})
    stop_requested: bool = False

    @property
    def steps(self) -> int:
        """How many steps the whole run has."""
        return self.config.train.steps

    def loop(self) -> None:
        """Evaluate, train step by step, evaluate, and keep everything on disk."""
        trainer = self.parts.trainer
        if self.state["before"] is None and self.evaluates:
            self.state["before"] = self.evaluate("before training")
            value_of(self.config.eval, self.state["before"]["record"])  # a wrong eval.best_by is refused here
            self.write({"step": 0, **self.state["before"]["record"]})
        with self.terminal.watch("training", self.steps, trainer.step_number) as bar:
            trainer.collector.progress = self.terminal.show_phase
            while trainer.step_number < self.steps and not self.stopping():
                self.take_step()
                self.terminal.advance(bar, trainer.step_number)
        if trainer.step_number < self.steps:
            self.save()
            raise Interrupted

    def stopping(self) -> bool:
        """Whether any rank was asked to stop: all of them stop after the same step, or they would wait for ever."""
        return bool(self.parts.trainer.ranks.max(float(self.stop_requested)))

    def take_step(self) -> None:
        """One step with its record, rollouts, evaluation and checkpoint."""
        trainer, started = self.parts.trainer, time.perf_counter()
        numbers, rollouts = trainer.step()
        step, last = trainer.step_number, trainer.step_number == self.steps
        numbers["time/step"] = time.perf_counter() - started
        for name, seconds in numbers.items():
            if name.startswith("time/"):
                self.spend(name.removeprefix("time/"), seconds)
        grams = self.parts.gram_library.content_hash[:12]
        record: dict[str, Any] = {"step": step, "grams": grams, **numbers}
        if trainer.worst_problem is not None:
            record["engine/worst_problem"] = trainer.worst_problem
        if self.due(self.config.log.rollouts_every):
            records = trainer.ranks.gather(list(rollout_records(step, rollouts, trainer.crediting)))
            if self.is_main:
                self.folder.write_rollouts(step, records)
        improved = False
        if (last or self.due(self.config.eval.every)) and self.evaluates:
            self.state["latest"] = self.evaluate("after training" if last else f"after step {step}")
            record |= self.state["latest"]["record"]
            improved = self.note_best(self.state["latest"]["record"])
        self.write(record)
        self.terminal.show_step(record, self.steps)
        if last or improved or self.due(self.config.log.checkpoint_every):
            self.save()
        if improved and self.is_main:
            self.folder.write_best(self.state["best"])

    def due(self, every: int) -> bool:
        """Whether something that happens every so many steps happens after this one; 0 is never."""
        return bool(every) and self.parts.trainer.step_number % every == 0

    @property
    def evaluates(self) -> bool:
        """Whether there is anything to evaluate on."""
        return bool(self.config.eval.problems or self.config.eval.benchmarks)

    def note_best(self, record: dict[str, Any]) -> bool:
        """Remember this evaluation if it is the best so far; whether its checkpoint is to be kept."""
        if not self.config.eval.keep_best:
            return False
        best = better(self.state["best"], self.parts.trainer.step_number, *value_of(self.config.eval, record))
        self.state["best"] = best or self.state["best"]
        return best is not None

    def evaluate(self, when: str) -> dict[str, Any]:
        """Held-out problems and benchmarks now, as JSON-able facts that a checkpoint can carry."""
        trainer = self.parts.trainer
        with trainer.time("evaluation"):
            facts = NOTHING_HELD_OUT if not self.config.eval.problems else self.evaluate_held_out(when)
            record = self.parts.benchmarks.evaluate(trainer, self.folder, self.terminal, when)
        self.spend("evaluation", trainer.time.seconds["evaluation"])
        return {**facts, "record": {**facts["record"], **record}}

    def evaluate_held_out(self, when: str) -> dict[str, Any]:
        """Held-out accuracy now, as JSON-able facts."""
        trainer, options = self.parts.trainer, self.config.eval
        mine = trainer.ranks.share(self.parts.held_out)
        # Ranks may have different numbers of problems: none may wait for another in between.
        with (
            self.terminal.watch(f"evaluating {when}", len(mine) * options.n) as bar,
            gathered(trainer.policy),
        ):
            outcomes = evaluate(
                trainer.collector.engine,
                trainer.collector.rewarder,
                trainer.collector.prepare,
                mine,
                self.parts.evaluation_sampling,
                self.config.seed,
                at_a_time=max(1, self.config.rollout.max_sequences // options.n),
                on_finish=lambda done: self.terminal.advance(bar, done),
            )
        trainer.collector.engine.rest()
        result = summarise(trainer.ranks.gather_shares(outcomes))
        self.terminal.say(f"held-out accuracy {when}: {result.accuracy}")
        return evaluation_facts(result)

    def spend(self, phase: str, seconds: float) -> None:
        """Add to the run's seconds by phase."""
        self.state["seconds"][phase] = self.state["seconds"].get(phase, 0.0) + seconds

    @property
    def is_main(self) -> bool:
        """Whether this rank writes."""
        return self.parts.trainer.accelerator.is_main_process

    def write(self, record: dict[str, Any]) -> None:
        """Append to `metrics.jsonl`, with the memory held until now, and show it wherever the configuration says."""
        if not self.is_main:
            return
        trainer = self.parts.trainer
        by_phase = {f"memory/{phase}_gib": held for phase, held in trainer.time.memory.items()}
        record = {**record, "memory/peak_gib": trainer.memory.altogether(), **by_phase}
        self.folder.append_metrics(record)
        for sink in self.sinks:
            sink.log(record["step"], record)

    def save(self) -> None:
        """Write a checkpoint now."""
        started = time.perf_counter()
        keep = self.config.log.keep_checkpoints
        best = self.state["best"] and self.state["best"]["step"]
        save_checkpoint(self.folder, self.parts.trainer, self.parts.processor, self.state, keep, best)
        self.parts.trainer.accelerator.wait_for_everyone()
        self.spend("checkpoint", time.perf_counter() - started)

    def summary(self, wall_seconds: float) -> dict[str, Any]:
        """What `summary.json` says."""
        before, after = self.state["before"], self.state["latest"]
        change = None
        if before and after and after["by_problem"]:
            mean, low, high = paired_change(before["by_problem"], after["by_problem"])
            change = {"mean": mean, "low": low, "high": high}
        checkpoint = self.folder.latest_checkpoint()
        return {
            "steps": self.parts.trainer.step_number,
            "held_out": {
                "before": before and before["accuracy"],
                "after": after and after["accuracy"],
                "change": change,
                "by_task_before": before and before["by_task"],
                "by_task_after": after and after["by_task"],
                "temperature": self.config.eval.temperature,
                "completions_per_problem": self.config.eval.n,
            },
            "benchmarks": {
                "before": before and benchmark_metrics(before["record"], self.config.eval.benchmarks),
                "after": after and benchmark_metrics(after["record"], self.config.eval.benchmarks),
            },
            "best": self.state["best"],
            "problems": {
                "train": len(self.parts.trainer.collector.stream.problems),
                "held_out": len(self.parts.held_out),
                "refused": self.parts.refused,
            },
            "wall_seconds": wall_seconds,
            "seconds_by_phase": self.state["seconds"],
            "method": self.config.credit.method,
            "alpha": self.parts.trainer.crediting.controller.at(max(1, self.parts.trainer.step_number)),
            "grams": {
                "name": self.parts.gram_library.name,
                "count": len(self.parts.gram_library),
                "hash": self.parts.gram_library.content_hash,
            },
            "parameters": self.parts.parameters,
            "versions": versions(),
            "paths": {
                "checkpoint": str(checkpoint) if checkpoint else None,
                "metrics": str(self.folder.metrics),
                "rollouts": str(self.folder.rollouts),
                "config": str(self.folder.config),
                "refused": str(self.folder.refused) if self.parts.refused else None,
                "tensorboard": str(self.folder.tensorboard) if self.config.log.tensorboard else None,
            },
        }


def evaluation_facts(result: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON-able facts that a checkpoint can carry."""
    return {
        "accuracy": result.accuracy.as_dict(),
        "by_task": {task: accuracy.as_dict() for task, accuracy in result.by_task.items()},
        "by_problem": result.by_problem,
        "record": result.record(),
    }


def benchmark_metrics(record: dict[str, Any], benchmarks: Sequence[BenchmarkConfig]) -> dict[str, Any]:
    """The metrics of an evaluation that are about benchmarks."""
    starts = tuple(f"eval/{benchmark.name}" for benchmark in benchmarks)
    return {name.removeprefix("eval/"): value for name, value in record.items() if starts and name.startswith(starts)}


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
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    terminal = terminal or Terminal(quiet=not accelerator.is_main_process)
    if config.threads:
        torch.set_num_threads(config.threads)
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
        summary = run.summary(time.perf_counter() - started)
        if accelerator.is_main_process:
            folder.write_summary(summary)
        return summary


def open_folder(
    folder: RunFolder, config: RunConfig, resume: bool, overwrite: bool, accelerator: Accelerator
) -> Path | None:
    """Make the run folder, or find the checkpoint to resume from (None: start at the beginning).

    Raises:
        RunFolderRefusal: see `RunFolder.create`, or there is no run to resume.
        ConfigRefusal: the resumed run was started with another configuration.
    """
    checkpoint = None
    if resume:
        if not folder.holds_run():
            raise RunFolderRefusal(f"{folder.path} holds no run to resume: drop --resume, or name the right run_folder")
        refuse_other_run(read_yaml(folder.config), config, folder.path)
        checkpoint = folder.latest_checkpoint()
    if accelerator.is_main_process and resume:
        folder.write_config(dump_config(config))
    elif accelerator.is_main_process:
        folder.create(dump_config(config), overwrite=overwrite)
    accelerator.wait_for_everyone()
    return checkpoint


def refuse_other_run(old: dict[str, Any], config: RunConfig, path: Path) -> None:
    """Raise ConfigRefusal naming every field that a resumed run may not change, with both values."""
    changed = [
        f"{name} was {before!r}, is {after!r}"
        for name, before, after in differences(old, config.model_dump())
        if not any(name == free or name.startswith(free + ".") for free in MAY_CHANGE_ON_RESUME)
    ]
    if changed:
        raise ConfigRefusal(f"cannot resume {path} with another configuration: {'; '.join(changed)}")


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, old and new value of every leaf in which two plain trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield name, old, new


@contextmanager
def stopping_softly(run: Run) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM lets the step end and saves; a second one stops at once."""

    def request(number: int, frame: Any) -> None:
        if run.stop_requested:
            raise KeyboardInterrupt
        run.stop_requested = True
        run.terminal.say("stopping after this step; once more to stop at once")

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def versions() -> dict[str, str]:
    """What the run ran on."""
    return {
        "mmhicra": mmhicra.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"cpu, {torch.get_num_threads()} threads",
    }
