"""Whether two run folders hold the same run: weights, optimizer, random state, metrics, rollouts, TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

VOLATILE = ("time/", "memory/", "speed/")
"""Metrics that no two runs share."""
UNLIKE = frozenset({"seconds", "wall_seconds", "seconds_by_phase", "paths", "versions", "starts"})
"""Facts in `summary.json` and `state.json` that say when, where and in how many starts a run ran."""
NOT_COMPARED = ("tensorboard/", ".lock", "run.lock", "manifest.json", "report.html", "config.yaml")
"""Compared in another way, or not at all: what names the folder, its host or a time."""
ROUNDING = 1e-4
"""Relative difference of weights that another number of ranks may make; metrics are then not compared."""


def differences(reference: Path, other: Path, rounding: bool = False) -> list[str]:
    """What is missing, left over or different; empty if both folders hold the same run.

    Args:
        reference: the undisturbed run.
        other: the disturbed one.
        rounding: weights and moments need only agree to rounding (another number of ranks).
    """
    wanted, found = files(reference), files(other)
    if rounding:
        wanted, found = (
            {name for name in names if name.endswith((".safetensors", "optimizer.json"))} for names in (wanted, found)
        )
    listed = [f"missing {name}" for name in sorted(wanted - found)]
    listed += [f"left over {name}" for name in sorted(found - wanted)]
    for name in sorted(wanted & found):
        complaint = differs(reference / name, other / name, rounding)
        if complaint:
            listed.append(f"{name}: {complaint}")
    if not rounding:
        listed += tensorboard_differences(reference / "tensorboard", other / "tensorboard")
    return listed


def files(folder: Path) -> set[str]:
    """The files that are compared, relative to their folder."""
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not any(part in name for part in NOT_COMPARED)}


def differs(one: Path, other: Path, rounding: bool = False) -> str | None:
    """How two files of a run differ; None if they say the same."""
    try:
        left, right = (read(path) for path in (one, other))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        return f"cannot be read: {type(error).__name__} {error}"
    return None if same(left, right, rounding) else "differs"


def read(path: Path) -> Any:
    """What a file holds, without what no two runs share."""
    readers: dict[str, Callable[[Path], Any]] = {
        ".pt": lambda path: torch.load(path, weights_only=True),
        ".safetensors": load_file,
        ".json": lambda path: stable(json.loads(path.read_text(encoding="utf-8"))),
        ".jsonl": lambda path: [stable(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()],
    }
    return readers.get(path.suffix, Path.read_bytes)(path)


def stable(tree: Any) -> Any:
    """A tree without times, sizes of memory and places."""
    if isinstance(tree, dict):
        kept = {key: inner for key, inner in tree.items() if not key.startswith(VOLATILE) and key not in UNLIKE}
        return {key: stable(inner) for key, inner in kept.items()}
    return [stable(inner) for inner in tree] if isinstance(tree, list) else tree


def same(one: Any, other: Any, rounding: bool = False) -> bool:
    """Equal, tensors to the bit (or to rounding), whatever is nested in what."""
    if isinstance(one, torch.Tensor):
        if not isinstance(other, torch.Tensor) or one.shape != other.shape or one.dtype != other.dtype:
            return False
        if rounding and one.is_floating_point():
            scale = max(float(one.abs().max()) if one.numel() else 0.0, 1e-8)
            return bool((one - other).abs().max() <= ROUNDING * scale) if one.numel() else True
        return torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(one[key], other[key], rounding) for key in one)
        )
    if isinstance(one, list | tuple):  # a resumed optimizer has lists where a fresh one has tuples
        return (
            isinstance(other, list | tuple)
            and len(one) == len(other)
            and all(same(left, right, rounding) for left, right in zip(one, other, strict=True))
        )
    if isinstance(one, float) and isinstance(other, float):
        return (
            one == other
            or (math.isnan(one) and math.isnan(other))
            or (rounding and math.isclose(one, other, rel_tol=ROUNDING))
        )
    return one == other


def tensorboard_differences(reference: Path, other: Path) -> list[str]:
    """Scalars that are not there, or not at the same steps with the same values."""
    if not reference.exists():
        return []
    wanted, found = scalars_of(reference), scalars_of(other)
    odd = [tag for tag in sorted(wanted.keys() | found.keys()) if wanted.get(tag) != found.get(tag)]
    if not odd:
        return []
    left, right = ([step for step, _ in side.get(odd[0], [])] for side in (wanted, found))
    return [f"tensorboard: {len(odd)} tags differ, first {odd[0]}: steps {left} and {right}"]


def scalars_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of every event, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.exists():
        return {}
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith(VOLATILE)]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
