"""The `data` section."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from mmhicra.config_base import Positive, Section, Share

GENERATED_SOURCES = ("visual_math", "visual_ledger")
"""The values of `data.source` that need no files: problems drawn by `data.visual_math` and `data.ledger`."""


class ColumnsConfig(Section):
    """Which column of the source holds what; overrides the preset's names one by one."""

    question: str | None = None
    answer: str | None = None
    images: str | None = None
    choices: str | None = None
    id: str | None = None
    task: str | None = None


class DataConfig(Section):
    """Where problems come from and which are refused."""

    source: str = "visual_math"
    """`visual_math` or `visual_ledger` (drawn on the fly), a hub id, or a local file or folder (parquet, JSON Lines,
    saved `datasets` folder)."""
    preset: Literal["auto", "virl39k", "geometry3k", "intergps", "mmk12", "mathvision", "mathvista", "messages"] = (
        "auto"
    )
    columns: ColumnsConfig = ColumnsConfig()
    split: str = "train"
    eval_source: str | None = None
    """Held-out problems; None takes the source's own `eval_split` or, without one, `held_out_share` of it."""
    eval_split: str | None = None
    held_out_share: Share = 0.05
    image_folder: str | None = None
    """What relative image paths are relative to; None is the folder of the file that names them."""
    count: Positive = 4096
    """How many training problems are drawn, where they are drawn."""
    tasks: list[str] | None = None
    """Which tasks are drawn; None is all of them."""
    limit: Positive | None = None
    """Use only the first so many rows."""
    shuffle: bool = True
    system_prompt: str | None = None
    instruction: str = ""
    """Appended to every question."""
    min_pixels: Positive = 3136
    max_pixels: Positive = 1003520
    max_prompt_tokens: Positive = 2048
    max_refused_share: Share = 0.02
    """Training stops if a larger share of the rows cannot be used."""

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels ({self.min_pixels}) is larger than max_pixels ({self.max_pixels}): lower one")
        if self.tasks is not None and self.source not in GENERATED_SOURCES:
            drawn = " and ".join(GENERATED_SOURCES)
            raise ValueError(f"tasks only applies to the sources {drawn}, got source: {self.source}: drop one")
        return self
