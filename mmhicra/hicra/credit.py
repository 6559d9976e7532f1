"""From a group's rewards to per-token advantages (paper section 3): GRPO and HICRA.

Shapes: G completions of one prompt, R tokens of one response. All but `assign_credit` are pure functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch

from mmhicra.records import Group

Scale = Literal["none", "std"]
Method = Literal["grpo", "hicra"]

REWARD_TOLERANCE = 1e-6
"""Rewards this close are alike: the same terms, summed in another order, differ by float rounding."""


def has_signal(rewards: torch.Tensor | Sequence[float], eps: float = REWARD_TOLERANCE) -> bool:
    """Whether the rewards of a group differ by more than `eps`; if not, its advantages are all zero."""
    values = _finite(rewards)
    return bool(values.numel()) and bool(values.max() - values.min() > eps)


def group_advantages(
    rewards: torch.Tensor | Sequence[float], scale: Scale = "none", eps: float = REWARD_TOLERANCE
) -> torch.Tensor:
    """A_i = r_i - mean(r), the paper's advantage; `std` divides by the sample standard deviation + `eps`.

    Args:
        rewards: (G,).
        scale: the paper does not divide; most GRPO trainers do.
        eps: rewards within this of each other give exact zeros.

    Returns:
        (G,), float64 for a sequence of floats, else the rewards' own floating type.

    Raises:
        ValueError: rewards are not one-dimensional or not finite, or the scale is unknown.
    """
    if scale not in ("none", "std"):
        raise ValueError(f"scale must be none or std, got {scale!r}")
    values = _finite(rewards)
    if not has_signal(values, eps):
        return torch.zeros_like(values)
    centred = values - values.mean()
    return centred / (values.std() + eps) if scale == "std" else centred


def spread(advantage: float, length: int) -> torch.Tensor:
    """One completion's advantage on each of its `length` tokens: (R,) float32."""
    return torch.full((length,), advantage, dtype=torch.float32)


def grpo_advantages(advantages: torch.Tensor, planning: torch.Tensor, alpha: float = 0.0) -> torch.Tensor:
    """A copy of the advantages (R,): GRPO leaves every token its own. The rest is checked, not used."""
    _check(advantages, planning, alpha)
    return advantages.clone()


def hicra_advantages(advantages: torch.Tensor, planning: torch.Tensor, alpha: float) -> torch.Tensor:
    """A + alpha * |A| on planning tokens, A on the others (paper section 3): 1.2 A or 0.8 A at alpha 0.2.

    Args:
        advantages: (R,), untouched.
        planning: (R,) bool, a constant: no gradient comes from it.
        alpha: in [0, 1); 0 is GRPO to the bit.

    Returns:
        (R,), a new tensor. No advantage changes its sign.

    Raises:
        ValueError: alpha is outside [0, 1), shapes differ, or the mask is not bool.
    """
    _check(advantages, planning, alpha)
    if alpha == 0:  # -0.0 + 0.0 would lose its sign bit
        return advantages.clone()
    return torch.where(planning, advantages + alpha * advantages.abs(), advantages)


Rule: TypeAlias = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]

METHODS: dict[Method, Rule] = {"grpo": grpo_advantages, "hicra": hicra_advantages}
"""How each method turns (advantages, planning, alpha) into per-token advantages."""


def assign_credit(group: Group, method: Method = "hicra", alpha: float = 0.2, scale: Scale = "none") -> None:
    """Set `advantages`, (R,) float32, of every completion from the group's rewards and planning masks alone.

    Earlier advantages are not read, so calling it twice changes nothing. Only `hicra` needs the masks.

    Raises:
        ValueError: a completion has no reward, no or a misshapen planning mask, or an option is out of range.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    advantages = group_advantages(group.rewards(), scale).tolist()
    results = []
    for number, (completion, advantage) in enumerate(zip(group.completions, advantages, strict=True)):
        planning = completion.planning
        if planning is None:
            if method != "grpo":
                raise ValueError(f"problem {group.prompt.problem.id}, completion {number}: no planning mask")
            planning = torch.zeros(len(completion), dtype=torch.bool)
        results.append(METHODS[method](spread(advantage, len(completion)), planning, alpha))
    for completion, advantage, result in zip(group.completions, advantages, results, strict=True):
        completion.base_advantage = advantage
        completion.advantages = result


def _finite(rewards: torch.Tensor | Sequence[float]) -> torch.Tensor:
    if isinstance(rewards, torch.Tensor):
        values = rewards.detach() if rewards.is_floating_point() else rewards.double()
    else:
        values = torch.tensor(rewards, dtype=torch.float64)
    if values.ndim != 1:
        raise ValueError(f"rewards of one group must have shape (G,), got {tuple(values.shape)}")
    if not bool(values.isfinite().all()):
        raise ValueError(f"rewards must be finite, got {values.tolist()}")
    return values


def _check(advantages: torch.Tensor, planning: torch.Tensor, alpha: float) -> None:
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be in [0, 1), got {alpha}")
    if advantages.ndim != 1 or advantages.shape != planning.shape:
        shapes = f"{tuple(advantages.shape)} and {tuple(planning.shape)}"
        raise ValueError(f"advantages and planning must both have shape (R,), got {shapes}")
    if planning.dtype != torch.bool:
        raise ValueError(f"planning must be a bool mask, got {planning.dtype}")
