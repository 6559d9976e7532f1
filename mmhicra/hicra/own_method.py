"""Credit methods of the user's own: found by their address, tried before a run, and checked at every call.

A method is a function `(advantages, tokens, options) -> advantages` for one response of R tokens, see `credit.Rule`:
advantages (R,) float32, all alike, as the group's rewards make them; `credit.TokenSignals`; `credit.CreditOptions`. It
returns (R,) new advantages. A function with the attribute `needs_entropy = True` gets token entropies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast, get_args

import torch

from mmhicra.core.errors import ConfigError, UserError
from mmhicra.core.names import CreditMethod
from mmhicra.core.plugins import check_call, load_object, spell_error
from mmhicra.hicra.credit import METHODS, NEEDS_ENTROPY, CreditOptions, Rule, TokenSignals

_FIELD = "credit.method"
_FORM = (
    "mmhicra calls f(advantages, tokens, options) for each response and takes new advantages of the same shape; see "
    "docs/extend/credit_method.md"
)
_TRIED = (0.5, -0.5, 0.0)
"""The advantages that a method is tried with."""
_TRIED_PLANNING = (False, True, True, False, False)
"""The planning mask of the response that it is tried with."""


class MethodError(UserError):
    """A method of the user's own failed on a response."""


@dataclass(frozen=True)
class OwnMethod:
    """A method of the user's own, whose mistakes are errors that name it."""

    address: str
    function: Rule

    def __call__(self, advantages: torch.Tensor, tokens: TokenSignals, options: CreditOptions) -> torch.Tensor:
        """The advantages that it makes, (R,) float32, without a gradient.

        Raises:
            MethodError: it raised, changed what it was given, or returned something else than R finite numbers.
        """
        given, planning = advantages.clone(), tokens.planning.clone()
        try:
            made: object = self.function(given, tokens, options)
        except Exception as error:
            raise MethodError(f"{_FIELD} {self.address} failed: {spell_error(error)}") from error
        if fault := _fault(made, advantages):
            raise MethodError(f"{_FIELD} {self.address} returned {fault}")
        if not torch.equal(given, advantages) or not torch.equal(tokens.planning, planning):
            raise MethodError(f"{_FIELD} {self.address} changed its arguments: make new advantages instead")
        return cast(torch.Tensor, made).detach().to(torch.float32)

    @property
    def needs_entropy(self) -> bool:
        """Whether it asks for token entropies."""
        return bool(getattr(self.function, "needs_entropy", False))


def find_method(method: str) -> Rule:
    """The function of `credit.method`, a name or an address.

    Raises:
        ConfigError: there is no such function, or it takes other arguments.
    """
    if method in get_args(CreditMethod):
        return METHODS[cast(CreditMethod, method)]
    found = load_object(method, _FIELD, "function")
    arguments = ("advantages", "tokens", "options")
    return OwnMethod(method, cast(Rule, check_call(found, method, _FIELD, arguments, _FORM)))


def needs_entropy(method: str, rule: Rule) -> bool:
    """Whether a method reads `Completion.entropy`, which takes a forward pass before credit is assigned."""
    return rule.needs_entropy if isinstance(rule, OwnMethod) else method in NEEDS_ENTROPY


def try_method(method: str, options: CreditOptions) -> None:
    """Find a method and, if it is the user's own, call it once on a made response of five tokens.

    Raises:
        ConfigError: there is no such function, it takes other arguments, or the call fails.
    """
    rule = find_method(method)
    if not isinstance(rule, OwnMethod):
        return
    planning = torch.tensor(_TRIED_PLANNING)
    entropy = torch.linspace(0.0, 1.0, len(planning)) if rule.needs_entropy else None
    for advantage in _TRIED:
        try:
            rule(torch.full((len(planning),), advantage), TokenSignals(planning.clone(), entropy=entropy), options)
        except MethodError as error:
            hint = (
                ""
                if "NoneType" not in str(error)
                else "; tokens.entropy is there for a function with needs_entropy = True"
            )
            raise ConfigError(f"{error}. This was a first call, on a made response: {_FORM}{hint}") from error


def _fault(made: object, advantages: torch.Tensor) -> str | None:
    """What is wrong with what a method returned; None if nothing is."""
    if not isinstance(made, torch.Tensor):
        return f"a {type(made).__name__}: it must return a tensor of the shape {tuple(advantages.shape)}"
    if made.shape != advantages.shape or not made.is_floating_point():
        wanted = f"{tuple(advantages.shape)} of floating type"
        return f"a tensor of the shape {tuple(made.shape)} and type {made.dtype}: it must be {wanted}"
    if not bool(made.isfinite().all()):
        return f"advantages that are not finite ({made[~made.isfinite()][0].item()})"
    return None
