"""The `data` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmhicra.config.base import Drawn, PathText, Pixels, Positive, Section, Share, Tokens

GENERATED_SOURCES = ("visual_math", "visual_ledger")
"""The values of `data.source` that need no files: problems drawn by `data.visual_math` and `data.ledger`."""


ChoiceAnswer = Literal["auto", "letter", "text", "index", "index_from_1"]
NOT_READ = "none"
"""What a role is set to that has no column although the source may have one."""


class ColumnsConfig(Section):
    """Which column of the source holds what; overrides the preset's names one by one.

    None takes the preset's column. `none` reads no column: rows are then numbered (`id`), trained on without images
    (`images`), asked without choices (`choices`), or have no gold answer (`answer`, for custom rewards alone).
    """

    question: str | None = None
    """The question."""
    answer: str | None = None
    """The gold answer."""
    images: str | list[str] | None = None
    """A list takes the images of several columns, in this order. `none` confirms a run without any image."""
    choices: str | list[str] | None = None
    """A list names a column for each choice, in the order A, B, C."""
    id: str | None = None
    """What names a problem in rollouts and lists."""
    task: str | None = None
    """Accuracy is also told by the values of this column."""
    kind: str | None = None
    """How golds are compared: `text`, `number`, `math` or `choice` for the whole source, or a column that says it."""
    facts: list[str] = Field(default=[])
    """Columns that custom rewards find in `problem.facts`, by these names, e.g. the size of an image."""
    unused: list[str] = Field(default=[])
    """Columns that are left out on purpose, although they seem to hold images, choices or videos."""

    @model_validator(mode="after")
    def _check(self) -> ColumnsConfig:
        for role in ("question", "kind"):
            if getattr(self, role) == NOT_READ:
                raise ValueError(f"columns.{role} cannot be {NOT_READ}: name a column, or leave it out")
        for role in ("images", "choices"):
            named = getattr(self, role)
            if isinstance(named, list) and (not named or NOT_READ in named):
                raise ValueError(f"columns.{role}: a list names columns; for none of them write {NOT_READ}")
        return self


class DataConfig(Section):
    """Where problems come from and which are refused."""

    source: PathText = "visual_math"
    """`visual_math` or `visual_ledger` (drawn on the fly), a hub id, or a local file or folder (parquet, JSON Lines,
    saved `datasets` folder)."""
    preset: Literal["auto", "virl39k", "geometry3k", "intergps", "mmk12", "mathvision", "mathvista", "messages"] = (
        "auto"
    )
    """Which layout the source has; `auto` finds out by its columns."""
    columns: ColumnsConfig = ColumnsConfig()
    """Which column holds what, where the preset does not fit."""
    choice_answer: ChoiceAnswer = "auto"
    """How an answer names its choice: `letter`, `text`, `index` (from 0) or `index_from_1`. `auto` takes letters and
    texts, and a number that is no choice's text as an index from 0; a number that may be both is refused."""
    split: str = "train"
    """Of the source, for training."""
    eval_source: PathText | None = None
    """Held-out problems; None takes the source's own `eval_split` or, without one, `held_out_share` of it."""
    eval_split: str | None = None
    """Of `eval_source` or the source, for held-out problems."""
    held_out_share: Share = 0.05
    """Share of the training problems that is held out where nothing else says which are."""
    image_folder: PathText | None = None
    """What relative image paths are relative to; None is the folder of the file that names them."""
    count: Drawn = 4096
    """How many training problems are drawn, where they are drawn."""
    tasks: list[str] | None = None
    """Which tasks are drawn; None is all of them."""
    limit: Positive | None = None
    """Use only the first so many rows."""
    shuffle: bool = True
    """Take the problems in another order in every epoch."""
    system_prompt: str | None = None
    """Put before every question as the system's turn; None leaves what the chat template does."""
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(default={})
    """What the model's chat template takes beside the chat, e.g. `{enable_thinking: false}`, wherever a prompt is made:
    in training, evaluation, benchmarks and the doctor. Arguments that the template does not read are refused."""
    instruction: str = ""
    """Appended to every question."""
    min_pixels: Pixels = 3136
    """Smaller images are enlarged to so many pixels."""
    max_pixels: Pixels = 1003520
    """Larger images are reduced to so many pixels."""
    max_prompt_tokens: Tokens = 2048
    """Problems whose prompt is longer, image tokens included, are refused."""
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
