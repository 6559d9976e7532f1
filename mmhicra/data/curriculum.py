"""Which problems an epoch leaves out, by how often they were solved before: online difficulty filtering.

A problem whose last `visits` visits were all easy, or all hard, rests for `skip_epochs` epochs and then starts anew.
Worked example with two visits and one epoch of rest, of a problem that is always solved:

    epoch      0     1     2     3     4     5
    solved    4/4   4/4  rests  4/4   4/4  rests

What an epoch leaves out is known when it begins: nothing that is observed in it changes its order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmhicra.config import CurriculumConfig


@dataclass(frozen=True)
class LeftOut:
    """A problem that an epoch leaves out.

    Attributes:
        id: the problem's.
        why: `easy` or `hard`.
        success: share of right responses at each of the visits that decided it.
        again: the epoch, from 0, that has it again.
    """

    id: str
    why: str
    success: list[float]
    again: int


class Curriculum:
    """What is known of the problems of one stream; a function of the options and of what was observed.

    Args:
        options: the section `data.curriculum` of the configuration.
        ids: of the problems.
        least: an epoch that would have fewer problems has all of them, and everything is forgotten.
    """

    def __init__(self, options: CurriculumConfig, ids: Sequence[str], least: int = 1) -> None:
        self.options = options
        self.ids = frozenset(ids)
        self.least = min(least, len(self.ids))
        self.seen: dict[str, list[float]] = {}
        self.resting: dict[str, LeftOut] = {}
        self.lifted: int | None = None
        """The last epoch that has all problems because too few would have been left."""

    def observe(self, success: Mapping[str, float], epoch: int) -> None:
        """Take in the share of right responses to the problems visited in `epoch`; ids of other streams are passed."""
        # In one order, however many ranks there are. A step may run over into the epoch that a problem is to rest in.
        for name in sorted(success.keys() & self.ids - self.resting.keys()):
            seen = [*self.seen.get(name, []), success[name]][-self.options.visits :]
            self.seen[name] = seen
            why = self._verdict(seen)
            if why is not None:
                self.resting[name] = LeftOut(name, why, seen, epoch + 1 + self.options.skip_epochs)
                del self.seen[name]

    def left_out(self, epoch: int) -> dict[str, LeftOut]:
        """Id -> what `epoch` leaves out; nothing if it would have too few problems without it."""
        found = {
            name: each
            for name, each in self.resting.items()
            if epoch < each.again <= epoch + self.options.skip_epochs  # else it was decided in this very epoch
        }
        return found if len(self.ids) - len(found) >= self.least else {}

    def begin(self, epoch: int) -> None:
        """Forget what no coming epoch leaves out, and everything if `epoch` would have too few problems."""
        self.resting = {name: each for name, each in self.resting.items() if each.again > epoch}
        if self.resting and not self.left_out(epoch):
            self.seen, self.resting, self.lifted = {}, {}, epoch

    def state(self) -> dict[str, Any]:
        """What `restore` needs, JSON-able."""
        resting = {name: [each.why, each.success, each.again] for name, each in self.resting.items()}
        return {"seen": dict(self.seen), "resting": resting, "lifted": self.lifted}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up where `state` left off."""
        self.seen = {name: list(seen) for name, seen in state["seen"].items()}
        self.resting = {name: LeftOut(name, *facts) for name, facts in state["resting"].items()}
        self.lifted = state["lifted"]

    def _verdict(self, seen: Sequence[float]) -> str | None:
        easy, hard = self.options.easy_threshold, self.options.hard_threshold
        if len(seen) < self.options.visits:
            return None
        if easy is not None and min(seen) >= easy:
            return "easy"
        return "hard" if hard is not None and max(seen) <= hard else None
