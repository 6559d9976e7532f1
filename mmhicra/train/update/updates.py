"""Which optimizer updates are made, and which are left out: a loss or a gradient that is not finite spoils its update.

A spoiled update is skipped by all ranks alike: gradients are dropped, and weights, optimizer state and learning-rate
schedule stay as they were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from mmhicra.core.errors import UserError
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.train.update.packing import SubGroup
from mmhicra.vlm.weights import nonfinite

IDLE_STEPS = 10
"""After so many steps in a row without an update, because no group had signal, the run says so once."""
NAMED = 8
"""Of the problems that spoil an update so many are named."""


class NotFinite(UserError):
    """Losses, gradients, weights or log-probs that are no finite numbers: going on would spoil what was trained."""


class Sign(IntEnum):
    """How a row gave itself away; the first kind that any rank has seen decides who is named."""

    LOSS = 0
    GRADIENT = 1
    """The gradients of this rank became non-finite with this row."""
    SUM = 2
    """The sum over ranks is not finite, and nothing was seen before: it was one of the rows that were summed last."""


@dataclass(frozen=True)
class Spoiled:
    """An update that must not be made, and the problems of the rows that spoil it."""

    sign: Sign
    problems: tuple[str, ...]
    norm: float

    def __str__(self) -> str:
        more = f" and {len(self.problems) - NAMED} more" if len(self.problems) > NAMED else ""
        names = f"{', '.join(self.problems[:NAMED])}{more}"
        word = "problem" if len(self.problems) == 1 else "problems"
        if self.sign is Sign.LOSS:
            return f"the loss of a micro-batch is not finite ({word} {names})"
        return f"the gradient of a micro-batch is not finite (norm {self.norm:g}; {word} {names})"


class FiniteCheck:
    """Watches the rows of one optimizer update; every rank makes one.

    Args:
        policy: what is trained.
        ranks: that update together.
    """

    def __init__(self, policy: nn.Module, ranks: Ranks) -> None:
        self.policy = policy
        self.ranks = ranks
        self.sharded = isinstance(policy, FSDPModule)
        self.seen: list[tuple[Sign, list[str]]] = []
        self.rows: list[list[str]] = []

    def see(self, row: Sequence[SubGroup], loss: Tensor, *, last: bool) -> None:
        """Look at a row after its backward pass; with the last one gradients are summed over the ranks."""
        problems = [part.prompt.problem.id for part in row]
        self.rows.append(problems)
        if not math.isfinite(loss.item()):
            self.seen.append((Sign.LOSS, problems))
        elif not self.seen and not last and not math.isfinite(self._norm()):
            self.seen.append((Sign.GRADIENT, problems))

    def verdict(self, norm: Tensor) -> Spoiled | None:
        """What spoils the update, None if nothing does; the same on every rank, all of which must call it.

        Args:
            norm: scalar, of the gradient summed over the ranks.
        """
        value = norm.item()
        if not self.ranks.max(float(bool(self.seen) or not math.isfinite(value))):
            return None
        summed = self.rows if self.sharded else self.rows[-1:]
        found = self.ranks.gather(self.seen or [(Sign.SUM, [name for row in summed for name in row])])
        sign = min(sign for sign, _ in found)
        names = dict.fromkeys(name for kind, problems in found if kind == sign for name in problems)
        return Spoiled(sign, tuple(names), value)

    def _norm(self) -> float:
        """Of this rank's gradients so far; those of a sharded model are not there before they are summed."""
        if self.sharded:
            return 0.0
        return nn.utils.get_total_norm([p.grad for p in self.policy.parameters() if p.grad is not None]).item()


@dataclass
class UpdateCount:
    """How many updates were made and skipped since the run began; goes into checkpoints.

    Attributes:
        limit: `train.max_skipped_updates`.
        made: updates.
        skipped: updates.
        skipped_in_step: updates, of this step.
        skipped_in_a_row: updates, until now; one that is made ends the row.
        idle: steps without signal, in which nothing could be trained.
        idle_in_a_row: steps, until now.
        warned: whether the run has said that nothing is trained.
        last: what spoiled the last update that was skipped.
    """

    limit: int
    made: int = 0
    skipped: int = 0
    skipped_in_step: int = 0
    skipped_in_a_row: int = 0
    idle: int = 0
    idle_in_a_row: int = 0
    warned: bool = False
    last: str = ""

    @property
    def exhausted(self) -> bool:
        """Whether as many updates in a row were skipped as the configuration allows; a resumed run tries once more."""
        return self.skipped_in_step > 0 and self.skipped_in_a_row >= self.limit

    def begin_step(self) -> None:
        """Count for another step."""
        self.skipped_in_step = 0

    def make(self) -> None:
        """Count an update."""
        self.made += 1
        self.skipped_in_a_row = self.idle_in_a_row = 0

    def skip(self, why: Spoiled) -> None:
        """Count a skipped update."""
        self.skipped += 1
        self.skipped_in_step += 1
        self.skipped_in_a_row += 1
        self.last = str(why)

    def count_idle(self) -> bool:
        """Count a step without signal; returns whether it is time to say that nothing is trained."""
        self.idle += 1
        self.idle_in_a_row += 1
        says = self.idle_in_a_row == IDLE_STEPS and not self.warned
        self.warned |= says
        return says

    def refusal(self) -> NotFinite:
        """The end of a run that has no good update any more."""
        return NotFinite(
            f"{self.skipped_in_a_row} optimizer updates in a row were skipped (train.max_skipped_updates), the last "
            f"because {self.last}; the weights before them are saved. Lower train.optimizer.learning_rate, look at "
            "the rewards of these problems, or start anew from an earlier checkpoint"
        )

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, JSON-able."""
        return {name: value for name, value in asdict(self).items() if name != "limit"}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up where `state` left off."""
        for name, value in state.items():
            setattr(self, name, value)

    def facts(self) -> dict[str, int]:
        """For `summary.json`."""
        return {"made": self.made, "skipped": self.skipped, "steps_without_signal": self.idle}


def refuse_nonfinite_state(policy: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
    """Raise NotFinite, on every rank, if a trained weight or the optimizer's state of it is not finite on any."""
    trained = [(name, parameter) for name, parameter in policy.named_parameters() if parameter.requires_grad]
    names = {id(parameter): name for name, parameter in trained}
    moments = [
        (f"{part} of {names.get(id(parameter), 'a weight')}", value)
        for parameter, parts in optimizer.state.items()
        for part, value in parts.items()
        if isinstance(value, Tensor)
    ]
    found = list(dict.fromkeys(ranks.gather(nonfinite([*trained, *moments]))))
    if found:
        raise NotFinite(
            f"{len(found)} tensors of the trained weights and their optimizer state hold NaN or infinity, e.g. "
            f"{found[0]}: no checkpoint is written, the earlier ones are as they were. Go on from the newest with "
            "--resume, or start anew with a lower train.optimizer.learning_rate"
        )


def nothing_trained(made: int, idle: int, n: int) -> str:
    """One line for a run in which `idle` steps had no group of `n` responses with signal."""
    share = "nothing was trained" if not made else f"{idle} steps trained nothing"
    return (
        f"{share}: every group of {n} responses had the same reward throughout. Easier problems (or harder ones, if "
        "all are right), a larger rollout.n, a model that is sometimes right, or a finer reward give a signal; "
        "`mmhicra doctor` shows how many sampled responses are right"
    )
