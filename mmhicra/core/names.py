"""The names that fields of the configuration take, each list once; the code that acts on them has a table beside it.

This module imports nothing, so that the configuration can be read before torch is there.
"""

from __future__ import annotations

from typing import Literal

CreditMethod = Literal["hicra", "grpo", "hicra_positive", "placebo", "high_entropy", "entropy", "uniform"]
"""Methods that turn a group's advantages into per-token advantages: `hicra.credit.METHODS`."""
AdvantageScale = Literal["none", "std"]
"""What a group's advantages are divided by: `hicra.credit.group_advantages`."""
AlphaSignal = Literal["mass", "kl"]
"""What an adaptive alpha holds at its target: `hicra.alpha.AlphaController`."""
PlanningParts = Literal["all", "thinking", "answer"]
"""The part of a response that is searched for planning tokens: see `hicra.planning`."""
FormatStyle = Literal["boxed", "think_boxed", "think_answer"]
"""The form that `reward.format_weight` rewards: `rewards.reward.follows`."""
TermName = Literal["iou", "hit"]
"""Terms of the reward for boxes and points: `rewards.grounding`."""
CoordinateFrame = Literal["pixels", "resized", "thousandths"]
"""What a box is measured in: the image as it is stored, as the model sees it, or thousandths of either side."""
EngineName = Literal["hf", "vllm"]
"""Engines that generate: `rollout.engines.ENGINES`."""
FamilyName = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "mimo_vl"]
"""Model families: `vlm.family.FAMILIES`."""
BenchmarkName = Literal[
    "mathvista", "mathverse", "mathvision", "emma", "aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench"
]
"""Benchmarks that ship; each has a card in `eval/cards`."""
RowKind = Literal["shared", "plain"]
"""How responses lie in a row of the update: `train.update.packing`."""
RatioLevel = Literal["token", "sequence"]
"""What has one importance ratio: `train.update.losses`."""
CorrectionKind = Literal["truncated", "masked"]
"""How the gap between engine and trainer is made up for: `train.update.losses`."""
Aggregation = Literal["token_mean", "sequence_mean", "dr_grpo"]
"""How per-token losses become one number: `train.update.losses`."""
TrackerName = Literal["tensorboard", "wandb", "trackio", "mlflow", "swanlab", "comet"]
"""What draws the numbers of a run as curves: `train.loop.trackers`. Each is an extra of mmhicra but TensorBoard."""
TRACKER_PACKAGES: dict[TrackerName, str] = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
    "mlflow": "mlflow",
    "swanlab": "swanlab",
    "comet": "comet_ml",
}
"""What is imported for each."""
