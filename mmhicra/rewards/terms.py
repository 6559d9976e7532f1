"""The reward's terms beyond accuracy, format and length: each is added to every completion, in order.

Terms that are called in the same way and follow each other are a stage: plain functions go through the completions so
many at a time, a function that takes lists gets all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Protocol, TypeVar

from mmhicra.core.records import Completion, Problem, RewardRecord
from mmhicra.rewards.custom import BatchTerm, CustomFailure

Result = TypeVar("Result")
Pair = tuple[Problem, Completion]
Scored = RewardRecord | CustomFailure
"""The record of a completion so far; a failure if its group is lost."""
Lost = dict[int, CustomFailure]
"""Why a group is lost, by the identity of its problem."""


class OneTerm(Protocol):
    """A term that is worked out for one completion at a time."""

    @property
    def at_a_time(self) -> int:
        """Completions that it is worked out for at once."""
        ...

    @property
    def spares_lost(self) -> bool:
        """Whether nothing is called any more for a group that is lost, which then depends on the order of the calls."""
        ...

    def add_to(self, record: RewardRecord, problem: Problem, completion: Completion) -> RewardRecord:
        """`record` with this term; raises CustomFailure if it cannot be had."""
        ...


class OwnTerms:
    """Terms with what has become of them.

    Args:
        terms: in the order in which they are added.
        most_failures: groups that may be lost; with one more the run stops, and nothing is called any more.

    Attributes:
        failures: one for each group that was lost.
    """

    def __init__(self, terms: Sequence[OneTerm | BatchTerm], most_failures: int) -> None:
        self.terms = list(terms)
        self.most_failures = most_failures
        self.failures: list[CustomFailure] = []

    def add_to_all(self, pairs: Sequence[Pair], records: Sequence[RewardRecord]) -> list[Scored]:
        """The records with every term, in order; a failure where a term failed, or its group was lost before."""
        scored: list[Scored] = list(records)
        lost: Lost = {}
        for way, stage in groupby(self.terms, key=_way):
            if way is None:
                for term in stage:
                    assert isinstance(term, BatchTerm)
                    self._add_lists(term, pairs, scored, lost)
            else:
                self._add_each([term for term in stage if not isinstance(term, BatchTerm)], pairs, scored, lost)
        return scored

    def known_failure(self, own: CustomFailure | None, problem: Problem, lost: Lost) -> CustomFailure | None:
        """Why nothing is called for a problem any more, which may cost money.

        Args:
            own: why its group is lost already, if it is.
            problem: about to be asked for.
            lost: all that this scoring has lost; with too many the run is about to stop.
        """
        failures = [*self.failures, *lost.values()]
        if own is None and (len(failures) > self.most_failures or any(each.wrong_result for each in failures)):
            own = failures[-1]
        return own and CustomFailure(str(own), problem.id, own.wrong_result, own.culprit)

    def _add_each(self, terms: list[OneTerm], pairs: Sequence[Pair], scored: list[Scored], lost: Lost) -> None:
        """Let a completion have all `terms` before the next one has the first, so many completions at once."""
        known = lost if terms[0].spares_lost else dict(lost)

        def add(at: int) -> Scored:
            problem, completion = pairs[at]
            if (failure := self.known_failure(known.get(id(problem)), problem, lost)) is not None:
                return failure
            record = scored[at]
            if isinstance(record, CustomFailure):
                return record
            try:
                for term in terms:
                    record = term.add_to(record, problem, completion)
            except CustomFailure as failure:
                lost[id(problem)] = failure
                return failure
            return record

        scored[:] = _each(add, len(pairs), terms[0].at_a_time)

    def _add_lists(self, term: BatchTerm, pairs: Sequence[Pair], scored: list[Scored], lost: Lost) -> None:
        """Let `term` have the completions whose groups are not lost, in portions."""
        places: list[int] = []
        for at, (problem, _) in enumerate(pairs):
            known = self.known_failure(lost.get(id(problem)), problem, lost)
            if known is not None:
                scored[at] = known
            elif not isinstance(scored[at], CustomFailure):
                places.append(at)
        size = term.portion or max(1, len(places))
        portions = [places[start : start + size] for start in range(0, len(places), size)]

        def add(number: int) -> None:
            own = portions[number]
            records = [record for at in own if not isinstance(record := scored[at], CustomFailure)]
            problems, completions = [pairs[at][0] for at in own], [pairs[at][1] for at in own]
            for at, problem, result in zip(own, problems, term.add_to_all(records, problems, completions), strict=True):
                scored[at] = result
                if isinstance(result, CustomFailure):
                    lost[id(problem)] = result

        _each(add, len(portions), term.patience.at_a_time)


def _way(term: OneTerm | BatchTerm) -> tuple[int, bool] | None:
    """How completions are handed to a term one by one; None if it takes lists."""
    return None if isinstance(term, BatchTerm) else (term.at_a_time, term.spares_lost)


def _each(work: Callable[[int], Result], count: int, at_a_time: int) -> list[Result]:
    """What `work` returns for each of `count` numbers, in order, `at_a_time` of them worked on at once."""
    if at_a_time == 1:
        return [work(number) for number in range(count)]
    with ThreadPoolExecutor(at_a_time, thread_name_prefix="custom rewards") as threads:
        return list(threads.map(work, range(count)))
