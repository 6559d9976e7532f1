"""Curves of the lab: every method's mean over seeds, with the range of the seeds as a band."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from mmhicra.lab.outcomes import Outcome

PANELS = {
    "accuracy/mean": "accuracy of rollouts",
    "planning/semantic_entropy": "semantic entropy, bits",
    "planning/density": "share of planning tokens",
    "entropy/planning": "entropy of planning tokens, nats",
    "entropy/execution": "entropy of execution tokens, nats",
    "response/length": "response tokens",
    "planning_errors": "planning errors per 100 rollouts",
    "execution_errors": "execution errors per 100 rollouts",
    "hicra/alpha": "alpha",
}
SMOOTHING = 0.05
"""Curves are running means over this share of the steps."""


def draw_curves(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write one image of all `PANELS` (PNG or SVG, by the suffix)."""
    figure = Figure(figsize=(15, 11), layout="constrained")
    axes = figure.subplots(3, 3)
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    colours = matplotlib.color_sequences["tab10"]
    for axis, (metric, title) in zip(axes.flat, PANELS.items(), strict=True):
        for method, colour in zip(methods, colours, strict=False):
            steps, values = curves_of([o for o in outcomes if o.method == method], metric)
            if len(steps):
                axis.plot(steps, values.mean(0), color=colour, label=method, linewidth=1.5)
                axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.12, linewidth=0)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
    axes.flat[0].legend(frameon=False)
    seeds = len({outcome.seed for outcome in outcomes})
    figure.suptitle(f"mean and range over {seeds} seeds, running means over {SMOOTHING:.0%} of the steps")
    figure.savefig(path, dpi=110)


def curves_of(outcomes: Sequence[Outcome], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps (N,) at which every run has the metric, and its smoothed values (seeds, N)."""
    by_run = [{int(step["step"]): float(step[metric]) for step in o.curve if metric in step} for o in outcomes]
    steps = sorted(set.intersection(*(set(run) for run in by_run))) if by_run else []
    if not steps:
        return np.array([]), np.zeros((0, 0))
    values = np.array([[run[step] for step in steps] for run in by_run])
    width = max(1, round(SMOOTHING * len(steps)))
    kernel = np.ones(width)
    norm = np.convolve(np.ones(len(steps)), kernel, mode="same")
    return np.array(steps), np.array([np.convolve(run, kernel, mode="same") / norm for run in values])
