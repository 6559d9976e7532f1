"""From a group's rewards to per-token advantages (paper section 3): GRPO, HICRA and what HICRA must be compared with.

Every method is one pure function of one signature, `Rule`: (advantages, tokens, options) -> advantages. Shapes: G
completions of one prompt, R tokens of one response. Only `assign_credit` writes, and only into its own fields. A method
of the user's own is a `Rule` too, named by its address (`hicra.own_method`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from mmhicra.core.errors import UserError
from mmhicra.core.names import AdvantageScale, CreditMethod
from mmhicra.core.records import Completion, Group

REWARD_TOLERANCE = 1e-6
"""Rewards this close are alike: the same terms, summed in another order, differ by float rounding."""


@dataclass(frozen=True, eq=False)
class TokenSignals:
    """What a method may know about the R tokens of one response; all of it is constant, no gradient comes from it.

    Attributes:
        planning: (R,) bool, tokens of Strategic Grams.
        placebo: (R,) bool, tokens of the random n-grams of `controls`; None unless the method asks for them.
        entropy: (R,) nats, of the distribution each token was sampled from; None unless the method asks for it.
    """

    planning: torch.Tensor
    placebo: torch.Tensor | None = None
    entropy: torch.Tensor | None = None


@dataclass(frozen=True)
class CreditOptions:
    """How strongly a method acts.

    Attributes:
        alpha: amplification, in [0, 1); 0 is GRPO to the bit for every method but `entropy`.
        top_share: `high_entropy` amplifies this share of a response's tokens.
        entropy_weight: `entropy` adds this times the entropy.
        entropy_divisor: `entropy` adds at most |A| / this; above 1, so that no advantage changes its sign.
    """

    alpha: float = 0.2
    top_share: float = 0.3
    entropy_weight: float = 0.4
    entropy_divisor: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha must be in [0, 1), got {self.alpha}")
        if not 0 < self.top_share < 1:
            raise ValueError(f"top_share must be in (0, 1), got {self.top_share}")
        if not self.entropy_weight >= 0 or not self.entropy_divisor > 1:
            given = f"{self.entropy_weight} and {self.entropy_divisor}"
            raise ValueError(f"entropy_weight must be at least 0 and entropy_divisor above 1, got {given}")


def has_signal(rewards: torch.Tensor | Sequence[float], eps: float = REWARD_TOLERANCE) -> bool:
    """Whether the rewards of a group differ by more than `eps`; if not, its advantages are all zero."""
    values = _finite(rewards)
    return bool(values.numel()) and bool(values.max() - values.min() > eps)


def group_advantages(
    rewards: torch.Tensor | Sequence[float], scale: AdvantageScale = "none", eps: float = REWARD_TOLERANCE
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


def hicra_advantages(advantages: torch.Tensor, mask: torch.Tensor, alpha: float) -> torch.Tensor:
    """A + alpha * |A| on marked tokens, A on the others (paper section 3): 1.2 A or 0.8 A at alpha 0.2.

    Args:
        advantages: (R,), untouched; any other shape works too, if the mask has it.
        mask: bool, a constant: no gradient comes from it.
        alpha: in [0, 1); 0 is GRPO to the bit.

    Returns:
        A new tensor of the same shape. No advantage changes its sign.

    Raises:
        ValueError: alpha is outside [0, 1), shapes differ, or the mask is not bool.
    """
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be in [0, 1), got {alpha}")
    _check(advantages, mask)
    if alpha == 0:  # -0.0 + 0.0 would lose its sign bit
        return advantages.clone()
    return torch.where(mask, advantages + alpha * advantages.abs(), advantages)


def grpo(advantages: torch.Tensor, tokens: TokenSignals, options: CreditOptions) -> torch.Tensor:
    """A copy: every token has its response's advantage. The rest is checked, not used."""
    _check(advantages, tokens.planning)
    return advantages.clone()


def hicra(advantages: torch.Tensor, tokens: TokenSignals, options: CreditOptions) -> torch.Tensor:
    """The paper's method: `hicra_advantages` on planning tokens."""
    return hicra_advantages(advantages, tokens.planning, options.alpha)


def hicra_positive(advantages: torch.Tensor, tokens: TokenSignals, options: CreditOptions) -> torch.Tensor:
    """HICRA where A > 0 only: planning is praised more in a success, and blamed in full in a failure. Ours."""
    _check(advantages, tokens.planning)
    return hicra_advantages(advantages, tokens.planning & (advantages > 0), options.alpha)


def placebo(advantages: torch.Tensor, tokens: TokenSignals, options: CreditOptions) -> torch.Tensor:
    """HICRA on random n-grams as frequent as the planning tokens: what amplification does without planning."""
    return hicra_advantages(advantages, _given(tokens.placebo, "placebo"), options.alpha)


def high_entropy(advantages: torch.Tensor, tokens: TokenSignals, options: CreditOptions) -> torch.Tensor:
    """HICRA on the `top_share` of a response's tokens whose entropy is highest ("fork tokens", paper 4.2.4)."""
    entropy = _given(tokens.entropy, "entropy")
    return hicra_advantages(advantages, top_entropy_mask(entropy, options.top_share), options.alpha)


