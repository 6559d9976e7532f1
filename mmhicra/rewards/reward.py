"""The reward of a completion, with a record that says why."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from types import TracebackType
from typing import Literal, Protocol, Self, cast

from mmhicra.records import Completion, FinishReason, Group, Problem, RewardRecord
from mmhicra.refusals import ConfigRefusal, Refusal
from mmhicra.rewards.answers import Extraction, extract, final_text, last_box
from mmhicra.rewards.verify import Outcome, Query
from mmhicra.rewards.workers import Verifier

FormatStyle = Literal["boxed", "think_boxed", "think_answer"]
CustomReward = Callable[[Problem, Completion, RewardRecord], float]


class CustomSettings(Protocol):
    """One custom reward."""

    @property
    def path(self) -> str:
        """`package.module:function`."""
        ...

    @property
    def weight(self) -> float:
        """Weight of what it returns."""
        ...


class RewardSettings(Protocol):
    """What a `Rewarder` reads from the configuration."""

    @property
    def accuracy_weight(self) -> float:
        """Weight of 1 for a right answer, 0 for any other."""
        ...

    @property
    def format_weight(self) -> float:
        """Weight of 1 for a response that `follows` the format, 0 for any other."""
        ...

    @property
    def format_style(self) -> FormatStyle:
        """The format, see `follows`."""
        ...

    @property
    def length_weight(self) -> float:
        """Weight of `overlong`, which lies between -1 and 0."""
        ...

    @property
    def length_buffer(self) -> int:
        """Tokens before the limit at which `overlong` sets in."""
        ...

    @property
    def workers(self) -> int:
        """Verification processes at most."""
        ...

    @property
    def time_limit(self) -> float:
        """Seconds for one verification."""
        ...

    @property
    def custom(self) -> Sequence[CustomSettings]:
        """Functions of the user's own."""
        ...


@dataclass(frozen=True)
class _Custom:
    path: str
    function: CustomReward
    weight: float


