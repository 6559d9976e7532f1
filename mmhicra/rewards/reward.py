"""The reward of a completion, with a record that says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from mmhicra.config import JudgeConfig
from mmhicra.core.errors import ConfigError
from mmhicra.core.names import FormatStyle
from mmhicra.core.records import Completion, FinishReason, Group, Problem, RewardRecord
from mmhicra.rewards.answers import Extraction, extract, final_text, last_box
from mmhicra.rewards.calls import Calls, is_async
from mmhicra.rewards.custom import BatchTerm, CallSettings, CustomFailure, CustomTerm, load_terms
from mmhicra.rewards.grounding import Measure, TermSettings, load_grounding
from mmhicra.rewards.judge import load_judges
from mmhicra.rewards.terms import OwnTerms
from mmhicra.rewards.verify import Outcome, Query
from mmhicra.rewards.workers import Verifier


class RewardSettings(CallSettings, Protocol):
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
    def terms(self) -> Sequence[TermSettings]:
        """Built-in terms for boxes and points."""
        ...

    @property
    def judges(self) -> Sequence[JudgeConfig]:
        """Language models that score responses."""
        ...

    @property
    def custom_failures(self) -> int:
        """Groups that may be dropped because a custom function failed."""
        ...


class Rewarder:
    """Scores completions: accuracy, format, length, and the user's own terms.

    A custom term is a function `(problem, completion, record_so_far) -> float`, or one of lists (`rewards.custom`); the
    record so far holds every term but those that come after.

    Args:
        settings: weights, format and limits.
        max_tokens: the longest response that rollout allows, for the length term.
        replies: the folder where replies of judges are kept; None keeps them in memory.
        rank: of this process, which has a file of its own there.

    Raises:
        ConfigError: a custom function or a judge cannot be used, or the length term makes no sense.
        RunFolderError: what is kept of a judge's replies cannot be read.
        UserError: there is a judge, but no `openai` package.
    """

    def __init__(self, settings: RewardSettings, max_tokens: int, replies: Path | None = None, rank: int = 0) -> None:
        if settings.length_weight and not 0 < settings.length_buffer <= max_tokens:
            raise ConfigError(
                f"reward.length_buffer = {settings.length_buffer}: with reward.length_weight set it must lie between 1 "
                f"and the {max_tokens} tokens a response may have"
            )
        self.settings = settings
        self.max_tokens = max_tokens
        self.verifier = Verifier(settings.workers, settings.time_limit)
        self._calls = Calls()
        self.grounding = load_grounding(settings.terms)
        self._custom = load_terms(settings, self._calls)
        self._judges = load_judges(settings.judges, self._calls, replies, rank)
        self._called: list[CustomTerm] = [*self._custom, *self._judges]
        _refuse_equal_names([term.name for term in (*self.grounding, *self._called)])
        self._own = OwnTerms(self._called, settings.custom_failures)
        self._told = (0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the verification processes, and every wait for a custom function."""
        self._calls.close()
        self.verifier.close()

    def try_custom(self, problem: Problem) -> None:
        """Call every custom function once on a problem with its own gold as the response.

        Raises:
            ConfigError: one fails, or returns no reward.
        """
        if not self._own.terms:
            return
        try:
            self.score_one(problem, rf"\boxed{{{problem.answer}}}", tokens=8)
        except CustomFailure as failure:
            raise ConfigError(f"{failure}. This was a first call, with the gold as the response") from failure
        self.take_counts()  # a resumed run makes this call too, and its steps count what they counted before

    @property
    def waits_for_all(self) -> bool:
        """Whether the own terms are best added to all completions of a step at once: one takes lists, or is slow."""
        return bool(self._judges) or any(
            isinstance(term, BatchTerm) or is_async(term.function) for term in self._custom
        )

    def measure_by(self, measure: Measure) -> None:
        """Let the terms for boxes know image sizes, which they need where coordinates differ from the gold's."""
        for term in self.grounding:
            term.measure = measure

    def gold_fault(self, problem: Problem) -> str | None:
        """Why a term for boxes can read nothing in a problem's gold; None if all can."""
        return next((fault for term in self.grounding if (fault := term.fault(problem))), None)

    def begin_step(self, step: int) -> None:
        """What is scored from now on is of `step`; every rank has finished the one before.

        Raises:
            RunFolderError: the kept replies of a judge cannot be read or written.
        """
        for term in self._judges:
            term.function.begin_step(step)

    def score(self, groups: Sequence[Group]) -> None:
        """Set `reward` on every completion of `groups`, all of them verified in one batch.

        A group on which an own term fails earns 0 throughout, which leaves it without signal; see `take_losses`.
        """
        self.judge(groups)
        self.add_own_terms(groups)

    def add_own_terms(self, groups: Sequence[Group]) -> None:
        """Add the own terms to the rewards that `judge` has set."""
        pairs = [(group.prompt.problem, completion) for group in groups for completion in group.completions]
        judged = [completion.reward for _, completion in pairs if completion.reward is not None]
        records = iter(zip(judged, self._own.add_to_all(pairs, judged), strict=True))
        for group in groups:
            scored = [next(records) for _ in group.completions]
            failure = next((whole for _, whole in scored if isinstance(whole, CustomFailure)), None)
            if failure is not None:
                self._own.failures.append(failure)
            for completion, (record, whole) in zip(group.completions, scored, strict=True):
                if failure is not None or isinstance(whole, CustomFailure):
                    whole = replace(record, why=str(failure), total=0.0)
                completion.reward = whole

    def judge(self, groups: Sequence[Group]) -> None:
        """Set `reward` on every completion of `groups` like `score`, without the own terms.

        Evaluation counts verdicts: a custom function would cost its time and money for nothing, and what fails there
        would count as a group that is dropped from training.
        """
        pairs = [(group.prompt.problem, completion) for group in groups for completion in group.completions]
        for (_, completion), record in zip(pairs, self._verified(pairs), strict=True):
            completion.reward = record

    def take_counts(self) -> dict[str, dict[str, float]]:
        """What the calls of each own term came to since the last call of this method, by the term's name."""
        return {term.name: term.take_counts() for term in self._called}

    def take_losses(self) -> tuple[int, list[CustomFailure]]:
        """Since the last call: reward workers that something else than their limit ended, and failed groups."""
        lost, failed = self._told
        self._told = (self.verifier.lost, len(self._own.failures))
        return self.verifier.lost - lost, self._own.failures[failed:]

    def score_one(
        self, problem: Problem, text: str, tokens: int = 0, finish_reason: FinishReason = "stop"
    ) -> RewardRecord:
        """The record of one response of `tokens` tokens. Custom functions see zeros for its ids and no log-probs."""
        return self.records([(problem, Completion([0] * tokens, [], finish_reason, text))])[0]

    def records(self, pairs: Sequence[tuple[Problem, Completion]]) -> list[RewardRecord]:
        """The record of each completion as an answer to its problem, all of them verified in one batch.

        Raises:
            CustomFailure: a custom function kept raising, or returned no finite number within `LARGEST_REWARD`.
        """
        records = self._own.add_to_all(pairs, self._verified(pairs))
        for record in records:
            if isinstance(record, CustomFailure):
                raise record
        return [record for record in records if not isinstance(record, CustomFailure)]

    def _verified(self, pairs: Sequence[tuple[Problem, Completion]]) -> list[RewardRecord]:
        extractions = [extract(completion.text, problem.kind, choices=problem.choices) for problem, completion in pairs]
        queries = [
            Query(extraction.text, problem.answer, problem.kind, problem.choices, problem.question)
            for (problem, _), extraction in zip(pairs, extractions, strict=True)
        ]
        outcomes = self.verifier.verify_all(queries)
        return [
            self._record(problem, completion, extraction, outcome)
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
        for term in self.grounding:
            parts[term.name] = term.value(problem, completion)
            total += term.weight * parts[term.name]
        if settings.length_weight:
            parts["length"] = overlong(len(completion), self.max_tokens, settings.length_buffer)
            total += settings.length_weight * parts["length"]
        why = extraction.method if outcome.verdict == "no-answer" else outcome.why
        return RewardRecord(extraction.text, extraction.method, problem.answer, outcome.verdict, why, parts, total)


def _refuse_equal_names(names: Sequence[str]) -> None:
    taken = ["accuracy", "format", "length", *names]
    if twice := next((name for name in taken if taken.count(name) > 1), None):
        raise ConfigError(f"reward: two terms of the reward are named {twice!r}: give one another name")


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
