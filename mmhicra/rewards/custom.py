"""Reward functions of the user's own: found, checked before the run, called, and what their failures mean.

A function is called as `f(problem, completion, record_so_far)` and returns a finite number. One that raises is called
again; one that keeps failing on a completion costs its whole group the signal, since a group is compared within itself.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Protocol, cast

from mmhicra.core.errors import ConfigError, UserError
from mmhicra.core.plugins import check_call, load_object, signature_of, spell_error
from mmhicra.core.records import Completion, Problem, RewardRecord
from mmhicra.rewards.calls import Calls, CallsClosed, Overdue, Raised

CustomReward = Callable[[Problem, Completion, RewardRecord], float]

LARGEST_REWARD = 1e6
"""The most that a custom function may return, its weighted term be, and a completion's whole reward be; either sign.

Advantages are float32, which at 1e6 still tells rewards apart that differ by 0.06; from 1.7e7 on a right answer's 1 is
lost in rounding. Nobody means such a reward, and the square of a gradient in proportion to 1e20 is infinite.
"""
_FORM = "mmhicra calls f(problem, completion, record) and takes a float; see docs/guides/rewards.md"
_OTHER_FORMS = (
    ("TRL", {"completions", "prompts", "completion_ids"}),
    ("verl", {"data_source", "solution_str", "ground_truth", "extra_info"}),
    ("EasyR1", {"reward_inputs", "reward_input", "predicts", "predict"}),
)
"""Names of parameters by which the reward functions of other trainers are known."""


class CustomSettings(Protocol):
    """One custom reward."""

    @property
    def path(self) -> str:
        """`package.module:function` or `./file.py:function`; see `core.plugins`."""
        ...

    @property
    def weight(self) -> float:
        """Weight of what it returns."""
        ...


class CustomFailure(UserError):
    """A custom function failed on a problem.

    Attributes:
        problem: its id.
        wrong_result: whether it returned something that is no reward, which trying again does not mend.
    """

    def __init__(self, message: str, problem: str, wrong_result: bool) -> None:
        super().__init__(message, problem, wrong_result)  # all three, so that it can travel between ranks
        self.message = message
        self.problem = problem
        self.wrong_result = wrong_result

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class CustomTerm:
    """A function with its weight and the patience that it is given.

    Attributes:
        attempts: calls at most for one completion.
        wait: seconds before the second call, doubled before each further one.
        limit: seconds that one call may take; one that takes longer has failed.
        calls: makes them.
    """

    path: str
    function: CustomReward
    weight: float
    attempts: int = 1
    wait: float = 0.0
    limit: float = 300.0
    calls: Calls = field(default_factory=Calls)

    def add_to(self, record: RewardRecord, problem: Problem, completion: Completion) -> RewardRecord:
        """`record` with this term.

        Raises:
            CustomFailure: the function raised or took too long at every attempt, or returned no reward.
        """
        value = self._value(problem, completion, record)
        total = record.total + self.weight * value
        if max(abs(self.weight * value), abs(total)) > LARGEST_REWARD:
            raise self._wrong(
                f"{value:g}, which with its weight of {self.weight:g} makes a reward of {total:g}: it must lie within "
                f"{LARGEST_REWARD:g} of 0",
                problem,
            )
        return replace(record, parts={**record.parts, self.path: value}, total=total)

    def _value(self, problem: Problem, completion: Completion, record: RewardRecord) -> float:
        for attempt in range(1, self.attempts + 1):
            try:
                return self._checked(self.calls.call(self.limit, self.function, problem, completion, record), problem)
            except CustomFailure:
                raise
            except CallsClosed:
                raise CustomFailure(
                    f"the custom reward {self.path} is not called any more", problem.id, False
                ) from None
            except (Raised, Overdue) as failed:
                if attempt == self.attempts:
                    times = f", {attempt} times" if attempt > 1 else ""
                    error = failed.error if isinstance(failed, Raised) else failed
                    raise CustomFailure(
                        f"the custom reward {self.path} failed on problem {problem.id}{times}: {_spell(error)}",
                        problem.id,
                        wrong_result=False,
                    ) from error
            time.sleep(self.wait * 2 ** (attempt - 1))
        raise AssertionError("attempts is at least 1")

    def _checked(self, value: object, problem: Problem) -> float:
        fault = None
        if inspect.iscoroutine(value):
            value.close()
            fault = "a coroutine: make it a plain function (asyncio.run inside it may await)"
        elif not isinstance(value, Real):
            fault = f"{_short(value)} ({type(value).__name__}): it must return a finite number, as float(...) makes it"
        elif not math.isfinite(value):
            fault = f"{value!r}: it must return a finite number"
        elif abs(float(value)) > LARGEST_REWARD:
            fault = f"{value!r}: it must return a finite number within {LARGEST_REWARD:g} of 0"
        if fault is None:
            return float(cast(float, value))
        raise self._wrong(fault, problem)

    def _wrong(self, fault: str, problem: Problem) -> CustomFailure:
        """The failure of a function that returned something that is no reward."""
        return CustomFailure(
            f"the custom reward {self.path} returned {fault} (on problem {problem.id})", problem.id, wrong_result=True
        )


def load_terms(
    settings: Sequence[CustomSettings], attempts: int, wait: float, limit: float, calls: Calls
) -> list[CustomTerm]:
    """The functions that a configuration names, with their signatures checked; see `CustomTerm` for the arguments.

    Raises:
        ConfigError: a function is listed twice, cannot be found, or cannot be called as mmhicra calls it.
    """
    paths = [custom.path for custom in settings]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise ConfigError(f"reward.custom: {twice!r} is listed twice, keep one")
    patience = (attempts, wait, limit, calls)
    return [CustomTerm(each.path, find_function(each.path), each.weight, *patience) for each in settings]


def find_function(path: str) -> CustomReward:
    """Import `package.module:function`, or `function` of a file `./my_reward.py:function`.

    Raises:
        ConfigError: the path is not of that form, there is no such module, file or function, importing it fails, or
            the function takes other arguments.
    """
    function = load_object(path, "reward.custom", "function")
    if callable(function):
        _refuse_other_forms(path, function)
    return cast(CustomReward, check_call(function, path, "reward.custom", ("problem", "completion", "record"), _FORM))


def _refuse_other_forms(path: str, function: Callable[..., object]) -> None:
    signature = signature_of(function)  # of a function without one the dry call shows whether it takes ours
    names = set(signature.parameters) if signature else set()
    if trainer := next((trainer for trainer, known in _OTHER_FORMS if names & known), None):
        raise ConfigError(f"reward.custom: {path!r} takes {signature}, as {trainer} calls it: {_FORM}")


def _spell(error: BaseException) -> str:
    """An error in one line, with where it was raised last."""
    if isinstance(error, Overdue):
        return f"{error} (reward.custom_time_limit)"
    return spell_error(error)


def _short(value: object, longest: int = 200) -> str:
    spelled = " ".join(repr(value).split())
    return spelled if len(spelled) <= longest else spelled[: longest - 3] + "..."
