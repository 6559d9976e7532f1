"""`mmhicra bench rollout`: the embedded engine beside transformers' `generate`, one group of one prompt at a time."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoProcessor

from benchmarks.machine import machine, now
from benchmarks.ours import Ours
from benchmarks.progress import Progress, passes, silent
from benchmarks.shapes import REGIMES, Regime, write_model, write_problems
from benchmarks.spread import refuse_none, shown_range, times_faster
from benchmarks.train import DTYPES, PROBLEMS
from benchmarks.trl import RowLengths
from mmhicra.core.memory import peak_above
from mmhicra.core.records import Prompt
from mmhicra.vlm.patch_grid import PatchGridInputs


def run_rollout(
    model: str,
    regime: str,
    group: int,
    pairs: int,
    precision: str,
    progress: Progress = silent,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure both, strictly in turn, with one model; JSON-able. `options` are of our side's configuration.

    Returns:
        `seconds`: by side, from prompt to last token; for us that includes processing the problem, for transformers
        it does not. `ratio`: theirs to ours, with its range. `memory`: on CUDA, bytes at the peak above the model.

    Raises:
        UserError: fewer than one pair.
    """
    refuse_none("rollout", pairs)
    lengths = REGIMES[regime].with_group(group) if group else REGIMES[regime]
    with tempfile.TemporaryDirectory() as folder:
        progress("writing the model")
        path = write_model(model, Path(folder, "model"), DTYPES[precision])
        problems = write_problems(lengths, AutoProcessor.from_pretrained(path), Path(folder, "data"), PROBLEMS)
        ours = Ours(path, problems, lengths, precision, "none", Path(folder, "run"), options)
        try:
            seconds, memory = measure(ours, lengths, pairs, progress)
        finally:
            ours.close()
    return {
        "bench": "rollout",
        "settings": {"model": model, "regime": regime, "pairs": pairs, "precision": precision, "options": [*options]},
        "regime": lengths.facts(),
        "seconds": seconds,
        "ratio": times_faster(seconds["mmhicra"], seconds["transformers"]),
        "memory": memory,
        "machine": machine(),
    }


def measure(
    ours: Ours, lengths: Regime, pairs: int, progress: Progress
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of every pair by side after a warm-up, and on CUDA peak memory."""
    seconds: dict[str, list[float]] = {"mmhicra": [], "transformers": []}
    sides = {"mmhicra": lambda: ours.trainer.collector.roll_out(0), "transformers": lambda: generate(ours, lengths)}
    for _ in passes(pairs, progress):
        for side, work in sides.items():
            start = now()
            work()
            seconds[side].append(now() - start)
    memory = {side: peak_above(work) for side, work in sides.items()} if torch.cuda.is_available() else {}
    return {side: found[1:] for side, found in seconds.items()}, memory


@torch.no_grad()
def generate(ours: Ours, lengths: Regime) -> None:
    """The group by transformers, every response with a copy of the prompt and its image."""
    trainer = ours.trainer
    (prompt,) = (trainer.collector.prompts.build(problem) for problem in trainer.collector.stream.take(1))
    model: Any = trainer.unwrapped.model
    count = len(lengths.responses)
    model.eval()
    language = trainer.unwrapped.family.language_model(model).config
    attention, language._attn_implementation = language._attn_implementation, "sdpa"
    bf16 = ours.config.model.precision == "bf16"
    try:
        with torch.autocast(trainer.accelerator.device.type, torch.bfloat16, enabled=bf16):
            model.generate(
                **_inputs(prompt, count, trainer.accelerator.device),
                do_sample=True,
                max_new_tokens=max(lengths.responses),
                eos_token_id=None,  # rows end by their lengths alone, as on our side
                stopping_criteria=[RowLengths(lengths.prompt, lengths.responses)],
            )
    finally:
        language._attn_implementation = attention
        model.train()


def _inputs(prompt: Prompt, count: int, device: torch.device) -> dict[str, torch.Tensor]:
    assert isinstance(prompt.vision, PatchGridInputs)  # what the families of `shapes` make
    pixels = prompt.vision.pixels
    assert pixels is not None
    ids = prompt.expanded_ids.repeat(count, 1)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": prompt.image_positions.long().repeat(count, 1),
        "pixel_values": pixels.values.repeat(count, 1),
        "image_grid_thw": pixels.grid_thw.repeat(count, 1),
    }
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def print_rollout(result: dict[str, Any], console: Console | None = None) -> None:
    """The table for a person."""
    settings, regime, ratio = result["settings"], result["regime"], result["ratio"]
    responses = regime["responses"]
    title = f"{settings['model']}, {regime['shown']}, {settings['precision']}"
    table = Table("rollout", *result["seconds"], "times faster", title=title)
    medians = [statistics.median(found) for found in result["seconds"].values()]
    shown = f"{ratio['median']:.2f} ({shown_range(ratio)})"
    table.add_row("seconds", *(f"{median:.2f}" for median in medians), shown)
    table.add_row("response tokens a second", *(f"{sum(responses) / median:,.0f}" for median in medians))
    if result["memory"]:
        table.add_row("peak above the model, MiB", *(f"{peak / 2**20:,.0f}" for peak in result["memory"].values()))
    (console or Console()).print(table)
