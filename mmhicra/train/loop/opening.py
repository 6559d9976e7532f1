"""What is checked when a run folder is opened: who may train in it, which run it holds, where a resumed one goes on.

Nothing that is there is changed before `Opening.take`, which comes after data, grams and model were checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from accelerate import Accelerator

from mmhicra.config import RunConfig
from mmhicra.config.loading import build_config, dump_config, read_yaml
from mmhicra.core.errors import ConfigError, RunFolderError, UserError
from mmhicra.core.files import free_name, writing
from mmhicra.core.manifest import damage
from mmhicra.core.run_folder import DAMAGED, RunFolder
from mmhicra.core.step_names import steps_in
from mmhicra.core.yaml_text import write_yaml
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.train.loop.lock import RunLock
from mmhicra.train.loop.terminal import Terminal

Resume = bool | Literal["auto"]
"""Whether to go on with the run in the folder; `auto` does if there is one."""

MAY_CHANGE_ON_RESUME = (
    "run_folder",
    "threads",
    "model.checkpointing",
    "model.checkpointing_layers",
    "model.shard",
    "parallel",
    "train.steps",
    "train.grace_seconds",
    "train.rank_timeout",
    "eval.every",
    "eval.benchmarks",
    "eval.max_new_tokens",
    "eval.keep_best",
    "eval.best_by",
    "log",
    "reward.workers",
    "reward.time_limit",
    "reward.custom_threads",
    "reward.custom_concurrency",
    "reward.custom_attempts",
    "reward.custom_wait",
    "reward.custom_time_limit",
    "reward.custom_failures",
)
"""What a resumed run may set anew; anything else would make it another run, or its accuracies before and after training
those of different problems."""

JUDGE = ("name", "weight", "model", "prompt", "scale", "temperature", "images")
"""What of a judge makes its scores."""

T = TypeVar("T")


@dataclass(frozen=True)
class Opening:
    """What is to be done with a run folder.

    Attributes:
        resumes: whether the run that is there goes on.
        replaces: whether the run that is there is moved aside.
        checkpoint: where it goes on from; None is the beginning.
        steps_before: `train.steps` of the run that goes on.
    """

    folder: RunFolder
    resumes: bool = False
    replaces: bool = False
    checkpoint: Path | None = None
    steps_before: int | None = None

    def checked(self) -> RunFolder:
        """The folder as the checks of data and model may write to it: not over the list of a run that is there."""
        folder = RunFolder(self.folder.path)
        if self.replaces:
            folder.refused = folder.path / "refused.new.jsonl"
        return folder

    def take(self, config: RunConfig, terminal: Terminal) -> None:
        """Make the folder this run's, after everything else was checked; only the main rank may call it.

        Raises:
            RunFolderError: it cannot be written.
        """
        if not self.resumes:
            aside = self.folder.set_aside() if self.replaces else self.folder.finish_setting_aside()
            if aside is not None:
                terminal.say(f"the run that was in {self.folder.path} is in {aside} now")
        if self.replaces:
            with writing(self.folder.refused):
                self.checked().refused.replace(self.folder.refused)
        self.folder.write_config(dump_config(config))


def open_run(
    config: RunConfig, resume: Resume, overwrite: bool, accelerator: Accelerator, terminal: Terminal, stack: ExitStack
) -> Opening:
    """Lock the run folder and decide what happens to what is there. Every rank must call it.

    The main rank decides and holds the lock, for all of them; `stack` gives it back.

    Raises:
        RunFolderError: the folder is another training's, holds a run and nothing says what to do with it, holds none
            to resume, or none of its checkpoints is whole.
        ConfigError: the resumed run was started with another configuration.
    """
    folder = RunFolder(config.run_folder)

    def decide() -> Opening:
        if resume is True and not folder.holds_run():
            raise RunFolderError(f"{folder.path} holds no run to resume: drop --resume, or name the right run_folder")
        folder.make()
        lock = RunLock(folder.path, terminal.say)
        lock.acquire()
        stack.callback(lock.release)
        if not folder.holds_run():
            refuse_foreign_config(folder)
            return Opening(folder)
        if resume:
            return resumed(folder, config, terminal)
        if not overwrite:
            raise RunFolderError(
                f"{folder.path} already holds a run: add --resume to continue it, --overwrite to start anew and keep "
                "it beside, or choose another --set run_folder=..."
            )
        return Opening(folder, replaces=True)

    opening = on_main(accelerator, decide)
    missing = opening.checkpoint is not None and not opening.checkpoint.is_dir()
    if missing:
        raise RunFolderError(
            f"{opening.checkpoint} is not there for process {accelerator.process_index}: "
            "run_folder has to lie on a disk that all nodes share"
        )
    return opening


SECTIONS = ("run_folder", "model", "data", "train", "log")
"""What a configuration that a run has written is known by, though it may be of another version: it has all of them."""


def refuse_foreign_config(folder: RunFolder) -> None:
    """Stop if the folder has a `config.yaml` that no run has written: it would be replaced by this run's.

    Raises:
        RunFolderError: says what to do.
    """
    if not folder.config.exists():
        return
    try:
        tree = read_yaml(folder.config)
        ours = all(name in tree for name in SECTIONS) and write_yaml(tree, width=110) == folder.config.read_text(
            "utf-8"
        )
    except ConfigError:
        ours = folder.config.stat().st_size == 0  # a disk was full
    if not ours:
        raise RunFolderError(
            f"{folder.config} was not written by a run, and would be replaced: choose another run_folder, or move it"
        )


def on_main(accelerator: Accelerator, decide: Callable[[], T]) -> T:
    """What `decide` gives on the main rank, on every rank; a refusal too."""
    outcome: T | UserError | None = None
    ranks = Ranks(accelerator)
    if ranks.is_main:
        try:
            outcome = decide()
        except UserError as refusal:
            outcome = refusal
    outcome = ranks.broadcast(outcome)
    if isinstance(outcome, UserError):
        outcome.told = not ranks.is_main
        raise outcome
    return outcome  # pyright: ignore[reportReturnType]


def resumed(folder: RunFolder, config: RunConfig, terminal: Terminal) -> Opening:
    """The run in `folder` goes on under `config`; see `open_run` for what is raised."""
    before = read_config(folder)
    refuse_other_run(before, config, folder.path)
    folder.sweep()
    recorded = folder.recorded_steps()
    checkpoint = whole_checkpoint(folder, terminal)
    log = before["log"]
    every = log["checkpoint_every"] * (2 if log["checkpoint_async"] else 1)  # the first may be written until the second
    if checkpoint is None and every and max(recorded, default=0) > every:
        raise RunFolderError(
            f"{folder.metrics} tells of {max(recorded)} steps, but {folder.checkpoints} has no checkpoint: restore "
            "one, or start anew with --overwrite, which keeps this run beside"
        )
    return Opening(folder, resumes=True, checkpoint=checkpoint, steps_before=before["train"]["steps"])


def read_config(folder: RunFolder) -> dict[str, Any]:
    """The configuration of the run that is there, with what has been added since at its default.

    Raises:
        RunFolderError: `config.yaml` is missing, empty or damaged.
    """
    try:
        tree = read_yaml(folder.config)
    except ConfigError as refusal:
        raise RunFolderError(f"cannot resume {folder.path}: {refusal}; restore the file") from None
    if not tree:
        raise RunFolderError(f"cannot resume {folder.path}: {folder.config} is empty; restore the file")
    try:
        return build_config(tree).model_dump()
    except ConfigError as refusal:
        reason = str(refusal).splitlines()[0].removeprefix("configuration: ")
        raise RunFolderError(f"cannot resume {folder.path}: in {folder.config}, {reason}") from None


def whole_checkpoint(folder: RunFolder, terminal: Terminal) -> Path | None:
    """The newest checkpoint that is whole, None if there is none at all.

    A damaged one is kept under another name and the one before is used: the steps between are taken again, to the same
    bits, and a job that a scheduler starts again needs nobody.

    Raises:
        RunFolderError: there are checkpoints, and none of them is whole.
    """
    damaged: list[tuple[Path, str]] = []
    whole = None
    for step, path in reversed(steps_in(folder.checkpoints)):
        reason = damage(path, step)
        if reason is None:
            whole = path
            break
        damaged.append((path, reason))
    if damaged and whole is None:
        listed = "; ".join(f"{path.name}: {reason}" for path, reason in damaged)
        raise RunFolderError(
            f"no checkpoint in {folder.checkpoints} is whole ({listed}): restore one, or start anew with --overwrite, "
            f"which keeps this run beside; a new run with --set model.path={damaged[0][0]} begins with its weights"
        )
    for path, reason in damaged:
        aside = free_name(path, DAMAGED)
        path.rename(aside)
        terminal.say(f"{path} is damaged ({reason}): it is called {aside.name} now, and the one before is used")
    return whole


def refuse_other_run(old: dict[str, Any], config: RunConfig, path: Path) -> None:
    """Raise ConfigError naming every field that a resumed run may not change, with both values."""
    changed = [
        f"{name} was {before!r}, is {after!r}"
        for name, before, after in differences(comparable(old), comparable(config.model_dump()))
        if not any(name == free or name.startswith(free + ".") for free in MAY_CHANGE_ON_RESUME)
    ]
    if changed:
        raise ConfigError(f"cannot resume {path} with another configuration: {'; '.join(changed)}")


def comparable(tree: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what says only how judges are reached: a server may have another port by now."""
    judges = tree["reward"]["judges"]
    if isinstance(judges, list):
        judges = [{name: judge[name] for name in JUDGE} for judge in judges]
    return {**tree, "reward": {**tree["reward"], "judges": judges}}


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, old and new value of every leaf in which two plain trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield name, old, new
