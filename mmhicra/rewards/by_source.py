"""One rewarder for several sources, each of which may have terms and weights of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mmhicra.config.method import RewardConfig
from mmhicra.core.records import Completion, Group, Problem, RewardRecord
from mmhicra.rewards.custom import CustomFailure
from mmhicra.rewards.grounding import Measure
from mmhicra.rewards.reward import Rewarder


class SourceRewarder(Rewarder):
    """Scores each completion by the settings of the source that its problem is of.

    Args:
        settings: of problems of no source, without their own terms.
        by_source: name of a source -> its settings.
        max_tokens: the longest response that rollout allows.
        replies: the folder where replies of judges are kept, in a folder for each source; None keeps them in memory.
        rank: of this process.

    Raises:
        UserError: like `Rewarder`, for any of the settings.
    """

    def __init__(
        self,
        settings: RewardConfig,
        by_source: Mapping[str, RewardConfig],
        max_tokens: int,
        replies: Path | None = None,
        rank: int = 0,
    ) -> None:
        super().__init__(settings.model_copy(update={"custom": [], "judges": [], "terms": []}), max_tokens)
        self.rewarders = {
            name: Rewarder(own, max_tokens, replies and replies / name, rank) for name, own in by_source.items()
        }
        for rewarder in self.rewarders.values():  # the same worker processes, however many sources there are
            rewarder.verifier = self.verifier

    def close(self) -> None:
        """End the verification processes, and every wait for a custom function."""
        for rewarder in self.rewarders.values():
            rewarder.close()
        super().close()

    def try_custom(self, problem: Problem) -> None:
        """Call every custom function of the problem's source once; see `Rewarder.try_custom`."""
        own = self.rewarders.get(problem.dataset)
        return own.try_custom(problem) if own else super().try_custom(problem)

    def measure_by(self, measure: Measure) -> None:
        """Let the terms for boxes of every source know image sizes."""
        for rewarder in self.rewarders.values():
            rewarder.measure_by(measure)

    def gold_fault(self, problem: Problem) -> str | None:
        """Why a term for boxes of the problem's source can read nothing in its gold; None if all can."""
        own = self.rewarders.get(problem.dataset)
        return own.gold_fault(problem) if own else super().gold_fault(problem)

    @property
    def waits_for_all(self) -> bool:
        """Whether the own terms of any source are best added to all completions at once."""
        return any(rewarder.waits_for_all for rewarder in self.rewarders.values())

    def begin_step(self, step: int) -> None:
        """What is scored from now on is of `step`; see `Rewarder.begin_step`."""
        for rewarder in self.rewarders.values():
            rewarder.begin_step(step)

    def judge(self, groups: Sequence[Group]) -> None:
        """Set `reward` on every completion of `groups` by the settings of their sources, without their own terms."""
        for rewarder, own in self._divided(groups):
            (rewarder.judge if rewarder is not self else super().judge)(own)

    def add_own_terms(self, groups: Sequence[Group]) -> None:
        """Add the own terms of each group's source to the rewards that `judge` has set."""
        for rewarder, own in self._divided(groups):
            (rewarder.add_own_terms if rewarder is not self else super().add_own_terms)(own)

    def take_counts(self) -> dict[str, dict[str, float]]:
        """What the calls of each own term came to; terms of one name add up over the sources."""
        taken = super().take_counts()
        for rewarder in self.rewarders.values():
            for name, counts in rewarder.take_counts().items():
                before = taken.get(name, {})
                taken[name] = {key: value + before.get(key, 0.0) for key, value in counts.items()}
        return taken

    def take_losses(self) -> tuple[int, list[CustomFailure]]:
        """Since the last call, over all sources; see `Rewarder.take_losses`."""
        taken = [super().take_losses(), *(rewarder.take_losses() for rewarder in self.rewarders.values())]
        lost, _ = taken[0]  # of the workers that all share
        return lost, [failure for _, failures in taken for failure in failures]

    def records(self, pairs: Sequence[tuple[Problem, Completion]]) -> list[RewardRecord]:
        """The record of each completion, by the settings of its problem's source."""
        records: dict[int, RewardRecord] = {}
        for name in dict.fromkeys(problem.dataset for problem, _ in pairs):
            places = [place for place, (problem, _) in enumerate(pairs) if problem.dataset == name]
            own, some = self.rewarders.get(name), [pairs[place] for place in places]
            made = own.records(some) if own else super().records(some)
            records |= zip(places, made, strict=True)
        return [records[place] for place in range(len(pairs))]

    def _divided(self, groups: Sequence[Group]) -> Iterable[tuple[Rewarder, list[Group]]]:
        """The rewarders that groups are for, this one for those of no source, with their groups."""
        divided: dict[str, list[Group]] = {}
        for group in groups:
            divided.setdefault(group.prompt.problem.dataset, []).append(group)
        return [(self.rewarders.get(name, self), own) for name, own in divided.items()]


def make_rewarder(
    settings: RewardConfig,
    by_source: Mapping[str, RewardConfig],
    max_tokens: int,
    replies: Path | None = None,
    rank: int = 0,
) -> Rewarder:
    """The rewarder of a run; one for several sources if `by_source` has names.

    Raises:
        UserError: like `Rewarder`.
    """
    named = {name: own for name, own in by_source.items() if name}
    if named:
        return SourceRewarder(settings, named, max_tokens, replies, rank)
    return Rewarder(settings, max_tokens, replies, rank)
