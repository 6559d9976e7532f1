"""How fast the update is, in the operations that the model itself asks for."""

from __future__ import annotations

import torch

PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}
"""FLOP/s in bf16 without sparsity, from the makers' data sheets: what MFU is a share of."""

PASSES = 3
"""A backward pass costs two forward passes. With frozen weights it costs less, and as usual that is not told apart."""


def peak_rate() -> float | None:
    """The data sheet's FLOP/s of this machine's GPU in bf16; None if there is none, or none that is known."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((rate for model, rate in PEAKS.items() if model in name), None)


def update_speed(forward: float, seconds: float, precision: str) -> dict[str, float]:
    """Model FLOP of an update by its seconds, and on a known GPU in bf16 as a share of the data sheet's (MFU).

    Args:
        forward: FLOP of one forward pass over all that was trained on, of a process.
        seconds: of all forward and backward passes, above 0.
        precision: fp32 or bf16.

    Returns:
        Metrics by name. What checkpointing, chunks of log-probs or repeated prompts compute again does not count.
    """
    rate = PASSES * forward / seconds
    peak = peak_rate() if precision == "bf16" else None
    return {"speed/update_tflops": rate / 1e12} | ({"speed/update_mfu": rate / peak} if peak else {})