class Rewarder:
    """Scores completions: accuracy, format, length, and the user's own terms.

    A custom term is a function `(problem, completion, record_so_far) -> float`; the record so far holds every term but
    the custom ones that come after.

    Args:
        settings: weights, format and limits.
        max_tokens: the longest response that rollout allows, for the length term.

    Raises:
        ConfigRefusal: a custom function cannot be found, or the length term makes no sense.
    """

    def __init__(self, settings: RewardSettings, max_tokens: int) -> None:
        if settings.length_weight and not 0 < settings.length_buffer <= max_tokens:
            raise ConfigRefusal(
                f"reward.length_buffer = {settings.length_buffer}: with reward.length_weight set it must lie between 1 "
                f"and the {max_tokens} tokens a response may have"
            )
        paths = [custom.path for custom in settings.custom]
        if twice := next((path for path in paths if paths.count(path) > 1), None):
            raise ConfigRefusal(f"reward.custom: {twice!r} is listed twice, keep one")
        self.settings = settings
        self.max_tokens = max_tokens
        self.verifier = Verifier(settings.workers, settings.time_limit)
        self._custom = [_Custom(each.path, find_function(each.path), each.weight) for each in settings.custom]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the verification processes."""
        self.verifier.close()

    def score(self, groups: Sequence[Group]) -> None:
        """Set `reward` on every completion of `groups`, all of them verified in one batch.

        Raises:
            Refusal: a custom function returned something other than a finite number.
        """
        pairs = [(group.prompt.problem, completion) for group in groups for completion in group.completions]
        for (_, completion), record in zip(pairs, self.records(pairs), strict=True):
            completion.reward = record

    def score_one(
        self, problem: Problem, text: str, tokens: int = 0, finish_reason: FinishReason = "stop"
    ) -> RewardRecord:
        """The record of one response of `tokens` tokens. Custom functions see zeros for its ids and no log-probs."""
        return self.records([(problem, Completion([0] * tokens, [], finish_reason, text))])[0]

    def records(self, pairs: Sequence[tuple[Problem, Completion]]) -> list[RewardRecord]:
        """The record of each completion as an answer to its problem, all of them verified in one batch.

        Raises:
            Refusal: a custom function returned something other than a finite number.
        """
        extractions = [extract(completion.text, problem.kind, choices=problem.choices) for problem, completion in pairs]
        queries = [
            Query(extraction.text, problem.answer, problem.kind, problem.choices, problem.question)
            for (problem, _), extraction in zip(pairs, extractions, strict=True)
        ]
        outcomes = self.verifier.verify_all(queries)
        return [
            self._with_custom(problem, completion, self._record(problem, completion, extraction, outcome))
            for (problem, completion), extraction, outcome in zip(pairs, extractions, outcomes, strict=True)
        ]

    def _record(
        self, problem: Problem, completion: Completion, extraction: Extraction, outcome: Outcome
    ) -> RewardRecord:
        settings = self.settings
        parts = {
            "accuracy": float(outcome.verdict == "right"),
            "format": float(follows(completion.text, settings.format_style)),
        }
        total = settings.accuracy_weight * parts["accuracy"] + settings.format_weight * parts["format"]
        if settings.length_weight:
            parts["length"] = overlong(len(completion), self.max_tokens, settings.length_buffer)
            total += settings.length_weight * parts["length"]
        why = extraction.method if outcome.verdict == "no-answer" else outcome.why
        return RewardRecord(extraction.text, extraction.method, problem.answer, outcome.verdict, why, parts, total)

    def _with_custom(self, problem: Problem, completion: Completion, record: RewardRecord) -> RewardRecord:
        for custom in self._custom:
            value = _call(custom, problem, completion, record)
            total = record.total + custom.weight * value
            record = replace(record, parts={**record.parts, custom.path: value}, total=total)
        return record


def follows(response: str, style: FormatStyle) -> bool:
    r"""Whether a response keeps to a format.

    * `boxed`: a non-empty `\boxed{...}` outside any thinking.
    * `think_boxed`: thoughts, `</think>`, then such a box.
    * `think_answer`: thoughts, `</think>`, then nothing but `<answer>...</answer>`.

    Each tag stands exactly once, `<think>` at the very start or not at all (where the prompt has opened it).
    """
    if style == "boxed":
        after = final_text(response)
        return after is not None and last_box(after) is not None
    thoughts, closed, after = response.strip().partition("</think>")
    thoughts, after = thoughts.removeprefix("<think>"), after.strip()
    if not closed or not thoughts.strip() or "think>" in thoughts + after:
        return False
    if style == "think_boxed":
        return last_box(after) is not None
    answer = after.removeprefix("<answer>").removesuffix("</answer>")
    whole = len(after) == len("<answer>") + len(answer) + len("</answer>")
    return whole and bool(answer.strip()) and "answer>" not in thoughts + answer


def overlong(tokens: int, max_tokens: int, buffer: int) -> float:
    """DAPO's soft overlong punishment (arXiv 2503.14476, Eq. 13).

    0 up to `max_tokens - buffer`, from there linearly down to -1 at `max_tokens`.
    """
    return -min(1.0, max(0, tokens - (max_tokens - buffer)) / buffer)


def find_function(path: str) -> CustomReward:
    """Import `package.module:function`.

    Raises:
        ConfigRefusal: the path is not of that form, or there is no such module or function.
    """
    module, _, name = path.partition(":")
    if not module or not name.isidentifier():
        raise ConfigRefusal(f"reward.custom: {path!r} must read package.module:function")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigRefusal(f"reward.custom: cannot load {path!r}: {error}; is it on PYTHONPATH?") from error
    if not callable(function):
        raise ConfigRefusal(f"reward.custom: {path!r} is not a function")
    return cast(CustomReward, function)


def _call(custom: _Custom, problem: Problem, completion: Completion, so_far: RewardRecord) -> float:
    try:
        value = custom.function(problem, completion, so_far)
    except Exception as error:
        error.add_note(f"in the custom reward {custom.path} on problem {problem.id}")
        raise
    if not isinstance(value, Real) or not math.isfinite(value):
        raise Refusal(
            f"the custom reward {custom.path} returned {value!r} on problem {problem.id}: "
            "it must return a finite number"
        )
    return float(value)
