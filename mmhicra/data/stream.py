"""The order in which problems are trained on, resumable to the bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmhicra.core.errors import DataError
from mmhicra.core.records import Problem
from mmhicra.data.curriculum import Curriculum, LeftOut
from mmhicra.data.digest import digest_problems


class ProblemStream:
    """Problems without end, epoch after epoch, each epoch in its own order.

    Within an epoch no problem comes twice; a batch that an epoch cannot fill runs over into the next one. Nor does a
    problem come twice within a step, one `take` and the `refill`s after it: one that the step has had already is passed
    over, and is the first that the next step takes.

    Attributes:
        problems: all of them, in their own order.
        epoch: from 0.
        position: how many of this epoch are taken or passed over.
        waiting: places in `problems` of those that are passed over, all of this epoch.
        curriculum: which problems an epoch leaves out; None leaves out none.
    """

    def __init__(
        self, problems: Sequence[Problem], seed: int, shuffle: bool = True, curriculum: Curriculum | None = None
    ) -> None:
        if not problems:
            raise DataError("there is no problem to train on: look into data.source")
        self.problems = list(problems)
        self.seed = seed
        self.shuffle = shuffle
        self.curriculum = curriculum
        self.epoch = 0
        self.position = 0
        self.waiting: list[int] = []
        self._held: set[int] = set()
        """What the step has had."""
        self._order = self._order_of(0)
        self._digest = digest_problems(self.problems)

    def take(self, count: int) -> list[Problem]:
        """The next `count` problems, for another step; more than there are come in batches without repetition."""
        taken: list[Problem] = []
        while len(taken) < count:
            self.begin_step()
            taken += self.refill(count - len(taken))
        return taken

    def begin_step(self) -> None:
        """Forget what the step before has had."""
        self._held = set()

    @property
    def spare(self) -> int:
        """How many problems the step has not had and may have, in this epoch or the next."""
        if self.curriculum is None:
            return len(self.problems) - len(self._held)
        coming = {*self.waiting, *self._order[self.position :], *self._order_of(self.epoch + 1)}
        return len(coming - self._held)

    def refill(self, count: int) -> list[Problem]:
        """Up to `count` more problems that the step has not had; fewer once it has had all."""
        return [self.problems[self._next()] for _ in range(min(count, self.spare))]

    def _next(self) -> int:
        """The place of the next problem that the step has not had; there must be one."""
        place = next((place for place in self.waiting if place not in self._held), None)
        if place is not None:
            self.waiting.remove(place)
        while place is None:
            if self.position == len(self._order):
                self.epoch, self.position = self.epoch + 1, 0
                if self.curriculum is not None:
                    self.curriculum.begin(self.epoch)
                self._order = self._order_of(self.epoch)
            place = self._order[self.position]
            self.position += 1
            if place in self._held:
                self.waiting.append(place)
                place = None
        self._held.add(place)
        return place

    def observe(self, success: Mapping[str, float]) -> None:
        """Tell the curriculum, if there is one, the share of right responses to each problem that a step has had."""
        if self.curriculum is not None:
            self.curriculum.observe(success, self.epoch)

    @property
    def left_out(self) -> list[LeftOut] | None:
        """What this epoch leaves out; None without a curriculum."""
        return None if self.curriculum is None else list(self.curriculum.left_out(self.epoch).values())

    @property
    def lifted(self) -> bool:
        """Whether this epoch has all problems because the curriculum would have left too few."""
        return self.curriculum is not None and self.curriculum.lifted == self.epoch

    def state(self) -> dict[str, Any]:
        """Where the stream is between two steps, JSON-able: what `restore` needs."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "waiting": list(self.waiting),
            "seed": self.seed,
            "shuffle": self.shuffle,
            "problems": self._digest,
            **({} if self.curriculum is None else {"curriculum": self.curriculum.state()}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken, over the same problems.

        Raises:
            DataError: problems, seed or shuffling differ from those of the state.
        """
        now = self.state()
        changed = [name for name in ("problems", "seed", "shuffle") if state.get(name) != now[name]]
        if changed:
            raise DataError(
                f"cannot resume: {' and '.join(changed)} of the training data changed since the checkpoint; "
                "put the data back, or start a new run"
            )
        self.epoch, self.position = state["epoch"], state["position"]
        self.waiting = list(state.get("waiting", []))  # older checkpoints have none
        if self.curriculum is not None:
            self.curriculum.restore(state["curriculum"])
        self._order = self._order_of(self.epoch)

    def _order_of(self, epoch: int) -> list[int]:
        order = self._all_of(epoch)
        left_out = {} if self.curriculum is None else self.curriculum.left_out(epoch)
        return [place for place in order if self.problems[place].id not in left_out] if left_out else order

    def _all_of(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(len(self.problems)))
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.problems)).tolist()
