"""The rows of a pass over some groups: as many on every rank, because ranks run the model together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from mmhicra.config import TrainConfig
from mmhicra.core.errors import ConfigError
from mmhicra.core.records import Group
from mmhicra.core.vision_inputs import ImageFeatures
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.train.distributed.sequence import SequenceGroup
from mmhicra.train.update.packing import MicroBatch, SubGroup, fill_rows, split_groups
from mmhicra.vlm.family import Family


def rows_of(
    groups: Sequence[Group], filler: Callable[[], Group], options: TrainConfig, ranks: Ranks
) -> list[tuple[list[SubGroup], bool]]:
    """`groups` in rows that fit the token budget, and filler rows, marked True, until no rank has more.

    Args:
        groups: of this rank, or of all that compute rows together with it.
        filler: what a filler row is made of; asked for only if there is one.
        options: the section `train` of the configuration.
        ranks: all that run the model together; each must call this.
    """
    budget, plain = options.tokens_per_micro_batch, options.rows == "plain"
    parts = split_groups(groups, budget, plain)
    count = int(ranks.max(float(len(fill_rows(parts, budget, plain=plain)))))
    rows = fill_rows(parts, budget, at_least=count, plain=plain)
    missing = count - len(rows)
    fillers = [split_groups([filler()], budget, plain)[0]] if missing else []
    return [(row, False) for row in rows] + [(fillers, True)] * missing


def part_of(batch: MicroBatch, features: ImageFeatures | None, group: SequenceGroup) -> tuple[MicroBatch, Tensor]:
    """What one rank of a sequence group computes of a row: its tokens, and the response tokens that they predict.

    Args:
        batch: the row.
        features: of all its images.
        group: the ranks that compute the row, seen from this one.

    Returns:
        A batch of P tokens whose layout, and all that the loss reads, are still the row's; and (T',) int64, which of
        the row's response tokens its `predictors` and `targets` are of.
    """
    length = group.length(len(batch.ids))
    start = group.index * length
    scored = ((batch.predictors >= start) & (batch.predictors < start + length)).nonzero().squeeze(-1)
    before = int(batch.image_positions[:start].sum())
    image_positions = group.part(batch.image_positions)
    shown = slice(before, before + int(image_positions.sum()))
    part = replace(
        batch,
        ids=group.part(batch.ids),
        positions=group.part(batch.positions),
        image_positions=image_positions,
        images=features and ImageFeatures(features.merged[shown], tuple(deep[shown] for deep in features.deepstack)),
        predictors=batch.predictors[scored] - start,
        targets=batch.targets[scored],
    )
    return part, scored


def refuse_unfit_sequence(size: int, processes: int, family: Family, config: PreTrainedConfig) -> None:
    """Raise ConfigError if groups of `size` processes (`parallel.sequence`) cannot compute a row of this model."""
    if size == 1:
        return
    text: Any = config.get_text_config()
    heads, shared = text.num_attention_heads, text.num_key_value_heads
    fitting = [str(number) for number in range(1, processes + 1) if processes % number == 0 and heads % number == 0]
    values = f"{', '.join(fitting[:-1])} or {fitting[-1]}" if len(fitting) > 1 else "1"
    if not family.shares_prompts:
        raise ConfigError(
            f"parallel.sequence ({size}) splits attention by heads, which models of the family {family.name} cannot "
            "do: set it to 1"
        )
    if processes % size:
        raise ConfigError(
            f"parallel.sequence ({size}) has to divide the number of processes, which is {processes}: set it to "
            f"{values}, or start another number of them with torchrun"
        )
    if heads % size:
        raise ConfigError(
            f"parallel.sequence ({size}) gives every process as many query heads, but the model has {heads} of them "
            f"({shared} key-value heads, which may be repeated): set it to {values}"
        )
