"""A model to evaluate: loaded, on its device, behind an engine, and named so that its numbers can be traced to it."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

import mmhicra
from mmhicra.config import RunConfig
from mmhicra.rollout.engine import Engine
from mmhicra.rollout.engines import make_engine
from mmhicra.vlm.loading import LoadedModel, LoadedProcessor, put_trained
from mmhicra.vlm.trained_weights import OLD_TRAINED_WEIGHTS, TRAINED_WEIGHTS

_HASHED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
"""The files that decide what a model folder computes: weights, configurations, tokenizer, processor, chat template."""


@contextmanager
def open_engine(config: RunConfig, model: LoadedModel, checkpoint: Path | None = None) -> Iterator[Engine]:
    """The configured engine, closed in the end.

    Args:
        config: what was configured.
        model: of `config.model`; the embedded engine moves it to the GPU if there is one.
        checkpoint: of a run: `model` gets its trained weights, and the engine with it.

    Raises:
        UserError: the engine cannot run here, or the checkpoint is none of this model.
    """
    with ExitStack() as stack:
        if config.rollout.engine != "vllm":  # which keeps weights of its own
            model.model.to("cuda" if torch.cuda.is_available() else "cpu")
        engine = make_engine(config, model, stack)
        if checkpoint is not None:
            put_trained(model, checkpoint)
            engine.sync(model.model)
        yield engine


def model_facts(path: str, loaded: LoadedProcessor) -> dict[str, Any]:
    """Which model this is: the hub's commit, or a SHA-256 over the names and contents of a folder's files.

    Args:
        path: the model folder, checkpoint, hub id or name that was evaluated.
        loaded: the model.
    """
    shipped = Path(loaded.path)
    folder = Path(path) if Path(path).is_dir() else shipped
    facts: dict[str, Any] = {"path": path, "family": loaded.family.name}
    if not folder.is_dir():
        return facts | {"commit": getattr(loaded.config, "_commit_hash", None)}
    digest = hashlib.sha256()
    files = sorted({file for pattern in _HASHED for file in folder.glob(pattern)})
    old = folder / OLD_TRAINED_WEIGHTS
    for file in [*files, *sorted((folder / TRAINED_WEIGHTS).glob("*")), *([old] if old.is_file() else [])]:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            while block := content.read(1 << 24):
                digest.update(block)
    return facts | {"sha256": digest.hexdigest()}


def billions(model: nn.Module) -> float:
    """Parameters in billions, to two digits."""
    return float(f"{sum(parameter.numel() for parameter in model.parameters()) / 1e9:.2g}")


def versions() -> dict[str, str]:
    """What responses were generated with."""
    return {
        "mmhicra": mmhicra.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
