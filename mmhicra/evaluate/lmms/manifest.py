"""Tells lmms-eval that there is a model called `mmhicra`, without loading anything."""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """The payload of the entry point `lmms_eval.models`."""
    return ModelManifest(model_id="mmhicra", chat_class_path="mmhicra.evaluate.lmms.model.EngineModel")
