"""The policy as one module: micro-batch in, log-prob and entropy of every response token out.

One `forward` is all that data-parallel wrappers need to see; the engine uses `model` directly.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmhicra.core.vision_inputs import Pixels
from mmhicra.train.distributed.sequence import SequenceGroup, whole
from mmhicra.train.update.attention import registered
from mmhicra.train.update.logprob import LogprobKernel, TokenStats, token_stats
from mmhicra.train.update.packing import MicroBatch
from mmhicra.train.update.rows import part_of
from mmhicra.vlm.family import Family


class Policy(nn.Module):
    """A vision-language model that scores response tokens under the distribution they are sampled from.

    Args:
        model: the whole model, peft's wrapper included.
        family: its family.
        temperature: of sampling.
        banned_ids: never sampled.
        chunk: response positions whose logits are held at a time.
        precision: `bf16` computes under autocast.
        attention: a name in `attention.ATTENTIONS` that this machine can run.
        nucleus: probability mass of the nucleus whose entropy is wanted too, or None.
        logprob_kernel: from `logprob.choose_kernel`.
        always_runs_vision: run the vision tower on a blank image where a batch has none. Data-parallel ranks need it:
            one that skipped the tower would leave the others waiting for its part.
        plain: rows are one prompt and one response each (`train.rows: plain`), which transformers' own causal attention
            serves; `attention` is not used then.
        sequence: the ranks that compute a row together, or None; all of them are given the same rows, and get the same
            results. Plain rows go through `attention` then.
    """

    banned: Tensor

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        *,
        temperature: float,
        banned_ids: list[int],
        chunk: int,
        precision: Literal["fp32", "bf16"] = "fp32",
        attention: str = "segments",
        nucleus: float | None = None,
        logprob_kernel: LogprobKernel = "chunks",
        always_runs_vision: bool = False,
        plain: bool = False,
        sequence: SequenceGroup | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.family = family
        self.temperature = temperature
        self.chunk = chunk
        self.precision = precision
        self.attention = attention
        self.nucleus = nucleus
        self.logprob_kernel: LogprobKernel = logprob_kernel
        self.always_runs_vision = always_runs_vision
        self.plain = plain
        self.sequence = sequence
        self.shares = not plain or sequence is not None
        # For good: gradient checkpointing asks for it again in the backward pass.
        family.language_model(model).config._attn_implementation = registered(attention) if self.shares else "sdpa"
        self.register_buffer("banned", torch.tensor(banned_ids, dtype=torch.int64), persistent=False)

    def forward(self, batch: MicroBatch) -> TokenStats:
        """Log-probs and entropies of the T response tokens of `batch`.

        Raises:
            ValueError: the policy takes plain rows, and this one has several responses.
        """
        if self.plain and len(list(batch.layout.spans)) != 2:
            raise ValueError("a plain row is one prompt and one response: pack with plain=True")
        options: dict[str, Any] = {"layout": batch.layout, "sequence": self.sequence} if self.shares else {}
        with torch.autocast(batch.ids.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            if self.sequence is None:
                return self._score(batch, options)
            images = batch.images
            if isinstance(images, Pixels):  # by every rank of the group alike: each needs some of the features
                images = self.family.encode_images(self.model, images)
            part, at = part_of(batch, images, self.sequence)
            own = torch.stack(self._score(part, options), dim=-1)
            return TokenStats(*whole(own, at, len(batch.targets), self.sequence).unbind(-1))

    def _score(self, batch: MicroBatch, options: dict[str, Any]) -> TokenStats:
        """Log-probs and entropies of `batch.targets`; `options` go to the attention of every layer."""
        embedded = self.family.embed(
            self.model, batch.ids.unsqueeze(0), batch.images, batch.image_positions.unsqueeze(0)
        )
        if self.always_runs_vision and batch.images is None:
            # Ahead of the decoder, where other ranks encode their images: sharded ones gather blocks in one order.
            blank = 0.0 * self.family.dummy_vision_forward(self.model)
            embedded = replace(embedded, inputs_embeds=embedded.inputs_embeds + blank)
        hidden, _ = self.family.hidden_states(self.model, embedded, batch.positions.unsqueeze(1), None, **options)
        return token_stats(
            hidden[0].index_select(0, batch.predictors),
            self.family.lm_head(self.model).weight,
            batch.targets,
            temperature=self.temperature,
            banned=self.banned,
            chunk=self.chunk,
            nucleus=self.nucleus,
            kernel=self.logprob_kernel,
        )
