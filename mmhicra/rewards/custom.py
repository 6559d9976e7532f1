"""Reward functions of the user's own: found, checked before the run, called, and what their failures mean.

A function is called as `f(problem, completion, record_so_far)` and returns a finite number. One whose parameters are
named `problems, completions, records` is called on lists of these, and returns a list of numbers. Either may be async.

One that raises is called again; one that keeps failing on a completion costs its whole group the signal, since a group
is compared within itself.
"""

from __future__ import annotations

import inspect
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Protocol, TypeVar, cast

from mmhicra.core.errors import ConfigError, UserError
from mmhicra.core.plugins import check_call, load_object, signature_of, spell_error
from mmhicra.core.records import Completion, Problem, RewardRecord
from mmhicra.rewards.calls import Calls, CallsClosed, Overdue, Raised, is_async

OneReward = Callable[[Problem, Completion, RewardRecord], float | Awaitable[float]]
BatchReward = Callable[
    [Sequence[Problem], Sequence[Completion], Sequence[RewardRecord]], Sequence[float] | Awaitable[Sequence[float]]
]
CustomReward = OneReward | BatchReward
"""What a reward of one's own may be; async functions give the same when they are awaited."""

Read = TypeVar("Read")

LARGEST_REWARD = 1e6
"""The most that a custom function may return, its weighted term be, and a completion's whole reward be; either sign.

Advantages are float32, which at 1e6 still tells rewards apart that differ by 0.06; from 1.7e7 on a right answer's 1 is
lost in rounding. Nobody means such a reward, and the square of a gradient in proportion to 1e20 is infinite.
"""
_FORM = (
    "mmhicra calls f(problem, completion, record) and takes a float, or f(problems, completions, records) and takes a "
    "list of them; see docs/guides/rewards.md"
)
_ONE, _BATCH = ("problem", "completion", "record"), ("problems", "completions", "records")
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

    @property
    def name(self) -> str | None:
        """What it is called in metrics and rollout files; its path if None."""
        ...


class CustomFailure(UserError):
    """A custom function, or a judge, failed on a problem.

    Attributes:
        problem: its id.
        wrong_result: whether it returned something that is no reward, which trying again does not mend.
        culprit: what is to be mended, in a word.
    """

    def __init__(self, message: str, problem: str, wrong_result: bool, culprit: str = "function") -> None:
        super().__init__(message, problem, wrong_result, culprit)  # all, so that it can travel between ranks
        self.message = message
        self.problem = problem
        self.wrong_result = wrong_result
        self.culprit = culprit

    def __str__(self) -> str:
        return self.message


@dataclass
class CallCounts:
    """What the calls of one term came to; safe to count from several threads.

    Attributes:
        calls: made, repeated ones included.
        retries: those that were made because one before failed.
        failures: those that raised, took too long, or returned no reward.
        seconds: of all calls, added up.
    """

    calls: int = 0
    retries: int = 0
    failures: int = 0
    seconds: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def count(self, began: float, *, retried: bool, failed: bool) -> None:
        """One call that began at `began`, of `time.perf_counter()`, is over."""
        with self._lock:
            self.calls += 1
            self.retries += retried
            self.failures += failed
            self.seconds += time.perf_counter() - began

    def take(self) -> dict[str, float]:
        """The counts since the last call of this method."""
        with self._lock:
            taken = {"calls": self.calls, "retries": self.retries, "failures": self.failures, "seconds": self.seconds}
            self.calls = self.retries = self.failures = 0
            self.seconds = 0.0
        return taken


@dataclass(frozen=True)
class Patience:
    """How a function is called.

    Attributes:
        attempts: calls at most for one completion, or one list of them.
        wait: seconds before the second call, doubled before each further one.
        limit: seconds that one call may take; one that takes longer has failed.
        at_a_time: calls under way at a time.
    """

    attempts: int = 1
    wait: float = 0.0
    limit: float = 300.0
    at_a_time: int = 1


