"""mmhicra: multimodal reasoning RL for vision-language models, with hierarchy-aware credit (HICRA)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mmhicra.core.renamed import install

if TYPE_CHECKING:
    from mmhicra.api import evaluate, load_config, train
    from mmhicra.hicra.credit import hicra_advantages
    from mmhicra.hicra.grams import GramLibrary
    from mmhicra.hicra.planning import PlanningMatcher, planning_mask
    from mmhicra.hicra.telemetry import semantic_entropy

__version__ = "0.1.0"
__all__ = [
    "GramLibrary",
    "PlanningMatcher",
    "evaluate",
    "hicra_advantages",
    "load_config",
    "planning_mask",
    "semantic_entropy",
    "train",
]

_HOMES = {
    "GramLibrary": "mmhicra.hicra.grams",
    "PlanningMatcher": "mmhicra.hicra.planning",
    "hicra_advantages": "mmhicra.hicra.credit",
    "load_config": "mmhicra.api",
    "planning_mask": "mmhicra.hicra.planning",
    "semantic_entropy": "mmhicra.hicra.telemetry",
}

_CALLABLE = ("evaluate", "train")

install()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import mmhicra` alone does not wait for torch."""
    if name in _CALLABLE:  # packages of that name, which are what their functions are called by
        return importlib.import_module(f"mmhicra.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'mmhicra' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
