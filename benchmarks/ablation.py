"""`mmhicra bench ablation`: what each lever of the update is worth, one after another, on one shape and device.

A stage adds its options to those of the stage before. For each a model with random weights is made on the device, never
on a disk, so that a shape of 7B takes seconds; forward and backward are those of the trainer, without an optimizer. A
stage that does not fit the device, or cannot run there, has a row that says so, and hands nothing on.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from benchmarks.flops import matmul_rate
from benchmarks.machine import machine, now
from benchmarks.progress import Progress, silent
from benchmarks.shapes import REGIMES, make_model, write_problems
from mmhicra.config import DataConfig, RunConfig
from mmhicra.config.loading import load_config
from mmhicra.core.errors import UserError, one_line
from mmhicra.core.memory import GIB, peak, restart_peak
from mmhicra.core.records import Completion, Group, Problem, ProblemImage
from mmhicra.rollout.engine import sampling_of
from mmhicra.train.distributed.balance import Work
from mmhicra.train.distributed.processes import make_accelerator
from mmhicra.train.loop.assembly import hold_weights, make_policy
from mmhicra.train.update.losses import Totals
from mmhicra.train.update.objective import row_objective
from mmhicra.train.update.packing import MicroBatch, SubGroup, pack
from mmhicra.train.update.policy import Policy
from mmhicra.train.update.speed import update_speed
from mmhicra.vlm.activation_checkpointing import checkpoint_blocks
from mmhicra.vlm.family import FAMILIES
from mmhicra.vlm.features import FrozenVision
from mmhicra.vlm.loading import LoadedModel
from mmhicra.vlm.processing import PromptBuilder
from tools.tiny_vlm.factory import SPECIAL_TOKENS

FAMILY = FAMILIES["qwen2_5_vl"]

STAGES: dict[str, tuple[str, ...]] = {
    "all computed again": ("model.checkpointing=full",),
    "one cast a step": ("model.weights=bf16",),
    "elementwise computed again": ("model.checkpointing=selective",),
    "nothing computed again": ("model.checkpointing=none",),
    "logits once": ("train.logprob_kernel=fused",),
    "compiled layers": ("model.compile=true",),
    "Liger in place of the compiler": ("model.compile=false", "model.kernels=liger"),
    "float8 with the compiler": ("model.kernels=torch", "model.compile=true", "model.float8=true"),
}
"""What is added, in this order, on CUDA in bf16."""

CASES: tuple[tuple[str, int], ...] = (("A", 1), ("A", 8), ("B", 1), ("C", 1))
"""Regime and groups a row, measured with the best that float8 has no part in."""


@dataclass(frozen=True)
class AblationSettings:
    """What is measured.

    Attributes:
        model: a preset of `shapes.PRESETS`.
        regime: of the stages.
        pairs: updates of each, after one that is not counted.
        precision: fp32 leaves out the stages that need bf16.
        options: of every stage, `FIELD=VALUE` each.
    """

    model: str
    regime: str = "B"
    pairs: int = 3
    precision: str = "bf16"
    options: tuple[str, ...] = ()


def run_ablation(settings: AblationSettings, progress: Progress = silent) -> dict[str, Any]:
    """Measure; JSON-able: `stages` and `cases` have a row each, see `measure`."""
    accelerator = make_accelerator()
    stages: list[dict[str, Any]] = []
    kept: dict[str, str] = {}
    best: tuple[float, dict[str, str]] = (float("inf"), {})
    for number, (name, options) in enumerate(STAGES.items()):
        progress(name, number, len(STAGES) + len(CASES))
        chosen = kept | pairs_of(options)
        row = measure(settings, accelerator, settings.regime, 1, chosen)
        stages.append({"stage": name, **row})
        if "seconds" in row:
            kept = chosen
            if "float8" not in name and (median := statistics.median(row["seconds"])) < best[0]:
                best = median, chosen
    cases = []
    for number, (regime, groups) in enumerate(CASES, start=len(STAGES)):
        progress(f"regime {regime}, {groups} groups a row", number, len(STAGES) + len(CASES))
        cases.append(measure_what_fits(settings, accelerator, regime, groups, best[1]))
    rate = matmul_rate(torch.bfloat16 if settings.precision == "bf16" else torch.float32, accelerator.device)
    return {
        "bench": "ablation",
        "settings": asdict(settings),
        "stages": stages,
        "cases": cases,
        "matmul": rate,
        "machine": machine(),
    }


def measure_what_fits(
    settings: AblationSettings, accelerator: Accelerator, regime: str, groups: int, options: dict[str, str]
) -> dict[str, Any]:
    """A case with the checkpointing policy that keeps most and fits the device."""
    row: dict[str, Any] = {}
    for kind in ("none", "selective", "full"):
        row = measure(settings, accelerator, regime, groups, options | {"model.checkpointing": kind})
        if "seconds" in row:
            break
    return {"regime": regime, "groups": groups, **row}


def measure(
    settings: AblationSettings, accelerator: Accelerator, regime: str, groups: int, options: dict[str, str]
) -> dict[str, Any]:
    """Of one set of options.

    Returns:
        `options`; `seconds`, one figure an update; `tflops` and, on a known GPU in bf16, `mfu`, by the median;
        `memory`, bytes at the peak, weights included; or `refused`, why it cannot run here.
    """
    try:
        config = make_config(settings, options)
        with tempfile.TemporaryDirectory() as folder:
            policy, batch, forward = make_scene(config, settings, accelerator, regime, groups, Path(folder))
        update(policy, batch, config)
        restart_peak()
        seconds = [update(policy, batch, config) for _ in range(settings.pairs)]
        speed = update_speed(groups * forward, statistics.median(seconds), settings.precision)
        return {
            "options": options,
            "seconds": seconds,
            "tflops": speed["speed/update_tflops"],
            "mfu": speed.get("speed/update_mfu"),
            "memory": peak(),
        }
    except torch.OutOfMemoryError:
        return {"options": options, "refused": "does not fit the device"}
    except UserError as refusal:
        return {"options": options, "refused": one_line(str(refusal), 160)}
    finally:
        policy = batch = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def make_config(settings: AblationSettings, options: dict[str, str]) -> RunConfig:
    """A configuration with them."""
    given = [f"model.precision={settings.precision}", *settings.options, *(f"{k}={v}" for k, v in options.items())]
    return load_config(None, given)


def make_scene(
    config: RunConfig, settings: AblationSettings, accelerator: Accelerator, regime: str, groups: int, folder: Path
) -> tuple[Policy, MicroBatch, float]:
    """The policy on its device, one row of `groups` groups, and the FLOP of a forward pass over one of them."""
    model, processor = make_model(settings.model, torch.float32)
    FAMILY.freeze(model, config.model.freeze)
    kind = config.model.checkpointing
    assert kind != "auto"
    checkpoint_blocks(model, FAMILY, kind, config.model.checkpointing_layers, tower=False)
    loaded = LoadedModel("random", model.config, FAMILY, processor, model.train())
    sampling = sampling_of(config.rollout, loaded, n=8, temperature=1.0)
    vision, work = FrozenVision(model, FAMILY, config.model.precision), Work.of(model, FAMILY)
    hold_weights(config, loaded, accelerator)
    policy, _ = make_policy(config, loaded, sampling, accelerator)
    write_problems(REGIMES[regime], processor, folder, 1)
    line = json.loads((folder / "problems.jsonl").read_text(encoding="utf-8"))
    image = ProblemImage(folder / line["images"][0], line["images"][0])
    build = PromptBuilder(processor, FAMILY, model.config, DataConfig(max_prompt_tokens=4096)).build
    (prompt,) = vision.add_features([build(Problem("0", line["question"], (image,), "1"))])
    vocabulary = len(processor.tokenizer) - len(SPECIAL_TOKENS)
    made = [Group(prompt, completions(REGIMES[regime].responses, vocabulary)) for _ in range(groups)]
    row = pack([SubGroup(group.prompt, tuple(group.completions)) for group in made]).to(accelerator.device)
    return policy, row, work.forward(made[0])


def completions(lengths: Sequence[int], vocabulary: int) -> list[Completion]:
    """Random responses of given lengths, right and wrong in turn."""
    found = []
    for number, length in enumerate(lengths):
        ids = torch.randint(vocabulary, (length,)).tolist()
        completion = Completion(ids, [0.0] * length, "stop", text="")
        completion.advantages = torch.full((length,), 1.0 - 2.0 * (number % 2))
        found.append(completion)
    return found


def update(policy: Policy, batch: MicroBatch, config: RunConfig) -> float:
    """Forward and backward, and the gradients thrown away: seconds."""
    start = now()
    stats = policy(batch)
    totals = Totals(len(batch.targets), int(batch.sequence.max()) + 1, config.rollout.max_new_tokens)
    row_objective(stats, batch, stats.logprobs.detach(), config.train.loss, totals, 0.0).loss.backward()
    seconds = now() - start
    policy.zero_grad(set_to_none=True)
    return seconds


def pairs_of(options: Sequence[str]) -> dict[str, str]:
    """Field -> value."""
    return dict(option.split("=", 1) for option in options)


def print_ablation(result: dict[str, Any], console: Console | None = None) -> None:
    """Two tables for a person; `times` is against the row above that could be measured."""
    console, settings = console or Console(), result["settings"]
    title = f"{settings['model']}, regime {settings['regime']}, {settings['precision']}: each adds to those above"
    table = Table("stage", "update, s", "times", "TFLOP/s", "MFU", "peak, GiB", title=title)
    before: float | None = None
    for row in result["stages"]:
        shown, before = cells_of(row, before)
        table.add_row(row["stage"], *shown)
    console.print(table)
    table = Table("regime", "groups a row", "computed again", "update, s", "TFLOP/s", "MFU", "peak, GiB")
    for row in result["cases"]:
        (seconds, _, *rest), _ = cells_of(row, None)
        table.add_row(row["regime"], str(row["groups"]), row["options"]["model.checkpointing"], seconds, *rest)
    console.print(table)
    for row in (*result["stages"], *result["cases"]):
        if "refused" in row:
            console.print(f"{row.get('stage') or 'regime ' + row['regime']}: {row['refused']}", markup=False)
    console.print(f"this device multiplies large matrices at {result['matmul'] / 1e12:.3g} TFLOP/s")


def cells_of(row: dict[str, Any], before: float | None) -> tuple[list[str], float | None]:
    """What a row shows, and the seconds that the next is compared with."""
    if "refused" in row:
        return ["cannot run", "", "", "", ""], before
    seconds = statistics.median(row["seconds"])
    mfu = "" if row["mfu"] is None else f"{row['mfu']:.0%}"
    times = "" if before is None else f"{before / seconds:.2f}"
    return [f"{seconds:.3f}", times, f"{row['tflops']:.3g}", mfu, f"{row['memory'] / GIB:.1f}"], seconds
