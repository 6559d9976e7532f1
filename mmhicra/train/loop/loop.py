"""The loop of a run: evaluate, train step by step, evaluate, and keep everything on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

from mmhicra.config import RunConfig
from mmhicra.core.run_folder import RunFolder
from mmhicra.data.curriculum import LeftOut
from mmhicra.hicra.own_method import MethodError
from mmhicra.rewards.custom import CustomFailure
from mmhicra.train.loop.assembly import Assembly
from mmhicra.train.loop.best import better, value_of
from mmhicra.train.loop.callbacks import CallbackError
from mmhicra.train.loop.checkpoint_writer import CheckpointWriter
from mmhicra.train.loop.evaluation import NOTHING_HELD_OUT, evaluate, evaluation_facts, summarise
from mmhicra.train.loop.metrics import Sink, nonfinite_numbers
from mmhicra.train.loop.rollout_records import write_rollouts
from mmhicra.train.loop.staging import Progress, progress_of, stage, stage_weights
from mmhicra.train.loop.stopping import Stopping
from mmhicra.train.loop.terminal import Terminal

LOGGER = logging.getLogger(__name__)


class Interrupted(Exception):
    """The run stopped early at the user's wish; the message says what is saved."""


def new_state() -> dict[str, Any]:
    """The facts of a run that has not begun."""
    return {"seconds": {}, "wall_seconds": 0.0, "before": None, "latest": None, "best": None, "held_out": None}


