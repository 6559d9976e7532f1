"""Groups -> flat rows: the prompt once, its responses after it, several groups one after another, no padding.

With `train.rows: plain` a row is one prompt and one response: the reference that shared rows are tested against.

A row is `[prompt incl. images][response 1]...[response G][next prompt]...`, and is one micro-batch. Each response sees
its prompt and itself, and starts at the position where the prompt ends, so its log-probs are those of the response
alone behind its prompt. Shapes: L tokens of a row, T response tokens of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from mmhicra.core.records import Completion, Group, Prompt
from mmhicra.core.vision_inputs import Images
from mmhicra.train.update.layout import Layout, Piece, Span
from mmhicra.vlm.features import images_of


@dataclass(frozen=True, eq=False)
class SubGroup:
    """One prompt and some or all of its group's completions."""

    prompt: Prompt
    completions: tuple[Completion, ...]

    @property
    def lengths(self) -> tuple[int, list[int]]:
        """P, and R of each completion."""
        return len(self.prompt), [len(completion) for completion in self.completions]

    @property
    def size(self) -> int:
        """What it takes of a row's budget: its tokens, and the patches of images that are still to be looked at."""
        prompt, responses = self.lengths
        return prompt + sum(responses) + self.prompt.patches


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """A flat row: what one forward pass takes.

    Attributes:
        ids: (L,) int64.
        positions: (K, L) int64, K rows as the family counts positions.
        layout: which tokens are whose.
        image_positions: (L,) bool.
        images: every image of the row in order, or None.
        predictors: (T,) index of the hidden state that predicts each response token.
        targets: (T,) int64, the response tokens.
        sequence: (T,) int64, which response of the row a token belongs to.
        advantages: (T,) float32.
        planning: (T,) bool.
        engine_logprobs: (T,) float32, what the engine sampled with.
        old_logprobs: (T,) float32, or None when on-policy.
        reference_logprobs: (T,) float32, or None without KL.
    """

    ids: Tensor
    positions: Tensor
    layout: Layout
    image_positions: Tensor
    images: Images | None
    predictors: Tensor
    targets: Tensor
    sequence: Tensor
    advantages: Tensor
    planning: Tensor
    engine_logprobs: Tensor
    old_logprobs: Tensor | None
    reference_logprobs: Tensor | None

    def to(self, device: torch.device) -> MicroBatch:
        """The same on `device`."""
        held: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in held.items() if value is not None})


def split_groups(groups: Sequence[Group], budget: int, plain: bool = False) -> list[SubGroup]:
    """Whole groups but for masked completions; one too large for `budget` becomes sub-groups that repeat its prompt.

    If `plain`, every completion is a sub-group of its own.

    Raises:
        ValueError: a prompt and one response exceed the budget (refused in the configuration, so a bug).
    """
    parts: list[SubGroup] = []
    for group in groups:
        completions: tuple[Completion, ...] = ()
        for completion in group.trained:
            if completions and (plain or SubGroup(group.prompt, (*completions, completion)).size > budget):
                parts.append(SubGroup(group.prompt, completions))
                completions = ()
            completions = (*completions, completion)
            if len(completions) == 1:
                _refuse_oversized(SubGroup(group.prompt, completions), budget)
        if completions:
            parts.append(SubGroup(group.prompt, completions))
    return parts


def fill_rows(parts: Sequence[SubGroup], budget: int, at_least: int = 1, plain: bool = False) -> list[list[SubGroup]]:
    """As few rows as the budget allows, or `at_least` so many if there are parts enough, evenly filled.

    The largest part first, each into the row with the most room. Deterministic; nothing is lost. If `plain`, every part
    is a row of its own.
    """
    if plain:
        return [[part] for part in parts]
    ordered = sorted(parts, key=lambda part: part.size, reverse=True)
    count = max(-(-sum(part.size for part in parts) // budget), min(at_least, len(parts)))
    while True:
        rows: list[list[SubGroup]] = [[] for _ in range(count)]
        filled = [0] * count
        for part in ordered:
            emptiest = filled.index(min(filled))
            rows[emptiest].append(part)
            filled[emptiest] += part.size
        if max(filled, default=0) <= budget:
            return rows
        count += 1


def pack(row: Sequence[SubGroup]) -> MicroBatch:
    """Lay the sub-groups of `row` out one after another."""
    prompts = [part.prompt for part in row]
    completions = [completion for part in row for completion in part.completions]
    layout = Layout.of([part.lengths for part in row])
    targets = torch.cat([torch.tensor(completion.ids) for completion in completions])
    ids, positions, image_positions, predictors = (
        torch.cat(pieces, dim=-1)
        for pieces in zip(*(_lay_out(part, piece) for part, piece in zip(row, layout.pieces, strict=True)), strict=True)
    )
    return MicroBatch(
        ids=ids,
        positions=positions,
        layout=layout,
        image_positions=image_positions,
        images=images_of(prompts),
        predictors=predictors,
        targets=targets,
        sequence=torch.repeat_interleave(torch.tensor([len(c) for c in completions])),
        advantages=torch.cat([_or_zeros(c.advantages, c, torch.float32) for c in completions]),
        planning=torch.cat([_or_zeros(c.planning, c, torch.bool) for c in completions]),
        engine_logprobs=torch.cat([torch.tensor(c.logprobs, dtype=torch.float32) for c in completions]),
        old_logprobs=_concatenate([c.old_logprobs for c in completions]),
        reference_logprobs=_concatenate([c.reference_logprobs for c in completions]),
    )


def by_completion(row: Sequence[SubGroup], values: Tensor) -> list[tuple[Completion, Tensor]]:
    """Every completion of `row` with its part of `values` (T, ...)."""
    completions = [completion for part in row for completion in part.completions]
    return list(zip(completions, values.split([len(c) for c in completions]), strict=True))


def _refuse_oversized(part: SubGroup, budget: int) -> None:
    if part.size > budget:
        prompt, responses = part.lengths
        raise ValueError(
            f"problem {part.prompt.problem.id}: {prompt} prompt and {responses[0]} response tokens and "
            f"{part.prompt.patches} patches exceed train.tokens_per_micro_batch ({budget})"
        )


def _lay_out(part: SubGroup, piece: Piece) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, positions, image positions and predictors of one sub-group."""
    prompt = part.prompt
    responses = [torch.tensor(completion.ids) for completion in part.completions]
    return (
        torch.cat([prompt.expanded_ids, *responses]),
        prompt.vision.positions_with([len(response) for response in responses]),
        torch.cat([prompt.image_positions, torch.zeros(len(piece.tail), dtype=torch.bool)]),
        # A response's first token is predicted by its prompt's last state, the others by their predecessor.
        torch.cat([_predictors(piece.prompt, response) for response in piece.responses]),
    )


def _predictors(prompt: Span, response: Span) -> Tensor:
    return torch.tensor([prompt.end - 1, *range(response.start, response.end - 1)])


def _concatenate(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _or_zeros(values: Tensor | None, completion: Completion, dtype: torch.dtype) -> Tensor:
    return torch.zeros(len(completion), dtype=dtype) if values is None else values