def entropy(advantages: torch.Tensor, tokens: TokenSignals, options: CreditOptions) -> torch.Tensor:
    """A + min(weight * H, |A| / divisor): the entropy advantage of Cheng et al., arXiv 2506.14758."""
    bonus = options.entropy_weight * _given(tokens.entropy, "entropy").to(advantages.dtype)
    _check(advantages, tokens.planning)
    return advantages + torch.minimum(bonus, advantages.abs() / options.entropy_divisor)


def uniform(advantages: torch.Tensor, tokens: TokenSignals, options: CreditOptions) -> torch.Tensor:
    """HICRA's bonus, the same mass of it, on all tokens alike: A + alpha * |A| * (share of planning tokens). Ours."""
    _check(advantages, tokens.planning)
    if options.alpha == 0 or not bool(tokens.planning.any()):
        return advantages.clone()
    density = tokens.planning.to(advantages.dtype).mean()
    return advantages + options.alpha * density * advantages.abs()


Rule: TypeAlias = Callable[[torch.Tensor, TokenSignals, CreditOptions], torch.Tensor]

METHODS: dict[CreditMethod, Rule] = {
    "grpo": grpo,
    "hicra": hicra,
    "hicra_positive": hicra_positive,
    "placebo": placebo,
    "high_entropy": high_entropy,
    "entropy": entropy,
    "uniform": uniform,
}
"""How each method turns the advantages of one response, (R,), into its per-token advantages, (R,)."""

NEEDS_ENTROPY: frozenset[CreditMethod] = frozenset({"high_entropy", "entropy"})
"""Methods that need `Completion.entropy`, which takes a forward pass before credit is assigned."""


def top_entropy_mask(entropy: torch.Tensor, top_share: float) -> torch.Tensor:
    """(R,) bool, the tokens above the (1 - top_share) quantile of (R,) entropies; none where all are equal."""
    if not entropy.numel():
        return torch.zeros_like(entropy, dtype=torch.bool)
    return entropy > torch.quantile(entropy.float(), 1 - top_share)


def assign_credit(
    group: Group,
    method: CreditMethod | Rule = "hicra",
    options: CreditOptions | float = 0.2,
    scale: AdvantageScale = "none",
) -> None:
    """Set `advantages`, (R,) float32, of every completion from the group's rewards and its token signals alone.

    A masked completion counts in the group's mean and deviation, and has an advantage of 0 on all its tokens. Earlier
    advantages are not read, so calling it twice changes nothing. Only `grpo` works without planning masks.

    Args:
        group: scored; its completions carry what the method needs (`TokenSignals`).
        method: a key of `METHODS`, or another function of the same form.
        options: how strongly it acts; a number is alpha.
        scale: see `group_advantages`.

    Raises:
        ValueError: a completion has no reward, a signal is missing or misshapen, or an option is out of range.
        UserError: a method of the user's own failed.
    """
    if not callable(method) and method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    rule = method if callable(method) else METHODS[method]
    options = options if isinstance(options, CreditOptions) else CreditOptions(alpha=options)
    advantages = group_advantages(group.rewards(), scale).tolist()
    results = []
    for number, (completion, advantage) in enumerate(zip(group.completions, advantages, strict=True)):
        if completion.masked:  # not asked for its signals: nothing may have measured them
            results.append(spread(0.0, len(completion)))
            continue
        try:
            signals = _signals(completion, method)
            results.append(rule(spread(advantage, len(completion)), signals, options))
        except (ValueError, UserError) as error:
            raise type(error)(f"problem {group.prompt.problem.id}, completion {number}: {error}") from None
    for completion, advantage, result in zip(group.completions, advantages, results, strict=True):
        completion.base_advantage = advantage
        completion.advantages = result


def positive_mass(groups: Sequence[Group]) -> tuple[float, float]:
    """sum max(A, 0) over the planning tokens of `groups`, and over all their tokens; masked ones have none."""
    planning = total = 0.0
    for completion in (completion for group in groups for completion in group.completions):
        if completion.advantages is None or completion.planning is None:
            raise ValueError("positive_mass comes after the planning masks and assign_credit")
        praise = completion.advantages.clamp(min=0)
        planning += float(praise[completion.planning].sum())
        total += float(praise.sum())
    return planning, total


def _signals(completion: Completion, method: CreditMethod | Rule) -> TokenSignals:
    planning = completion.planning
    if planning is None:
        if method not in ("grpo", grpo):
            raise ValueError("no planning mask")
        planning = torch.zeros(len(completion), dtype=torch.bool)
    return TokenSignals(planning, completion.placebo, completion.entropy)


def _given(signal: torch.Tensor | None, name: str) -> torch.Tensor:
    if signal is None:
        raise ValueError(f"no {name}: this method needs it for every token")
    return signal


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


def _check(advantages: torch.Tensor, mask: torch.Tensor) -> None:
    if advantages.shape != mask.shape:
        shapes = f"{tuple(advantages.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"advantages and mask must have one shape, got {shapes}")
    if mask.dtype != torch.bool:
        raise ValueError(f"the mask must be bool, got {mask.dtype}")
