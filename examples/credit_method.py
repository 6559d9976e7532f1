"""A credit method of your own: HICRA whose bonus fades from the first token of a response to its last."""

import torch

from mmhicra.hicra.credit import CreditOptions, TokenSignals


def fading(advantages: torch.Tensor, tokens: TokenSignals, options: CreditOptions) -> torch.Tensor:
    """A + alpha * fade * |A| on planning tokens, A on the others.

    Args:
        advantages: (R,) float32, the response's advantage on each of its R tokens; not to be changed.
        tokens: `planning`, (R,) bool, the planning tokens.
        options: `alpha`, which is `hicra.alpha` or what its schedule makes of it.
    """
    fade = torch.linspace(1.0, 0.0, len(advantages))
    return torch.where(tokens.planning, advantages + options.alpha * fade * advantages.abs(), advantages)
