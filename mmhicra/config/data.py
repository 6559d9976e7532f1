"""The `data` section."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mmhicra.config.base import Drawn, PathText, Pixels, Positive, Section, Share, Tokens

GENERATED_SOURCES = ("visual_math", "visual_ledger")
"""The values of `data.source` that need no files: problems drawn by `data.visual_math` and `data.ledger`."""


# fmt: off
Preset = Literal[
    "auto", "messages", "trl", "verl", "llava", "swift", "r1v", "imagefolder", "scienceqa", "mmmu",
    "virl39k", "geometry3k", "intergps", "mmk12", "mathvision", "mathvista",
]
# fmt: on
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
    """What golds are and how they are compared: `text`, `number`, `math`, `choice`, `box`, `boxes` or `point` for the
    whole source, or a column that says it."""
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


_NAME = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_OWN = ("preset", "columns", "choice_answer", "split", "eval_source", "eval_split", "held_out_share", "image_folder")
_OWN += ("limit", "instruction")
"""What a source may set for itself; what it leaves out is as in `data`."""


class SourceConfig(Section):
    """One of several sources. What it leaves out is as in `data`."""

    source: PathText
    """As `data.source`."""
    weight: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    """Its share of the problems that are drawn is this over the sum of all weights."""
    name: str | None = None
    """What metrics and ids call it; None is the name of the file or folder without its ending."""
    preset: Preset | None = None
    """As `data.preset`."""
    columns: ColumnsConfig | None = None
    """As `data.columns`; all of them, if any is set."""
    choice_answer: ChoiceAnswer | None = None
    """As `data.choice_answer`."""
    split: str | None = None
    """As `data.split`."""
    eval_source: PathText | None = None
    """As `data.eval_source`, for this source alone."""
    eval_split: str | None = None
    """As `data.eval_split`."""
    held_out_share: Share | None = None
    """As `data.held_out_share`."""
    image_folder: PathText | None = None
    """As `data.image_folder`."""
    limit: Positive | None = None
    """As `data.limit`."""
    instruction: str | None = None
    """As `data.instruction`."""
    reward: dict[str, Any] = Field(default={})
    """Fields of `reward` that are other for this source, e.g. `{accuracy_weight: 0, format_weight: 1}`; not `workers`,
    `time_limit` and `custom_failures`, which all sources share."""

    @property
    def called(self) -> str:
        """Its name in metrics and ids."""
        return self.name or re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(self.source).name.split(".")[0])[:60]


class CurriculumConfig(Section):
    """Problems that the policy always solves, or never, are left out for some epochs (online difficulty filtering).

    They have no signal: every response earns the same. A visit is a step that a problem was drawn for; its success rate
    is the share of its responses that are right.
    """

    easy_threshold: Share | None = 1.0
    """A visit with this success rate or more is easy; None leaves out no easy problem."""
    hard_threshold: Share | None = 0.0
    """A visit with this success rate or less is hard; None leaves out no hard problem."""
    visits: Annotated[int, Field(gt=0, le=1000)] = 2
    """A problem is left out once its last so many visits were all easy, or all hard."""
    skip_epochs: Annotated[int, Field(gt=0, le=10**6)] = 2
    """For so many epochs; after them it is visited again, and what was seen of it before no longer counts."""

    @model_validator(mode="after")
    def _check(self) -> CurriculumConfig:
        easy, hard = self.easy_threshold, self.hard_threshold
        if easy is None and hard is None:
            raise ValueError("easy_threshold and hard_threshold are both null: nothing would be left out; set one")
        if easy is not None and hard is not None and hard >= easy:
            raise ValueError(f"hard_threshold ({hard:g}) is not below easy_threshold ({easy:g}): lower it")
        return self


class DataConfig(Section):
    """Where problems come from and which are refused."""

    source: PathText = "visual_math"
    """`visual_math` or `visual_ledger` (drawn on the fly), a hub id, or a local file or folder (parquet, JSON Lines,
    csv, tsv, saved `datasets` folder)."""
    sources: list[SourceConfig] = Field(default=[])
    """Several sources in place of `source`, each with its share of the problems."""
    preset: Preset = "auto"
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
    curriculum: CurriculumConfig | None = None
    """Leave out what has no signal because it is too easy or too hard; None draws every problem in every epoch."""
    system_prompt: str | None = None
    """Put before every question as the system's turn, unless its row has one of its own; None leaves what the chat
    template does."""
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
        if self.tasks is not None and not {part.source for part in self.parts().values()} <= {*GENERATED_SOURCES}:
            drawn = " and ".join(GENERATED_SOURCES)
            raise ValueError(f"tasks only applies to the sources {drawn}, got {self.title}: drop one")
        if self.sources:
            self._check_sources()
        return self

    def _check_sources(self) -> None:
        if self.source != DataConfig.model_fields["source"].default:
            raise ValueError(f"source ({self.source}) and sources are both set: keep one")
        if self.eval_source is not None:
            raise ValueError("eval_source is for one source: set it, or eval_split, at each of data.sources")
        names = [source.called for source in self.sources]
        for place, name in enumerate(names):
            if not _NAME.fullmatch(name):
                raise ValueError(f"sources.{place}.name {name!r}: write letters, digits, _, - and ., at most 60")
            drawn = self.sources[place].source
            if drawn in GENERATED_SOURCES and [each.source for each in self.sources].count(drawn) > 1:
                raise ValueError(f"sources has {drawn} twice, whose problems would be the same: keep one")
            if names.count(name) > 1:
                raise ValueError(f"sources has the name {name} twice: give each a name of its own")

    @property
    def title(self) -> str:
        """What messages call the data."""
        return " and ".join(source.source for source in self.sources) or self.source

    def parts(self) -> dict[str, DataConfig]:
        """Name -> the section as it would be with that source alone; the name is empty where there is one source."""
        if not self.sources:
            return {"": self}
        made = {}
        for source in self.sources:
            own = {name: value for name in _OWN if (value := getattr(source, name)) is not None}
            made[source.called] = self.model_copy(update={"source": source.source, "sources": [], **own})
        return made

    def shares(self) -> dict[str, float]:
        """Name of each of `sources` -> its weight."""
        return {source.called: source.weight for source in self.sources}
