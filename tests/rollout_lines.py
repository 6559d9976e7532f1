"""The rollouts of a run folder, as tests look at them."""

from pathlib import Path
from typing import Any

from mmhicra.core.rollout_files import StepFiles, rollout_steps


def step_files(folder: str | Path, step: int) -> StepFiles:
    """The rollout files of a step."""
    (files,) = (each for each in rollout_steps(Path(folder) / "rollouts") if each.step == step)
    return files


def read_rollouts(folder: str | Path, step: int = 1) -> list[dict[str, Any]]:
    """The records of a step; all of its lines are whole."""
    lines = step_files(folder, step).lines()
    records = list(lines)
    assert not lines.damages
    return records
