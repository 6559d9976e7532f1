"""Which run a folder holds, and whether a configuration may go on with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mmhicra.config import RunConfig
from mmhicra.config_loading import dump_config, read_yaml
from mmhicra.refusals import ConfigRefusal, RunFolderRefusal
from mmhicra.train.run_folder import RunFolder

MAY_CHANGE_ON_RESUME = (
    "run_folder",
    "threads",
    "train.steps",
    "eval",
    "log",
    "reward.workers",
    "reward.time_limit",
    "reward.custom_threads",
    "reward.custom_attempts",
    "reward.custom_wait",
    "reward.custom_failures",
)
"""What a resumed run may set anew; anything else would make it another run."""


def open_folder(
    folder: RunFolder, config: RunConfig, resume: bool, overwrite: bool, accelerator: Accelerator
) -> Path | None:
    """Make the run folder, or find the checkpoint to resume from (None: start at the beginning).

    Raises:
        RunFolderRefusal: see `RunFolder.create`, or there is no run to resume.
        ConfigRefusal: the resumed run was started with another configuration.
    """
    checkpoint = None
    if resume:
        if not folder.holds_run():
            raise RunFolderRefusal(f"{folder.path} holds no run to resume: drop --resume, or name the right run_folder")
        refuse_other_run(read_yaml(folder.config), config, folder.path)
        checkpoint = folder.latest_checkpoint()
    if accelerator.is_main_process and resume:
        folder.write_config(dump_config(config))
    elif accelerator.is_main_process:
        folder.create(dump_config(config), overwrite=overwrite)
    accelerator.wait_for_everyone()
    return checkpoint


def refuse_other_run(old: dict[str, Any], config: RunConfig, path: Path) -> None:
    """Raise ConfigRefusal naming every field that a resumed run may not change, with both values."""
    changed = [
        f"{name} was {before!r}, is {after!r}"
        for name, before, after in differences(old, config.model_dump())
        if not any(name == free or name.startswith(free + ".") for free in MAY_CHANGE_ON_RESUME)
    ]
    if changed:
        raise ConfigRefusal(f"cannot resume {path} with another configuration: {'; '.join(changed)}")


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, old and new value of every leaf in which two plain trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield name, old, new