@dataclass(frozen=True)
class CustomTerm:
    """A function with its weight and the patience that it is given.

    Attributes:
        name: of the term, in records and metrics.
        label: of the function, in messages.
        calls: makes them.
    """

    name: str
    label: str
    function: CustomReward
    weight: float
    patience: Patience = Patience()
    calls: Calls = field(default_factory=Calls)
    counts: CallCounts = field(default_factory=CallCounts)
    culprit: str = "function"

    def add_to(self, record: RewardRecord, problem: Problem, completion: Completion) -> RewardRecord:
        """`record` with this term.

        Raises:
            CustomFailure: the function raised or took too long at every attempt, or returned no reward.
        """
        about = f"problem {problem.id}"
        arguments = (problem, completion, record)
        return self._result(lambda value: self.added(record, value, problem), arguments, problem, about)

    def take_counts(self) -> dict[str, float]:
        """What the calls came to since the last call of this method."""
        return self.counts.take()

    @property
    def spares_lost(self) -> bool:
        """Whether nothing is called any more for a group that is lost."""
        return True

    @property
    def at_a_time(self) -> int:
        """Calls under way at a time."""
        return self.patience.at_a_time

    def added(self, record: RewardRecord, value: object, problem: Problem) -> RewardRecord:
        """`record` with what the function returned.

        Raises:
            CustomFailure: that is no reward.
        """
        number = self._checked(value, problem)
        total = record.total + self.weight * number
        if max(abs(self.weight * number), abs(total)) > LARGEST_REWARD:
            raise self._wrong(
                f"{number:g}, which with its weight of {self.weight:g} makes a reward of {total:g}: it must lie within "
                f"{LARGEST_REWARD:g} of 0",
                problem,
            )
        return replace(record, parts={**record.parts, self.name: number}, total=total)

    def _result(self, read: Callable[[Any], Read], arguments: tuple[object, ...], problem: Problem, about: str) -> Read:
        """What `read` makes of the function's result; `problem` is blamed if it fails, and `about` says on what."""
        for attempt in range(1, self.patience.attempts + 1):
            began, failed = time.perf_counter(), True
            try:
                result = read(self.calls.call(self.patience.limit, self.function, *arguments))
                failed = False
                return result
            except CustomFailure:
                raise
            except CallsClosed:
                raise self._failure("is not called any more", problem, wrong_result=False) from None
            except (Raised, Overdue) as error:
                if attempt == self.patience.attempts:
                    raise self._given_up(error, problem, about, attempt) from error
            finally:
                self.counts.count(began, retried=attempt > 1, failed=failed)
            time.sleep(self.patience.wait * 2 ** (attempt - 1))
        raise AssertionError("attempts is at least 1")

    def _given_up(self, failed: Raised | Overdue, problem: Problem, about: str, attempts: int) -> CustomFailure:
        times = f", {attempts} times" if attempts > 1 else ""
        error = failed.error if isinstance(failed, Raised) else failed
        return self._failure(f"failed on {about}{times}: {_spell(error)}", problem, wrong_result=False)

    def _checked(self, value: object, problem: Problem) -> float:
        fault = None
        if inspect.iscoroutine(value):
            value.close()
            fault = "a coroutine: make it a plain function, or define it with async def"
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
        return self._failure(f"returned {fault} (on problem {problem.id})", problem, wrong_result=True)

    def _failure(self, fault: str, problem: Problem, *, wrong_result: bool) -> CustomFailure:
        return CustomFailure(f"{self.label} {fault}", problem.id, wrong_result, self.culprit)


@dataclass(frozen=True)
class BatchTerm(CustomTerm):
    """A function that is called on many completions at once.

    Attributes:
        portion: completions in one call; 0 is all that there are.
    """

    portion: int = 0

    def add_to_all(
        self, records: Sequence[RewardRecord], problems: Sequence[Problem], completions: Sequence[Completion]
    ) -> list[RewardRecord | CustomFailure]:
        """The records with this term, from one call; a failure in the place of each that has none.

        A call that fails costs all of its completions their term.
        """
        about = f"{len(problems)} completions, the first of problem {problems[0].id}"
        arguments = (list(problems), list(completions), list(records))
        try:
            values = self._result(lambda given: self._listed(given, problems), arguments, problems[0], about)
        except CustomFailure as failure:
            return [CustomFailure(str(failure), problem.id, failure.wrong_result) for problem in problems]
        added: list[RewardRecord | CustomFailure] = []
        for record, value, problem in zip(records, values, problems, strict=True):
            try:
                added.append(self.added(record, value, problem))
            except CustomFailure as failure:
                added.append(failure)
        return added

    def _listed(self, given: object, problems: Sequence[Problem]) -> list[object]:
        """The list that the function returned; of numpy and torch, too, which have one dimension then."""
        tolist = getattr(given, "tolist", None)
        values = tolist() if callable(tolist) else given
        if inspect.iscoroutine(values):
            self._checked(values, problems[0])
        if not isinstance(values, list | tuple):
            kind = type(given).__name__
            raise self._wrong(f"{_short(given)} ({kind}): it must return a list of numbers", problems[0])
        if len(values) != len(problems):
            raise self._wrong(f"{len(values)} numbers for {len(problems)} completions", problems[0])
        return list(values)


