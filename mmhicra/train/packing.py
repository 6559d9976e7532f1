"""Groups -> flat rows: the prompt once, its responses after it.

A row is `[prompt incl. images][response 1]...[response G]`. Each response sees the prompt and itself, and starts
at the position where the prompt ends, so its log-probs are those of the response alone behind its prompt.
Shapes: B rows, L padded row length, T response tokens of a micro-batch, S responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from mmhicra.records import Completion, Group, Prompt

PADDING = -1


@dataclass(frozen=True, eq=False)
class Row:
    """One prompt and some or all of its group's completions."""

    prompt: Prompt
    completions: tuple[Completion, ...]

    def __len__(self) -> int:
        return len(self.prompt) + sum(len(c) for c in self.completions)


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """What one forward pass takes.

    Attributes:
        ids: (B, L) int64.
        positions: (3, B, L) int64 M-RoPE positions.
        attention_mask: (B, 1, L, L) bool, True where a query may look.
        image_positions: (B, L) bool.
        pixel_values: every image of the rows in order, or None.
        image_grid_thw: (N, 3), or None.
        predictors: (T,) index into the B * L hidden states of the state that predicts each response token.
        targets: (T,) int64, the response tokens.
        sequence: (T,) int64, which response of the micro-batch a token belongs to.
        advantages: (T,) float32.
        planning: (T,) bool.
        engine_logprobs: (T,) float32, what the engine sampled with.
        old_logprobs: (T,) float32, or None when on-policy.
        reference_logprobs: (T,) float32, or None without KL.
    """

    ids: Tensor
    positions: Tensor
    attention_mask: Tensor
    image_positions: Tensor
    pixel_values: Tensor | None
    image_grid_thw: Tensor | None
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
        moved = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


def make_rows(groups: Sequence[Group], token_budget: int) -> list[Row]:
    """One row a group; a group too large for `token_budget` becomes several rows that repeat the prompt.

    Raises:
        ValueError: a prompt and one response exceed the budget (refused in the configuration, so a bug).
    """
    rows = []
    for group in groups:
        part: list[Completion] = []
        for completion in group.completions:
            if part and len(Row(group.prompt, (*part, completion))) > token_budget:
                rows.append(Row(group.prompt, tuple(part)))
                part = []
            part.append(completion)
            if len(Row(group.prompt, tuple(part))) > token_budget:
                raise ValueError(
                    f"problem {group.prompt.problem.id}: {len(group.prompt)} prompt and {len(completion)} response "
                    f"tokens exceed train.tokens_per_micro_batch ({token_budget})"
                )
        rows.append(Row(group.prompt, tuple(part)))
    return rows


def batch_rows(rows: Sequence[Row], token_budget: int) -> list[list[Row]]:
    """Rows of like length together, so that B * L (padding counted) stays within the budget. Deterministic."""
    batches: list[list[Row]] = []
    for row in sorted(rows, key=len, reverse=True):
        if batches and len(batches[-1][0]) * (len(batches[-1]) + 1) <= token_budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def pack(rows: Sequence[Row], pad_token_id: int) -> MicroBatch:
    """Lay `rows` out as one micro-batch."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad_token_id)
    positions = torch.zeros((3, len(rows), length), dtype=torch.int64)
    segments = torch.full((len(rows), length), PADDING)
    image_positions = torch.zeros((len(rows), length), dtype=torch.bool)
    predictors: list[Tensor] = []
    for index, row in enumerate(rows):
        end = len(row.prompt)
        ids[index, :end] = row.prompt.expanded_ids
        positions[:, index, :end] = row.prompt.positions
        segments[index, :end] = 0
        image_positions[index, :end] = row.prompt.image_positions
        for number, completion in enumerate(row.completions, start=1):
            start, end = end, end + len(completion)
            ids[index, start:end] = torch.tensor(completion.ids)
            positions[:, index, start:end] = row.prompt.next_position + torch.arange(len(completion))
            segments[index, start:end] = number
            # The first response token is predicted by the prompt's last state, the others by their predecessor.
            before = torch.cat([torch.tensor([len(row.prompt) - 1]), torch.arange(start, end - 1)])
            predictors.append(index * length + before)
    completions = [completion for row in rows for completion in row.completions]
    prompts = [row.prompt for row in rows]
    return MicroBatch(
        ids=ids,
        positions=positions,
        attention_mask=shared_prefix_mask(segments),
        image_positions=image_positions,
        pixel_values=_concatenate([p.pixel_values for p in prompts]),
        image_grid_thw=_concatenate([p.image_grid_thw for p in prompts]),
        predictors=torch.cat(predictors),
        targets=torch.cat([torch.tensor(c.ids) for c in completions]),
        sequence=torch.repeat_interleave(torch.tensor([len(c) for c in completions])),
        advantages=torch.cat([_or_zeros(c.advantages, c, torch.float32) for c in completions]),
        planning=torch.cat([_or_zeros(c.planning, c, torch.bool) for c in completions]),
        engine_logprobs=torch.cat([torch.tensor(c.logprobs, dtype=torch.float32) for c in completions]),
        old_logprobs=_concatenate([c.old_logprobs for c in completions]),
        reference_logprobs=_concatenate([c.reference_logprobs for c in completions]),
    )


def shared_prefix_mask(segments: Tensor) -> Tensor:
    """(B, L) segment numbers (0 prompt, 1.. responses, -1 padding) -> (B, 1, L, L) bool.

    A query sees earlier keys of the prompt and of its own response. Everything sees itself, padding too:
    a row of the softmax with nothing to look at would be NaN.
    """
    query, key = segments.unsqueeze(2), segments.unsqueeze(1)
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    allowed = causal & ((key == 0) | (key == query)) & (query != PADDING)
    return (allowed | torch.eye(length, dtype=torch.bool, device=segments.device)).unsqueeze(1)


def _concatenate(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _or_zeros(values: Tensor | None, completion: Completion, dtype: torch.dtype) -> Tensor:
    return torch.zeros(len(completion), dtype=dtype) if values is None else values
