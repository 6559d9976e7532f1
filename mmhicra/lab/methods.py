"""What the lab compares: each method is a few settings on top of one configuration."""

from __future__ import annotations

from collections.abc import Sequence

from mmhicra.core.errors import ConfigError

BASELINE = "grpo"
"""The method that every other one is compared with."""

METHODS: dict[str, tuple[str, ...]] = {
    "grpo": ("credit.method=grpo",),
    "hicra": ("credit.method=hicra",),
    "hicra_adaptive": ("credit.method=hicra", "hicra.adaptive={signal: kl, target: 0.001, maximum: 0.5, rate: 0.02}"),
    "hicra_positive": ("credit.method=hicra_positive",),
    "placebo": ("credit.method=placebo",),
    "uniform": ("credit.method=uniform",),
    "high_entropy": ("credit.method=high_entropy",),
    "entropy_advantage": ("credit.method=entropy",),
    "entropy_bonus": ("credit.method=grpo", "train.loss.entropy_coefficient=0.01"),
    "siren": ("credit.method=grpo", "train.loss.siren={coefficient: 0.05}"),
}
"""Method -> settings. `--variant NAME=SETTING;SETTING` adds to these."""

STANDARD = ("grpo", "hicra", "hicra_adaptive", "placebo", "high_entropy", "entropy_bonus", "siren")
"""The methods that `mmhicra lab` compares if none are named."""


def settings_of(names: Sequence[str], variants: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The settings of the named methods and of the user's own, baseline first.

    Args:
        names: keys of `METHODS`.
        variants: `NAME=SETTING;SETTING`, e.g. `hicra_0.4=credit.method=hicra;hicra.alpha=0.4`.

    Raises:
        ConfigError: a method is unknown, named twice, or a variant is no assignment.
    """
    chosen: dict[str, tuple[str, ...]] = {BASELINE: METHODS[BASELINE]}
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"--methods: no method named {name!r}: choose from {', '.join(METHODS)}")
        chosen[name] = METHODS[name]
    for variant in variants:
        name, _, settings = variant.partition("=")
        if not name.isidentifier() and not name.replace(".", "_").replace("-", "_").isidentifier():
            raise ConfigError(f"--variant {variant!r}: write it as NAME=SETTING;SETTING")
        if name in chosen or "=" not in settings:
            why = "is there already" if name in chosen else "has no setting"
            raise ConfigError(f"--variant {variant!r}: {name!r} {why}: write it as NAME=SETTING;SETTING")
        chosen[name] = tuple(part for part in settings.split(";") if part)
    return chosen
