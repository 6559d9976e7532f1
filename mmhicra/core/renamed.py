"""Modules that had another name in the first release candidate: their old names still import, with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

OLD = {
    "assets": "core.resources",
    "config_base": "config.base",
    "config_data": "config.data",
    "config_eval": "config.eval",
    "config_explaining": "config.explain",
    "config_loading": "config.loading",
    "config_method": "config.method",
    "config_model": "config.model",
    "config_rollout": "config.rollout",
    "config_train": "config.train",
    "data.ledger": "data.generated.ledger",
    "data.visual_drawing": "data.generated.drawing",
    "data.visual_math": "data.generated.visual_math",
    "data.visual_tasks": "data.generated.tasks",
    "deep_grey": "core.deep_grey",
    "endpoint": "core.endpoint",
    "doctor.examination": "doctor.doctor",
    "doctor.pace": "doctor.step_time",
    "doctor.room": "doctor.capacity",
    "evaluate.cards": "evaluate.benchmarks.cards",
    "evaluate.cells": "evaluate.benchmarks.cells",
    "evaluate.columns": "evaluate.benchmarks.columns",
    "evaluate.harness": "evaluate.runner",
    "evaluate.judging": "evaluate.scoring.judging",
    "evaluate.latex_number": "evaluate.benchmarks.latex_number",
    "evaluate.lmms_manifest": "evaluate.lmms.manifest",
    "evaluate.lmms_model": "evaluate.lmms.model",
    "evaluate.lmms_questions": "evaluate.lmms.questions",
    "evaluate.lmms_tasks": "evaluate.lmms.tasks",
    "evaluate.mathverse": "evaluate.benchmarks.mathverse",
    "evaluate.mathvision": "evaluate.benchmarks.mathvision",
    "evaluate.mathvision_rules": "evaluate.benchmarks.mathvision_rules",
    "evaluate.mathvista": "evaluate.benchmarks.mathvista",
    "evaluate.official_prompts": "evaluate.benchmarks.official_prompts",
    "evaluate.prompts": "evaluate.benchmarks.prompts",
    "evaluate.records": "evaluate.scoring.records",
    "evaluate.robust": "evaluate.scoring.robust",
    "evaluate.samples": "evaluate.scoring.samples",
    "evaluate.subsets": "evaluate.benchmarks.subsets",
    "files": "core.files",
    "hicra.clusters": "mining.clusters",
    "hicra.embedding": "mining.embedding",
    "hicra.errors": "analysis.errors",
    "hicra.inspection": "mining.inspection",
    "hicra.judges": "analysis.judges",
    "hicra.mining": "mining.mining",
    "hicra.ngrams": "mining.ngrams",
    "hicra.solutions": "mining.solutions",
    "intervals": "core.intervals",
    "records": "core.records",
    "refusals": "core.errors",
    "rewards.guesses": "rewards.fallback_extraction",
    "rewards.option_guesses": "rewards.fallback_options",
    "rollout.cache": "rollout.hf.cache",
    "rollout.packed": "rollout.hf.packed",
    "rollout.sampling": "rollout.hf.sampling",
    "rollout.vllm_loading": "rollout.vllm.loading",
    "rollout.vllm_parallel": "rollout.vllm.parallel",
    "rollout.vllm_worker": "rollout.vllm.worker",
    "run_lines": "core.run_lines",
    "steps": "core.step_names",
    "train.assembly": "train.loop.assembly",
    "train.attention": "train.update.attention",
    "train.balance": "train.distributed.balance",
    "train.benchmarks": "train.loop.benchmarks",
    "train.best": "train.loop.best",
    "train.checkpoint": "train.loop.checkpoint",
    "train.collecting": "train.collector",
    "train.crediting": "train.credit",
    "train.disk": "train.loop.disk",
    "train.evaluation": "train.loop.evaluation",
    "train.launch": "train.distributed.launch",
    "train.layout": "train.update.layout",
    "train.lock": "train.loop.lock",
    "train.logprob": "train.update.logprob",
    "train.losses": "train.update.losses",
    "train.manifest": "core.manifest",
    "train.memory": "core.memory",
    "train.metrics": "train.loop.metrics",
    "train.objective": "train.update.objective",
    "train.opening": "train.loop.opening",
    "train.packing": "train.update.packing",
    "train.policy": "train.update.policy",
    "train.processes": "train.distributed.processes",
    "train.ranks": "train.distributed.ranks",
    "train.reference": "train.update.reference",
    "train.rollout_records": "train.loop.rollout_records",
    "train.run": "train.loop.run",
    "train.run_folder": "core.run_folder",
    "train.segments": "train.update.segments",
    "train.sharding": "train.distributed.sharding",
    "train.speed": "train.update.speed",
    "train.stopping": "train.loop.stopping",
    "train.summary": "train.loop.summary",
    "train.terminal": "train.loop.terminal",
    "train.updates": "train.update.updates",
    "vlm.families": "vlm.family",
    "yaml_text": "core.yaml_text",
}
"""Old name -> new name, both without `mmhicra.`."""


class RenamedFinder(MetaPathFinder, Loader):
    """Gives the module of the new name for the old one. Asked last, when nothing else has the module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A specification for old names only."""
        return ModuleSpec(fullname, self) if fullname.removeprefix("mmhicra.") in OLD else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module of the new name, which is the very one that others import."""
        new = "mmhicra." + OLD[spec.name.removeprefix("mmhicra.")]
        warnings.warn(f"{spec.name} is called {new} now", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing runs twice; the import system has written the old specification on the module, which is taken off."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Let old names import."""
    if not any(isinstance(finder, RenamedFinder) for finder in sys.meta_path):
        sys.meta_path.append(RenamedFinder())
