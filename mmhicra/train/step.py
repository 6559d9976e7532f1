"""What the phases of one step hand on to each other, and what the loss of one row returns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from mmhicra.core.records import Group
from mmhicra.hicra.telemetry import RolloutTelemetry
from mmhicra.rewards.custom import CustomFailure
from mmhicra.train.loop.metrics import Tally


@dataclass
class Step:
    """One step of the trainer: every phase reads what earlier phases left here, and leaves its own results.

    What the planning search found, the advantages and the log-probs are on the completions of the groups.

    Attributes:
        number: of the step, from 1.
        on_policy: whether the completions come from the policy as it is, and not from the one before.
        guard_due: whether the alignment guard checks the engine at this step.
        telemetry: numbers of the rollouts of this rank.
        tally: numbers of the update of this rank.
        kept: this rank's groups that reach the model, set by `collect`.
        dropped: this rank's groups that do not: they have no signal, or the step has enough without them.
        masked: responses of this rank that `train.mask_truncated` leaves out of the loss.
        imbalance: time of the update over what it would be if the ranks had the same load; 1 is even.
        has_batch: whether any rank has a group to train on.
        worst_problem: on which engine and trainer disagree most, if by more than the guard's warning.
        reward_failures: the groups of all ranks that a custom reward failed on.
    """

    number: int
    on_policy: bool
    guard_due: bool
    telemetry: RolloutTelemetry
    tally: Tally = field(default_factory=Tally)
    kept: list[Group] = field(default_factory=list)
    dropped: list[Group] = field(default_factory=list)
    masked: int = 0
    imbalance: float = 1.0
    has_batch: bool = False
    worst_problem: str | None = None
    reward_failures: list[CustomFailure] = field(default_factory=list)

    @property
    def groups(self) -> list[Group]:
        """Every group that was rolled out, the kept ones first."""
        return [*self.kept, *self.dropped]

    @property
    def filler_group(self) -> Group:
        """What a rank computes on, with weight 0, while other ranks have more rows than it has."""
        group = (self.kept or self.dropped)[0]
        return (
            group
            if group.trained
            else replace(group, completions=[replace(c, masked=False) for c in group.completions])
        )


@dataclass(frozen=True, eq=False)
class RowLoss:
    """What the forward pass of one row (micro-batch) of T response tokens gives.

    Attributes:
        value: scalar with gradient, the row's part of the sum over all rows and ranks.
        metrics: what the row adds to the numbers of the step; empty for a filler row.
        old_logprobs: (T,) under the policy before the step's first update, without gradient.
        entropy: (T,) nats under the policy of this pass, without gradient.
        first_pass: whether `old_logprobs` come from this pass, because nothing scored the row before the update.
    """

    value: Tensor
    metrics: Tally
    old_logprobs: Tensor
    entropy: Tensor
    first_pass: bool
