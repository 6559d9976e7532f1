"""A base model in 4 bits under adapters, on a CUDA GPU: memory, seconds, and whether the merged model says the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine, now
from benchmarks.shapes import PRESETS, write_model
from mmhicra.config import LoraConfig, ModelConfig
from mmhicra.vlm.loading import LoadedModel, load_policy
from mmhicra.vlm.quantise import refuse_quantize
from mmhicra.vlm.saving import save_model

SCALE = 0.02
"""Standard deviation of what is added to the adapters, so that they do something."""


def run_qlora(preset: str, tokens: int, pairs: int) -> dict[str, Any]:
    """Load a model of random weights in 4 bits, train a row of `tokens` on it, and compare it with its merged folder.

    Raises:
        ConfigError: there is no CUDA GPU.
        UserError: bitsandbytes is not installed.
    """
    refuse_quantize(ModelConfig(lora=LoraConfig(), quantize="nf4"))  # before a model of billions is written
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = write_model(preset, Path(folder) / "model", torch.bfloat16)
        options = ModelConfig(
            path=str(path), precision="bf16", lora=LoraConfig(rank=32), quantize="nf4", checkpointing="full"
        )
        loaded = load_policy(options)
        held = torch.cuda.memory_allocated()
        loaded.model.to("cuda")
        with torch.no_grad():
            for parameter in loaded.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(SCALE * torch.randn_like(parameter))
        ids = torch.randint(8, PRESETS[preset]["text"]["vocab_size"] - 64, (1, tokens), device="cuda")
        torch.cuda.reset_peak_memory_stats()
        seconds = [_update(loaded, ids) for _ in range(pairs + 1)][1:]
        peak = torch.cuda.max_memory_allocated()
        own = _logits(loaded, ids)
        save_model(loaded.model, loaded.processor, Path(folder) / "merged", half=False)
        del loaded
        torch.cuda.empty_cache()
        merged = load_policy(ModelConfig(path=str(Path(folder) / "merged"), precision="bf16"))
        merged.model.to("cuda")
        gap = (own - _logits(merged, ids)).abs()
    return {
        "machine": machine(),
        "model": preset,
        "tokens": tokens,
        "held_gib": held / 2**30,
        "peak_gib": peak / 2**30,
        "update_seconds": seconds,
        "largest_logit_gap": float(gap.max()),
        "mean_logit_gap": float(gap.mean()),
    }


def print_qlora(result: dict[str, Any]) -> None:
    """The figures, a line each."""
    for name, value in result.items():
        print(f"{name}: {value}")


def _update(loaded: LoadedModel, ids: torch.Tensor) -> float:
    start = now()
    with torch.autocast("cuda", torch.bfloat16):
        hidden = loaded.family.language_model(loaded.model)(input_ids=ids, use_cache=False).last_hidden_state
        loss = hidden.float().square().mean()
    loss.backward()
    seconds = now() - start
    for parameter in loaded.model.parameters():
        parameter.grad = None
    return seconds


@torch.no_grad()
def _logits(loaded: LoadedModel, ids: torch.Tensor) -> torch.Tensor:
    """(64, V) of the last positions, on the CPU."""
    with torch.autocast("cuda", torch.bfloat16):
        hidden = loaded.family.language_model(loaded.model)(input_ids=ids, use_cache=False).last_hidden_state[0, -64:]
        return loaded.family.lm_head(loaded.model)(hidden).float().cpu()