class CallSettings(Protocol):
    """How a configuration has its functions called."""

    @property
    def custom(self) -> Sequence[CustomSettings]:
        """The functions."""
        ...

    @property
    def custom_attempts(self) -> int:
        """Calls of a function at most for one completion, or one list of them."""
        ...

    @property
    def custom_wait(self) -> float:
        """Seconds between the first two of them."""
        ...

    @property
    def custom_time_limit(self) -> float:
        """Seconds that one of them may take."""
        ...

    @property
    def custom_threads(self) -> int:
        """Calls of plain functions at a time."""
        ...

    @property
    def custom_concurrency(self) -> int:
        """Calls of async functions at a time."""
        ...

    @property
    def custom_batch(self) -> int:
        """Completions in one call of a function that takes lists; 0 is all."""
        ...


def load_terms(settings: CallSettings, calls: Calls) -> list[CustomTerm]:
    """The functions that a configuration names, with their signatures checked.

    Raises:
        ConfigError: a function is listed twice, cannot be found, or cannot be called as mmhicra calls it.
    """
    paths = [custom.path for custom in settings.custom]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise ConfigError(f"reward.custom: {twice!r} is listed twice, keep one")
    terms: list[CustomTerm] = []
    for each in settings.custom:
        function = find_function(each.path)
        at_a_time = settings.custom_concurrency if is_async(function) else settings.custom_threads
        patience = Patience(settings.custom_attempts, settings.custom_wait, settings.custom_time_limit, at_a_time)
        facts = (each.name or each.path, f"the custom reward {each.path}", function, each.weight, patience, calls)
        terms.append(BatchTerm(*facts, portion=settings.custom_batch) if takes_lists(function) else CustomTerm(*facts))
    return terms


def find_function(path: str) -> CustomReward:
    """Import `package.module:function`, or `function` of a file `./my_reward.py:function`.

    Raises:
        ConfigError: the path is not of that form, there is no such module, file or function, importing it fails, or
            the function takes other arguments.
    """
    function = load_object(path, "reward.custom", "function")
    arguments = _ONE
    if callable(function):
        arguments = _BATCH if takes_lists(function) else _ONE
        _refuse_other_forms(path, function)
    checked = check_call(function, path, "reward.custom", arguments, _FORM, may_be_async=True)
    return cast(CustomReward, checked)


def takes_lists(function: Callable[..., object]) -> bool:
    """Whether a function takes `problems, completions, records`, by the names of its parameters."""
    signature = signature_of(function)
    return signature is not None and set(_BATCH) <= set(signature.parameters)


def _refuse_other_forms(path: str, function: Callable[..., object]) -> None:
    signature = signature_of(function)  # of a function without one the dry call shows whether it takes ours
    names = list(signature.parameters) if signature else []
    if set(_BATCH) <= set(names):
        if tuple(names[:3]) != _BATCH:
            raise ConfigError(f"reward.custom: {path!r} takes {signature}, in another order: {_FORM}")
        return
    if trainer := next((trainer for trainer, known in _OTHER_FORMS if known & set(names)), None):
        raise ConfigError(f"reward.custom: {path!r} takes {signature}, as {trainer} calls it: {_FORM}")


def _spell(error: BaseException) -> str:
    """An error in one line, with where it was raised last."""
    if isinstance(error, Overdue):
        return f"{error} (reward.custom_time_limit)"
    return spell_error(error)


def _short(value: object, longest: int = 200) -> str:
    spelled = " ".join(repr(value).split())
    return spelled if len(spelled) <= longest else spelled[: longest - 3] + "..."
