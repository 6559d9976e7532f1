"""How strongly planning tokens are amplified at each step: constant (the paper), scheduled, or adaptive (both ours).

The adaptive controller is an integrator: where what was measured lies below its target, alpha grows, else it shrinks,
never beyond its bounds. More amplification moves more of the advantage onto planning tokens and the policy further, so
either signal rises with alpha. Signals: `mass`, the share of the positive advantage mass that lies on planning tokens;
`kl`, the drift of the policy in one step, KL(old || new). The mass is the positive one only, because the share of all
|advantage| does not answer to alpha: a group's advantages add up to zero, so what alpha adds in its successes it takes
away in its failures.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmhicra.core.names import AlphaSignal


def scheduled_alpha(step: int, start: float, end: float, steps: int) -> float:
    """Linear from `start` at step 1 to `end` at step `steps`, `end` from there on.

    Raises:
        ValueError: step or steps is below 1.
    """
    if step < 1 or steps < 1:
        raise ValueError(f"step and steps count from 1, got {step} and {steps}")
    return end if step >= steps else start + (end - start) * (step - 1) / (steps - 1)


def adapted_alpha(
    alpha: float, measured: float, target: float, *, minimum: float, maximum: float, rate: float
) -> float:
    """The next alpha: alpha + rate * (target - measured) / target, the error cut to [-1, 1], alpha to its bounds.

    Args:
        alpha: of the step that was measured.
        measured: the signal.
        target: what it should be, above 0.
        minimum: lowest alpha.
        maximum: highest alpha, below 1.
        rate: the largest change in one step.

    Raises:
        ValueError: the target is not above 0, or the bounds are not 0 <= minimum <= maximum < 1.
    """
    if not target > 0 or not 0 <= minimum <= maximum < 1:
        raise ValueError(f"need target > 0 and 0 <= minimum <= maximum < 1, got {target}, {minimum}, {maximum}")
    error = max(-1.0, min(1.0, (target - measured) / target))
    return max(minimum, min(maximum, alpha + rate * error))


@dataclass
class AlphaController:
    """Alpha of the coming step; `alpha` is all its state.

    Attributes:
        alpha: of the coming step, unless it is scheduled.
        end, steps: of the schedule, or None.
        signal, target, minimum, maximum, rate: of the controller; without a signal alpha is constant.
    """

    alpha: float
    end: float | None = None
    steps: int = 1
    signal: AlphaSignal | None = None
    target: float = 1.0
    minimum: float = 0.0
    maximum: float = 0.5
    rate: float = 0.02

    def at(self, step: int) -> float:
        """Alpha of a step, counted from 1."""
        return self.alpha if self.end is None else scheduled_alpha(step, self.alpha, self.end, self.steps)

    def observe(self, measured: float | None) -> None:
        """Take in the signal of the step that just ran; None (nothing was trained) changes nothing."""
        if self.signal is not None and measured is not None:
            bounds = {"minimum": self.minimum, "maximum": self.maximum, "rate": self.rate}
            self.alpha = adapted_alpha(self.alpha, measured, self.target, **bounds)
