"""TRL's asynchronous GRPO trainer beside our update: its prefix trie packs a group as our rows do, for text alone.

Its own planner (`TreeRow`), loss and language-model head run here on our side's model. The kernel that it fetches from
the hub, flash-attention 3, has a stand-in: on CUDA in bf16 the flash kernel that ships with torch, which our `flash`
uses too, elsewhere torch's scaled dot product, one segment of the trie at a time.
"""

from __future__ import annotations

import importlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.machine import now
from benchmarks.shapes import Regime
from mmhicra.core.errors import UserError
from mmhicra.core.records import Group

PACKING, TRAINER = "trl.experimental.async_grpo.packing", "trl.experimental.async_grpo.async_grpo_trainer"


class TrlAsync:
    """The update of `trl.experimental.async_grpo.AsyncGRPOTrainer`: one row, the trie of a group's samples.

    Args:
        shared: our side's model, used by turns; its language-model head is given TRL's way of scoring.
        precision: fp32 or bf16, which is autocast over float32 weights as on our side.
        regime: lengths.

    Raises:
        UserError: this version of TRL has no such trainer.
    """

    name = "trl-async"

    def __init__(self, shared: Any, precision: str, regime: Regime) -> None:
        try:
            self.packing: Any = importlib.import_module(PACKING)
            self.loss: Any = importlib.import_module(TRAINER).AsyncGRPOTrainer.compute_loss
            add_head: Any = importlib.import_module(TRAINER).add_fused_lm_head
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"bench train --against trl-async needs TRL 1.16 ({error}): install mmhicra[bench]"
            ) from None
        self.packing._flash_attn = lambda: SimpleNamespace(flash_attn_varlen_func=attend)
        self.packing.register_tree_attention()
        self.shared, self.precision, self.regime = shared, precision, regime
        self.plain_forward = shared.forward
        add_head(shared, temperature=1.0, outputs=("log_probs", "entropy"))
        self.their_forward, shared.forward = shared.forward, self.plain_forward

    def close(self) -> None:
        """Nothing to do."""

    def updating(self, group: Group, generates: bool = False) -> Callable[[], dict[str, float]]:
        """Forward and backward on `group`, as often as it is called: seconds of both. Nothing is ever generated."""
        return partial(self.update, self.batch(group))

    def step(self, group: Group) -> dict[str, float]:
        """Refuse: this trainer samples from servers.

        Raises:
            UserError: always.
        """
        raise UserError("bench train --against trl-async compares updates: add --update-only")

    def batch(self, group: Group) -> dict[str, Tensor]:
        """The group as TRL's collator lays it out for one process."""
        row, prompt = self.packing.TreeRow(), group.prompt.expanded_ids
        for completion in group.completions:
            ids = torch.tensor(completion.ids)
            row.add(
                {
                    "input_ids": torch.cat([prompt, ids]),
                    "completion_mask": torch.cat([torch.zeros_like(prompt), torch.ones_like(ids)]),
                    "old_log_probs": torch.zeros(len(prompt) + len(ids)),
                    "advantage": completion.base_advantage,
                    "group_id": 0,
                }
            )
        packed = row.pack()
        device = next(self.shared.parameters()).device
        counts = {"global_n_tokens": packed["token_index"].numel(), "global_n_forward_tokens": len(packed["input_ids"])}
        batch = {name: value.unsqueeze(0) for name, value in packed.items()}
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        batch |= {name: torch.tensor([float(count)]) for name, count in counts.items()}
        batch["mean_seq_len"] = batch["global_n_forward_tokens"] / len(group.completions)
        batch = {name: value.to(device) for name, value in batch.items()}
        return batch | {"old_log_probs": self.logprobs(batch)}

    def update(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Forward and backward: seconds of both."""
        with self.turn():
            marks = [now()]
            loss = self.loss(stand_in(), self.shared, batch)
            marks.append(now())
            loss.backward()
            marks.append(now())
        self.shared.zero_grad(set_to_none=True)
        return dict(zip(("forward", "backward"), (b - a for a, b in itertools.pairwise(marks)), strict=True))

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The shared model, attending and scoring as TRL does."""
        model: Any = self.shared
        language = model.model.language_model.config
        attention, language._attn_implementation = language._attn_implementation, self.packing.TREE_ATTENTION
        model.forward = self.their_forward
        try:
            with torch.autocast(model.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                yield
        finally:
            language._attn_implementation, model.forward = attention, self.plain_forward

    @torch.no_grad()
    def logprobs(self, batch: dict[str, Tensor]) -> Tensor:
        """(1, M) log-probs of what is trained, under the model as it is: with them as the old ones a ratio is 1."""
        found: list[Tensor] = []

        def keep(**inputs: Any) -> Any:
            outputs = self.their_forward(**inputs)
            found.append(outputs.log_probs.flatten()[batch["token_index"]])
            return outputs

        with self.turn():
            self.loss(stand_in(), keep, batch)
        return found[0]


def stand_in() -> Any:
    """As much of a trainer as its loss asks for, in one process and with one micro-batch a step."""
    accelerator = SimpleNamespace(
        num_processes=1, reduce=lambda stats, reduction: stats, gather=lambda value: value[None]
    )
    counts = dict.fromkeys(("forward_tokens", "trained_tokens", "seq_len_weighted", "samples", "forward_s"), 0.0)
    return SimpleNamespace(
        accelerator=accelerator,
        aux_loss_enabled=False,
        epsilon_low=0.2,
        epsilon_high=0.28,
        current_gradient_accumulation_steps=1,
        _metrics={"train": defaultdict(list)},
        **{f"_step_{name}": value for name, value in counts.items()},
    )


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    **_: Any,
) -> Tensor:
    """Causal attention of sequences of different lengths, aligned to their ends: (N, H, D) queries -> (N, H, D)."""
    if query.is_cuda and query.dtype == torch.bfloat16:
        return torch.ops.aten._flash_attention_forward(
            *(query, key, value, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, 0.0, True),
            return_debug_mask=False,
            scale=softmax_scale,
        )[0]
    out = []
    for (start, end), (first, last) in zip(
        itertools.pairwise(cu_seqlens_q.tolist()), itertools.pairwise(cu_seqlens_k.tolist()), strict=True
    ):
        q, k, v = (each.transpose(0, 1)[None] for each in (query[start:end], key[first:last], value[first:last]))
        whole = q.shape[2] == k.shape[2]
        sees = (
            None
            if whole
            else torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
        )
        seen = scaled_dot_product_attention(q, k, v, sees, is_causal=whole, scale=softmax_scale, enable_gqa=True)
        out.append(seen[0].transpose(0, 1))
    return torch.cat(out)
