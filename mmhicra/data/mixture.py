"""Problems of several sources, each with its share of those that are drawn.

Of any first N problems drawn, a source with the share s has between N s - 1 and N s + 1: which source comes next is
Tijdeman's rule for the chairman assignment problem (Discrete Mathematics 32, 1980), in exact fractions. It depends on
the weights alone, so it is the same for every seed and on any number of processes; the order within a source is that of
its own `ProblemStream`, by the seed. Worked example: with weights 2 and 1 the sources come as 1 2 1, 1 2 1, ...

A problem comes at most once in a step. A source that has given a step all its problems is passed over in that step, and
gets what it lacks in the following ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from mmhicra.core.errors import DataError
from mmhicra.core.records import Problem
from mmhicra.data.curriculum import Curriculum, LeftOut
from mmhicra.data.stream import ProblemStream


class Mixture:
    """A `ProblemStream` of several sources.

    Args:
        problems: of all sources; `Problem.dataset` says whose each is.
        weights: name of each source -> what its share is in proportion to.
        seed: of the order within each source.
        shuffle: take a source's problems in another order in each of its epochs.
        curricula: name of a source -> what its epochs leave out.

    Attributes:
        problems: all of them, by source.
        given: how many problems each source has given so far, in the order of the weights.

    Raises:
        DataError: a source has no problem.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        weights: Mapping[str, float],
        seed: int,
        shuffle: bool = True,
        curricula: Mapping[str, Curriculum | None] | None = None,
    ) -> None:
        own = curricula or {}
        self.streams = {
            name: ProblemStream([one for one in problems if one.dataset == name], seed, shuffle, own.get(name))
            for name in weights
        }
        self.problems = [problem for stream in self.streams.values() for problem in stream.problems]
        exact = [Fraction(str(weight)) for weight in weights.values()]
        self.shares = [weight / sum(exact) for weight in exact]
        self.given = [0] * len(self.shares)
        self.seed = seed
        self.shuffle = shuffle

    def take(self, count: int) -> list[Problem]:
        """The next `count` problems, for another step; more than there are come in batches without repetition."""
        taken: list[Problem] = []
        while len(taken) < count:
            for stream in self.streams.values():
                stream.begin_step()
            taken += self.refill(count - len(taken))
        return taken

    def refill(self, count: int) -> list[Problem]:
        """Up to `count` more problems that the step has not had; fewer once it has had all."""
        streams, taken = list(self.streams.values()), []
        for _ in range(count):
            spare = [place for place, stream in enumerate(streams) if stream.spare]
            if not spare:
                break
            place = self._next_source(spare)
            self.given[place] += 1
            taken += streams[place].refill(1)
        return taken

    def _next_source(self, spare: Sequence[int]) -> int:
        """Of the sources that may come next the one that would be the first to fall behind by too much.

        After N problems a source is due N s of them. One that lacks less than `slack` of the next may not come yet, and
        each has to come before it lacks `1 - slack` more.
        """
        if len(self.shares) == 1:
            return 0
        number = sum(self.given) + 1
        slack = Fraction(1, 2 * len(self.shares) - 2)
        lacks = {place: number * self.shares[place] - self.given[place] for place in spare}
        ready = [place for place in spare if lacks[place] >= slack] or [max(spare, key=lambda place: lacks[place])]
        return min(ready, key=lambda place: ((1 - slack - lacks[place]) / self.shares[place], place))

    def observe(self, success: Mapping[str, float]) -> None:
        """See `ProblemStream.observe`; every source takes what is its own."""
        for stream in self.streams.values():
            stream.observe(success)

    @property
    def left_out(self) -> list[LeftOut] | None:
        """What the sources leave out now; None without curricula."""
        lists = [stream.left_out for stream in self.streams.values()]
        known = [each for each in lists if each is not None]
        return [left for each in known for left in each] if known else None

    @property
    def lifted(self) -> bool:
        """Whether a source has all its problems in this epoch because too few would have been left."""
        return any(stream.lifted for stream in self.streams.values())

    def state(self) -> dict[str, Any]:
        """Where the stream is between two steps, JSON-able: what `restore` needs."""
        return {
            "sources": {name: stream.state() for name, stream in self.streams.items()},
            "shares": [str(share) for share in self.shares],
            "given": list(self.given),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken, over the same sources.

        Raises:
            DataError: sources, shares, problems, seed or shuffling differ from those of the state.
        """
        now = self.state()
        if state.get("shares") != now["shares"] or list(state["sources"]) != list(now["sources"]):
            raise DataError(
                "cannot resume: data.sources or their weights changed since the checkpoint; put them back, or start a "
                "new run"
            )
        for name, stream in self.streams.items():
            stream.restore(state["sources"][name])
        self.given = list(state["given"])