@dataclass
class Run:
    """One run and its progress; `state` is what checkpoints carry beside the trainer's own."""

    config: RunConfig
    folder: RunFolder
    terminal: Terminal
    parts: Assembly
    sinks: Sequence[Sink]
    stop: Stopping
    writer: CheckpointWriter
    state: dict[str, Any] = field(default_factory=new_state)
    started: float = field(default_factory=time.perf_counter)
    """When this start of the run began; `state` has the seconds of those before."""
    saved: int | None = None
    """The step of the newest checkpoint of this state, which may still be written."""
    writing: int | None = None
    """The step of the checkpoint that is being written while training goes on."""
    waited: float = 0.0
    """Seconds that training waited for checkpoints since the last record."""
    recorded: int = 0
    """The last step that is in `metrics.jsonl`."""
    snapshot: tuple[Progress, dict[str, Any]] | None = None
    """Where trainer and run were before the step under way, while its optimizer has not stepped yet."""
    listed: tuple[list[LeftOut], bool] | None = None
    """What `filtered.jsonl` says, and whether it would have left too few problems; None before it is written."""
    failed_groups: int = 0
    """Since this start: dropped because a custom reward failed."""

    def __post_init__(self) -> None:
        self.recorded = self.parts.trainer.step_number
        self.parts.trainer.optimizer.register_step_pre_hook(self._forget_snapshot)

    @property
    def steps(self) -> int:
        """How many steps the whole run has."""
        return self.config.train.steps

    def loop(self) -> None:
        """Evaluate, train step by step, evaluate, and keep everything on disk."""
        try:
            self.train()
        except Exception:
            self.writer.settle()  # a checkpoint that was begun is worth having, whatever ended the run
            raise

    def train(self) -> None:
        """`loop`, and what it ends with."""
        trainer = self.parts.trainer
        self.tell("on_run_begin", self.config, self.folder.path, trainer.step_number)
        if self.state["before"] is None and self.evaluates:
            self.state["before"] = self.evaluate("before training")
            value_of(self.config.eval, self.state["before"]["record"])  # a wrong eval.best_by is refused here
            self.write({"step": 0, **self.state["before"]["record"]})
            self.tell("on_evaluation", 0, self.state["before"]["record"])
        with self.terminal.watch("training", self.steps, trainer.step_number) as bar:
            trainer.collector.progress = self.terminal.show_phase
            while trainer.step_number < self.steps and not self.stopping():
                self.remember()
                try:
                    self.take_step()
                except MethodError as error:
                    raise MethodError(f"{error}; {self.give_up_step()}. Go on with --resume") from error
                self.collect_save()
                self.terminal.advance(bar, trainer.step_number)
        if trainer.step_number < self.steps:
            self.save()
            raise Interrupted("saved")

    def remember(self) -> None:
        """Note where trainer and run are, in case the step that comes has to be given up."""
        if self.parts.trainer.ranks.count == 1 and not self.config.rollout.prefetch:
            self.snapshot = progress_of(self.parts.trainer), deepcopy(self.state)

    def _forget_snapshot(self, *about: Any) -> None:
        self.snapshot = None

    def give_up_step(self) -> str:
        """Save what is there when a step may take no longer; says what was saved."""
        trainer = self.parts.trainer
        if self.recorded == trainer.step_number:
            self.save()
            return f"saved after step {self.recorded}"
        if self.snapshot is not None:
            progress, self.state = self.snapshot
            self.save(progress)
            return f"step {trainer.step_number} was given up, saved after step {progress.step}"
        self.finish_save()
        newest = self.folder.latest_checkpoint()
        where = f"the newest checkpoint is {newest}" if newest else "there is no checkpoint yet"
        return f"step {trainer.step_number} was given up and could not be saved, {where}"

    def stopping(self) -> bool:
        """Whether any rank was asked to stop: all of them stop after the same step, or they would wait for ever."""
        return bool(self.parts.trainer.ranks.max(float(self.stop.requested is not None)))

    def take_step(self) -> None:
        """One step with its record, rollouts, evaluation and checkpoint."""
        trainer, started = self.parts.trainer, time.perf_counter()
        numbers, taken = trainer.step()
        step, last = trainer.step_number, trainer.step_number == self.steps
        numbers["time/step"] = time.perf_counter() - started
        waited, self.waited = self.waited, 0.0
        for name, seconds in numbers.items():
            if name.startswith("time/"):
                self.spend(name.removeprefix("time/"), seconds)
        if masked := int(numbers.get("rollout/masked_truncated", 0)):
            self.state["masked_truncated"] = self.state.get("masked_truncated", 0) + masked
        grams = self.parts.gram_library.content_hash[:12]
        record: dict[str, Any] = {"step": step, "grams": grams, **numbers, "time/checkpoint": waited}
        if taken.worst_problem is not None:
            record["engine/worst_problem"] = taken.worst_problem
        if self.due(self.config.log.rollouts_every):
            tokenizer = trainer.credit_assigner.tokenizer
            record |= write_rollouts(self.folder, self.config, taken, trainer.ranks, tokenizer)
        self.list_filtered(record)
        improved, evaluated = False, {}
        if (last or self.due(self.config.eval.every)) and self.evaluates:
            self.state["latest"] = self.evaluate("after training" if last else f"after step {step}")
            evaluated = self.state["latest"]["record"]
            record |= evaluated
            improved = self.note_best(evaluated)
        self.write(record)
        self.recorded = step
        self.terminal.show_step(record, self.steps)
        self.tell("on_step_end", step, record, taken.groups if self.config.log.callbacks else ())
        if evaluated:
            self.tell("on_evaluation", step, evaluated)
        if last or improved or trainer.updates.exhausted or self.due(self.config.log.checkpoint_every):
            self.save(wait=last or trainer.updates.exhausted or not self.config.log.checkpoint_async)
        elif self.due(self.config.log.weights_every):
            self.save_weights()
        with trainer.ranks.refusing_together():
            if trainer.updates.exhausted:
                raise trainer.updates.refusal()
            self.mind_rewards(record, taken.reward_failures)

    def list_filtered(self, record: dict[str, Any]) -> None:
        """Count, list and tell what the curriculum leaves out of this epoch; nothing without one."""
        stream = self.parts.trainer.collector.stream
        left_out = stream.left_out
        if left_out is None:
            return
        record["data/filtered"] = float(len(left_out))
        before, self.listed = self.listed, (left_out, stream.lifted)
        if self.listed == before:
            return
        self.on_main(lambda: self.folder.write_filtered([asdict(each) for each in left_out]))
        if stream.lifted:
            left = "data.curriculum would leave fewer problems than a step takes"
            self.terminal.say(f"warning: {left}: all are drawn again")
        if left_out or not (before is None or stream.lifted):
            easy = sum(each.why == "easy" for each in left_out)
            self.terminal.say(
                f"curriculum: {len(left_out)} of {len(stream.problems)} problems are left out from here on, {easy} as "
                f"too easy and {len(left_out) - easy} as too hard: {self.folder.filtered}"
            )

    def mind_rewards(self, record: dict[str, Any], failures: Sequence[CustomFailure]) -> None:
        """Say what went wrong while this step was scored; `failures` are those of a custom reward.

        Raises:
            CustomFailure: a custom reward has failed too often or is no reward, after a checkpoint was written.
        """
        step = record["step"]
        if lost := int(record["reward/workers_lost"]):
            self.terminal.say(
                f"warning: step {step}: {lost} reward workers were killed, not by their limit (out of memory?); "
                "their answers were judged again by fresh ones"
            )
        if not failures:
            return
        self.failed_groups += len(failures)
        self.terminal.say(f"warning: step {step}: {len(failures)} groups dropped: {failures[-1]}")
        wrong = next((failure for failure in failures if failure.wrong_result), None)
        limit = self.config.reward.custom_failures
        if wrong is None and self.failed_groups <= limit:
            return
        self.save()
        last = wrong or failures[-1]
        often = "" if wrong else f"; {self.failed_groups} groups were dropped, reward.custom_failures allows {limit}"
        raise CustomFailure(
            f"{last}{often}. Saved after step {step}: mend the {last.culprit} and go on with --resume",
            last.problem,
            last.wrong_result,
        )

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
            trainer.ranks.refusing_together(),
            trainer.collector.holding(),
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
        trainer.collector.engine.sleep()
        result = summarise(trainer.ranks.gather_shares(outcomes))
        self.terminal.say(f"held-out accuracy {when}: {result.accuracy}")
        for source, accuracy in result.by_source.items():
            self.terminal.say(f"  {source}: {accuracy}")
        return evaluation_facts(result)

    def spend(self, phase: str, seconds: float) -> None:
        """Add to the run's seconds by phase."""
        self.state["seconds"][phase] = self.state["seconds"].get(phase, 0.0) + seconds

    @property
    def is_main(self) -> bool:
        """Whether this rank writes."""
        return self.parts.trainer.ranks.is_main

    def write(self, record: dict[str, Any]) -> None:
        """Append to `metrics.jsonl`, with the memory held until now, and show it wherever the configuration says."""
        self.on_main(lambda: self._write(record))

    def on_main(self, write: Callable[[], None]) -> None:
        """Let the main rank write; if it cannot, all ranks refuse. Every rank must call it."""
        with self.parts.trainer.ranks.refusing_together():
            if self.is_main:
                write()

    def _write(self, record: dict[str, Any]) -> None:
        trainer = self.parts.trainer
        by_phase = {f"memory/{phase}_gib": held for phase, held in trainer.time.memory.items()}
        record = {**record, "memory/peak_gib": trainer.memory.altogether(), **by_phase}
        if strange := nonfinite_numbers(record):
            record["nonfinite"] = strange
            named = ", ".join(strange)
            self.terminal.say(f"warning: step {record['step']}: null in metrics.jsonl because not finite: {named}")
        self.folder.append_metrics(record)
        for sink in self.sinks:
            sink.log(record["step"], record)

    def save(self, progress: Progress | None = None, *, wait: bool = True) -> None:
        """Write a checkpoint now, of where the trainer is or of `progress`; not the same one twice.

        Without `wait` it is written while training goes on. Every rank must call it.
        """
        trainer, started = self.parts.trainer, time.perf_counter()
        step = progress.step if progress else trainer.step_number
        self.finish_save()
        if step == self.saved:
            return
        with self.stop.unlimited(), trainer.ranks.refusing_together():
            state = {**self.state, "wall_seconds": self.wall_seconds}
            staged = stage(trainer, state, progress, copied=not wait)
            (self.writer.write if wait else self.writer.begin)(staged, self.state["best"])
        self.saved = step
        self.count_wait(started)
        if wait:
            self.tell("on_checkpoint", step, self.folder.checkpoint(step))
        else:
            self.writing = step

    def save_weights(self) -> None:
        """Write the weights alone, as `log.weights_every` asks. Every rank must call it."""
        trainer, started, apart = self.parts.trainer, time.perf_counter(), self.config.log.checkpoint_async
        self.finish_save()
        with self.stop.unlimited(), trainer.ranks.refusing_together():
            staged = stage_weights(trainer, copied=apart)
            (self.writer.begin if apart else self.writer.write)(staged, self.state["best"])
        self.writing = trainer.step_number if apart else None
        self.count_wait(started)

    def collect_save(self) -> None:
        """If the checkpoint that is being written is whole, say so; every rank must call it.

        Raises:
            RunFolderError: it could not be written.
        """
        if self.writing is not None and not self.parts.trainer.ranks.max(float(self.writer.busy)):
            self.finish_save()

    def finish_save(self) -> None:
        """Wait for the checkpoint that is being written, if there is one. Every rank must call it.

        Raises:
            RunFolderError: it could not be written.
        """
        if self.writing is None:
            return
        step, started = self.writing, time.perf_counter()
        self.writing = None
        with self.stop.unlimited(), self.parts.trainer.ranks.refusing_together():
            self.writer.finish()
        self.count_wait(started)
        if step == self.saved:  # else it was the weights alone
            self.tell("on_checkpoint", step, self.folder.checkpoint(step))

    def count_wait(self, started: float) -> None:
        """Add the seconds since `started` to what training has waited for checkpoints."""
        seconds = time.perf_counter() - started
        self.waited += seconds
        self.spend("checkpoint", seconds)

    def tell(self, hook: str, *facts: Any) -> None:
        """Call the callbacks' method `hook` with copies of facts that are mappings. Every rank must call it.

        Raises:
            CallbackError: a callback failed, after a checkpoint was written if there is anything new to save.
        """
        if not self.config.log.callbacks:
            return
        failure: CallbackError | None = None
        if self.is_main:
            try:
                self.parts.callbacks.call(hook, *(dict(fact) if isinstance(fact, dict) else fact for fact in facts))
            except CallbackError as error:
                failure = error
        if not self.parts.trainer.ranks.max(float(failure is not None)):
            return
        if hook != "on_run_begin":
            self.save()
        with self.parts.trainer.ranks.refusing_together():
            if failure is not None:
                where = f"Saved after step {self.saved}" if self.saved is not None else "Nothing was trained yet"
                raise CallbackError(f"{failure}. {where}: mend the callback and go on with --resume") from failure

    @property
    def wall_seconds(self) -> float:
        """Seconds of this start and those before it, up to the checkpoints that they went on from."""
        return self.state["wall_seconds"] + time.perf_counter() - self.started
