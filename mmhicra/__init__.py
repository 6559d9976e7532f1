"""mmhicra: multimodal reasoning RL for vision-language models, with hierarchy-aware credit (HICRA)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mmhicra.core.renamed import install

if TYPE_CHECKING:
    from mmhicra.hicra.credit import hicra_advantages
    from mmhicra.hicra.grams import GramLibrary
    from mmhicra.hicra.planning import PlanningMatcher, planning_mask
    from mmhicra.hicra.telemetry import semantic_entropy

__version__ = "0.1.0"
__all__ = ["GramLibrary", "PlanningMatcher", "hicra_advantages", "planning_mask", "semantic_entropy"]

_HOMES = {
    "GramLibrary": "mmhicra.hicra.grams",
    "PlanningMatcher": "mmhicra.hicra.planning",
    "hicra_advantages": "mmhicra.hicra.credit",
    "planning_mask": "mmhicra.hicra.planning",
    "semantic_entropy": "mmhicra.hicra.telemetry",
}

install()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import mmhicra` alone does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mmhicra' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
