"""Ranks that compute rows together (`parallel.sequence`) know each other's groups; rollouts and credit are still split.

Every rank samples, scores and credits groups of its own. Before a forward pass the ranks of a sequence group exchange
those that it is about: every one of them then packs the same rows, and keeps what it learns of its own completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from mmhicra.core.records import Completion, Group, Prompt
from mmhicra.train.distributed.sequence import SequenceGroup


class SentGroup(NamedTuple):
    """A group on its way to another rank; without its prompt if that one has it from an earlier pass of the step."""

    prompt: Prompt | None
    completions: list[Completion]
    place: int | None


class GroupSharing:
    """What the ranks of a sequence group tell each other of their groups.

    Args:
        sequence: the ranks that compute rows together; None if this rank computes its rows by itself.
    """

    def __init__(self, sequence: SequenceGroup | None = None) -> None:
        self.sequence = sequence
        self.step = 0
        self.prompts: dict[int, Prompt] = {}
        """Of the groups that were exchanged in the step, by their places."""

    @property
    def leads(self) -> bool:
        """Whether this rank reports what is found of a row: of the ranks that compute it together one does."""
        return self.sequence is None or self.sequence.index == 0

    def share(self, step: int, groups: Sequence[Group]) -> list[Group]:
        """The groups of all ranks of the sequence group in their order; of this rank's own the very objects."""
        if self.sequence is None:
            return list(groups)
        if step != self.step:
            self.step, self.prompts = step, {}
        received = self.sequence.gather([self._send(group) for group in groups])
        received = [[self._receive(group) for group in theirs] for theirs in received]
        received[self.sequence.index] = list(groups)
        return [group for theirs in received for group in theirs]

    def of_leader(self, step: int, group: Group) -> Group:
        """The group that the first rank of the sequence group has given."""
        return self.share(step, [group])[0]

    def _send(self, group: Group) -> SentGroup:
        known = group.place in self.prompts
        completions = [
            replace(each, text="", reward=None, planning_tags=None, placebo=None, entropy=None)
            for each in group.completions
        ]
        return SentGroup(None if known else _light(group.prompt), completions, group.place)

    def _receive(self, group: SentGroup) -> Group:
        prompt = group.prompt
        if prompt is None:
            assert group.place is not None
            prompt = self.prompts[group.place]
        elif group.place is not None:
            self.prompts[group.place] = prompt
        return Group(prompt, group.completions, group.place)


def _light(prompt: Prompt) -> Prompt:
    """Without the pictures: what the model reads of them is in `vision`."""
    return replace(prompt, images=(), problem=replace(prompt.problem, images=()))
