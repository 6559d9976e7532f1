"""Callbacks: objects of the user's own that are told what a run does; its numbers do not depend on them.

Only the main rank (rank 0) has and calls them, so they may write files, but must not wait for other ranks.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mmhicra.config import RunConfig
from mmhicra.core.errors import ConfigError, UserError
from mmhicra.core.plugins import check_call, load_object, spell_error
from mmhicra.core.records import Group

_FIELD = "log.callbacks"
_PAGE = "see docs/extend/callback.md"


class Callback(Protocol):
    """What a callback may have: at least one of these methods. An exception ends the run, after a checkpoint."""

    def on_run_begin(self, config: RunConfig, folder: Path, step: int) -> None:
        """Everything is loaded, nothing trained yet in this start of the run.

        Args:
            config: of the run.
            folder: the run folder.
            step: 0, or the step of the checkpoint that the run goes on from.
        """
        ...

    def on_step_end(self, step: int, metrics: Mapping[str, Any], groups: Sequence[Group]) -> None:
        """A step was taken and its line is in `metrics.jsonl`.

        Args:
            step: counted from 1.
            metrics: the line.
            groups: those that the main rank collected, scored and credited: first those trained on, then those that
                were dropped. Not to be changed.
        """
        ...

    def on_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Held-out problems and benchmarks were evaluated; comes after `on_step_end` of its step.

        Args:
            step: 0 before training.
            metrics: what the evaluation adds to the line of `metrics.jsonl`.
        """
        ...

    def on_checkpoint(self, step: int, folder: Path) -> None:
        """A checkpoint is whole.

        Args:
            step: that it holds.
            folder: where it lies; `log.keep_checkpoints` says for how long.
        """
        ...


HOOKS = {
    "on_run_begin": ("config", "folder", "step"),
    "on_step_end": ("step", "metrics", "groups"),
    "on_evaluation": ("step", "metrics"),
    "on_checkpoint": ("step", "folder"),
}
"""The methods of a callback, with the arguments that they are called with."""


class CallbackError(UserError):
    """A callback raised; the message names it."""


class Callbacks:
    """The callbacks of a run, on its main rank.

    Args:
        named: the address of each, and what it names: an object, or a class that is called without arguments.

    Raises:
        ConfigError: one is listed twice, has no method of `HOOKS` or one of a like name, or cannot be called.
    """

    def __init__(self, named: Sequence[tuple[str, object]] = ()) -> None:
        addresses = [address for address, _ in named]
        if twice := next((address for address in addresses if addresses.count(address) > 1), None):
            raise ConfigError(f"{_FIELD}: {twice!r} is listed twice, keep one")
        self.named = [(address, _checked(address, found)) for address, found in named]

    @classmethod
    def load(cls, addresses: Sequence[str]) -> Callbacks:
        """The callbacks that a configuration names. Raises ConfigError, also where one cannot be found."""
        return cls([(address, load_object(address, _FIELD)) for address in addresses])

    def call(self, hook: str, *facts: Any) -> None:
        """Call a method of `HOOKS` of every callback that has it, in the order of the configuration.

        Raises:
            CallbackError: one raised; those after it are not called.
        """
        for address, callback in self.named:
            method = getattr(callback, hook, None)
            if method is None:
                continue
            try:
                method(*facts)
            except (Exception, SystemExit) as error:
                raise CallbackError(f"the callback {address} failed in {hook}: {spell_error(error)}") from error


def _checked(address: str, found: object) -> object:
    """The callback, made if it is a class."""
    if isinstance(found, type):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{_FIELD}: {address}() fails: {spell_error(error)}; {_PAGE}") from error
    for name in dir(found):
        if name.startswith("on_") and name not in HOOKS and callable(getattr(found, name)):
            near = difflib.get_close_matches(name, HOOKS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(HOOKS)}"
            raise ConfigError(f"{_FIELD}: {address!r} has {name}, which nothing calls: {hint}")
    own = [name for name in HOOKS if getattr(found, name, None) is not None]
    if not own:
        raise ConfigError(f"{_FIELD}: {address!r} has none of the methods {', '.join(HOOKS)}; {_PAGE}")
    for name in own:
        form = f"mmhicra calls {name}({', '.join(HOOKS[name])}); {_PAGE}"
        check_call(getattr(found, name), address, _FIELD, HOOKS[name], form)
    return found
