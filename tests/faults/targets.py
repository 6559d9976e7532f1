"""The kinds of input that are fuzzed, by name."""

from __future__ import annotations

from faults import answers, configurations, grams, images, models, rows, runs
from faults.fuzz import Target

TARGETS: dict[str, Target] = {
    module.TARGET.name: module.TARGET for module in (configurations, rows, images, answers, grams, models, runs)
}
SHARES = {"config": 1500, "rows": 1000, "images": 1000, "answers": 800, "grams": 400, "models": 180, "runs": 120}
"""How 5 000 inputs are shared out: about as many as the seconds that one of a kind takes allow."""


def shared_out(count: int) -> dict[str, int]:
    """Inputs of each kind, `count` in all (rounded, at least one each)."""
    return {name: max(1, round(count * share / sum(SHARES.values()))) for name, share in SHARES.items()}
