"""Whether what a run writes fits on the disk of its folder."""

from __future__ import annotations

from pathlib import Path

from mmhicra.config import RunConfig
from mmhicra.doctor.findings import CheckResult, Remedy
from mmhicra.train.loop.disk import bytes_text, disk_need, free_bytes
from mmhicra.vlm.shape import ModelShape


def check_disk(config: RunConfig, shape: ModelShape) -> CheckResult:
    """Compare checkpoints and rollouts with what is free."""
    check = CheckResult("disk", "Disk")
    need, free = disk_need(config, shape.parameters, shape.trained), free_bytes(Path(config.run_folder))
    check.facts = {
        "checkpoint": need.checkpoint,
        "checkpoints": need.checkpoints,
        "rollouts": need.rollouts,
        "free": free,
    }
    check.summary = f"{need}; {bytes_text(free)} free for {config.run_folder}"
    checkpoints = need.saved
    if checkpoints > free:
        fewer = [Remedy("log.keep_checkpoints", 1)] if config.log.keep_checkpoints > 1 else []
        check.blame(
            "too small disk",
            f"checkpoints take {bytes_text(checkpoints)}, {bytes_text(free)} are free for {config.run_folder}",
            *(remedy for remedy in fewer if 3 * need.checkpoint <= free),
            Remedy("run_folder", words="on a larger disk"),
        )
    elif need.total > free:
        check.notes.append(
            "with the longest responses, rollout files may fill the disk: --set log.rollouts_keep=N keeps those of the "
            "newest N steps, log.rollouts_share=0.1 a tenth of the groups"
        )
    return check
