"""What files and folders of a step are called."""

from __future__ import annotations

import re
from pathlib import Path


def step_name(step: int) -> str:
    """`step_NNNNNN`, which files and folders of a step are called."""
    return f"step_{step:06d}"


def step_of(name: str) -> int | None:
    """The step of `step_NNNNNN`; None for every other name, which is not ours."""
    digits = re.fullmatch(r"step_([0-9]{6,})", name)
    return int(digits[1]) if digits and name == step_name(int(digits[1])) else None


def steps_in(folder: Path, suffix: str = "") -> list[tuple[int, Path]]:
    """Step and path of what is called `step_NNNNNN` + `suffix` in `folder`, in order of steps."""
    paths = [path for path in folder.glob(f"step_*{suffix}") if path.name.endswith(suffix)]
    found = [(step_of(path.name.removesuffix(suffix)), path) for path in paths]
    return sorted((step, path) for step, path in found if step is not None)
