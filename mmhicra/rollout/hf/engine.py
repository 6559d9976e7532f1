"""The embedded engine: generates with the very model that is trained, in its process.

Shapes: B prompts, R rows (B x G completions, fewer as they finish), P longest prompt, T response tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedTokenizerBase

from mmhicra.core.records import Completion, Group, Prompt
from mmhicra.rollout.engine import (
    Arrival,
    Progress,
    Sampling,
    read_texts,
    refuse_nonfinite,
    request_seed,
    without_stop,
)
from mmhicra.rollout.hf.cache import ResponseCache, decoding_attention
from mmhicra.rollout.hf.packed import packed_linears
from mmhicra.rollout.hf.sampling import draw, request_uniforms, sampling_logprobs
from mmhicra.rollout.stop_strings import StopStrings
from mmhicra.vlm.family import Embedded, Family
from mmhicra.vlm.features import images_of

SHRINK_AT = 0.75
"""Finished rows leave once they are a quarter of the batch: leaving copies the cache of the responses."""


class HFEngine:
    """Generates through transformers' layers.

    Each prompt is encoded once, its images included, and its cache shared by its completions. Completions of several
    prompts decode together, up to `max_sequences` at a time; one that ends leaves the batch.

    Args:
        model: whole or wrapped by peft; shared with the trainer, not copied.
        family: the model's.
        tokenizer: the model's.
        pad_token_id: fills shorter prompts; never attended to.
        max_sequences: completions decoded at a time.
        precision: `bf16` computes under autocast, as the trainer does.
        half_weights: multiply by copies of the language model's weights that are rounded to bfloat16.
    """

    name = "hf"

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        tokenizer: PreTrainedTokenizerBase,
        pad_token_id: int,
        max_sequences: int,
        precision: Literal["fp32", "bf16"] = "fp32",
        half_weights: bool = False,
    ) -> None:
        self.model = model
        self.family = family
        self.tokenizer = tokenizer
        self.pad_token_id = pad_token_id
        self.max_sequences = max_sequences
        self.precision = precision
        self.half_weights = half_weights
        self.stop_strings: StopStrings | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def sync(self, model: nn.Module) -> dict[str, float]:
        """Sample from `model` from now on; nothing is copied."""
        self.model = model
        return {}

    def sleep(self) -> None:
        """Nothing is held between calls."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
        step: int,
        on_finish: Progress | None = None,
        on_group: Arrival | None = None,
    ) -> list[Group]:
        """See `Engine.generate`. The model is left in the mode it was in.

        Raises:
            NoDistribution: see `Engine.generate`.
            ValueError: `max_sequences` cannot hold the completions of one prompt.
        """
        at_a_time = self.max_sequences // sampling.n
        if at_a_time < 1:
            raise ValueError(
                f"max_sequences ({self.max_sequences}) is below the {sampling.n} completions of one prompt"
            )
        self._watch_for(sampling.stop_strings)
        # Prompts of like length together: less padding. What others are in a batch changes nothing but that.
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        groups: dict[int, Group] = {}
        finished = 0
        with self._generating():
            for start in range(0, len(order), at_a_time):
                chosen = order[start : start + at_a_time]
                batch = self._prefill([prompts[i] for i in chosen], sampling, seed, step)
                for arrived in self._decode(batch, sampling):
                    finished += arrived
                    if on_finish is not None:
                        on_finish(finished)
                completions = self._completions(batch, sampling)
                for row, index in enumerate(chosen):
                    group = completions[row * sampling.n : (row + 1) * sampling.n]
                    refuse_nonfinite(prompts[index], group)
                    groups[index] = Group(prompts[index], group)
                    if on_group is not None:
                        on_group(groups[index])
        return [groups[index] for index in range(len(prompts))]

    def _watch_for(self, strings: Sequence[str]) -> None:
        """Look for these stop strings from now on; what that needs of the whole vocabulary is computed once."""
        if not strings:
            self.stop_strings = None
        elif self.stop_strings is None or self.stop_strings.strings != tuple(strings):
            self.stop_strings = StopStrings(strings, self.tokenizer)

    @contextmanager
    def _generating(self) -> Iterator[None]:
        """Eval mode, no gradients, the configured precision, packed weights; modules get their own mode back."""
        # Not inference mode: tensors made in it could end up in the training graph.
        modes = [(module, module.training) for module in self.model.modules()]
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        copied = (self.family.language_model(self.model), self.family.lm_head(self.model))
        packed = packed_linears(
            copied if self.precision == "fp32" else (), self.family.joint_linears, half=self.half_weights
        )
        self.model.eval()
        try:
            with torch.no_grad(), autocast, packed:
                yield
        finally:
            for module, mode in modes:
                module.training = mode

    def _prefill(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, step: int) -> _Batch:
        """Encode each prompt once, and lay out a row for each of its completions.

        Prompts are padded on the right: under a causal mask no prompt token sees padding.
        """
        device = self.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        images = images_of(prompts)
        embedded = self.family.embed(
            self.model,
            _stack([prompt.expanded_ids for prompt in prompts], self.pad_token_id).to(device),
            None if images is None else images.to(device),
            _stack([prompt.image_positions for prompt in prompts], False).to(device),
        )
        positions = self.family.batch_positions([prompt.vision for prompt in prompts]).to(device)
        hidden, cache = self.family.hidden_states(
            self.model, embedded, positions, None, past_key_values=DynamicCache(), use_cache=True
        )
        last = hidden[torch.arange(len(prompts), device=device), lengths - 1]
        logits = self.family.lm_head(self.model)(last).float()
        uniforms = [request_uniforms(request_seed(seed, step, p.problem.id), sampling) for p in prompts]
        starts = torch.tensor([prompt.vision.next_position for prompt in prompts], device=device)
        return _Batch(
            logits=logits.repeat_interleave(sampling.n, 0),
            starts=starts.repeat_interleave(sampling.n),
            uniforms=torch.cat(uniforms).to(device),
            cache=ResponseCache(cache, lengths, sampling.n),
            limit=sampling.max_new_tokens,
        )

    def _decode(self, batch: _Batch, sampling: Sampling) -> Iterator[int]:
        """Fill `batch` token by token; yields how many rows ended, whenever some did."""
        stops = torch.tensor(sampling.stop_token_ids, dtype=torch.int64, device=self.device)
        for t in range(sampling.max_new_tokens):
            logprobs = sampling_logprobs(batch.logits, sampling)
            greedy = sampling.temperature == 0
            tokens = logprobs.argmax(-1) if greedy else draw(logprobs, batch.uniforms[batch.rows, t])
            arrived = batch.append(t, tokens, logprobs, self._ends(batch, tokens, t, stops))
            if arrived:
                yield arrived
            if t + 1 == sampling.max_new_tokens or batch.alive == 0:
                break
            tokens = batch.shrink(tokens)
            batch.logits = self._next_logits(batch, tokens, t)
        if batch.alive:
            yield batch.alive

    def _ends(self, batch: _Batch, tokens: Tensor, t: int, stops: Tensor) -> Tensor:
        """(R,) bool: which rows end with their token at response position `t`."""
        ends = torch.isin(tokens, stops)
        if self.stop_strings is not None:
            likely = (self.stop_strings.candidates(tokens) & ~batch.done).nonzero()[:, 0]
            written = torch.cat([batch.ids[batch.rows[likely], :t], tokens[likely, None]], dim=1).tolist()
            for row, ids in zip(likely.tolist(), written, strict=True):
                ends[row] |= self.stop_strings.completed(ids)
        return ends

    def _next_logits(self, batch: _Batch, tokens: Tensor, t: int) -> Tensor:
        """(R,) tokens at response position `t` -> (R, V) logits of the next."""
        embedded = Embedded(self.family.embed_ids(self.model, tokens.unsqueeze(1)))
        positions = self.family.decode_positions(batch.starts[batch.rows] + t)
        cache = batch.cache
        cache.make_room()
        with decoding_attention(self.family.language_model(self.model).config):
            hidden, _ = self.family.hidden_states(
                self.model, embedded, positions, None, past_key_values=cache, use_cache=True, cache=cache
            )
        return self.family.lm_head(self.model)(hidden[:, 0]).float()

    def _completions(self, batch: _Batch, sampling: Sampling) -> list[Completion]:
        """Convert once, at the end."""
        lengths, stopped = batch.lengths.tolist(), batch.stopped.tolist()
        ids = [row[:length] for row, length in zip(batch.ids.tolist(), lengths, strict=True)]
        logprobs = [row[:length] for row, length in zip(batch.logprobs.tolist(), lengths, strict=True)]
        texts = read_texts(self.tokenizer, [without_stop(row, sampling) for row in ids])
        return [
            Completion(ids=i, logprobs=p, finish_reason="stop" if stop else "length", text=text)
            for i, p, stop, text in zip(ids, logprobs, stopped, texts, strict=True)
        ]


@dataclass
class _Batch:
    """Completions in the making. `rows` are those still in the batch; what they produce is kept under their number.

    Attributes:
        logits: (R, V) of the next token.
        starts: (all rows,) position of the first response token.
        uniforms: (all rows, T).
        cache: of the rows in the batch.
        limit: T.
        rows: (R,) int64.
        done: (R,) bool, rows that ended but have not left yet; what they go on producing is cut off by `lengths`.
    """

    logits: Tensor
    starts: Tensor
    uniforms: Tensor
    cache: ResponseCache
    limit: int
    rows: Tensor = field(init=False)
    done: Tensor = field(init=False)
    ids: Tensor = field(init=False)
    logprobs: Tensor = field(init=False)
    lengths: Tensor = field(init=False)
    stopped: Tensor = field(init=False)
    alive: int = field(init=False)

    def __post_init__(self) -> None:
        count, device = len(self.starts), self.starts.device
        self.rows = torch.arange(count, device=device)
        self.done = torch.zeros(count, dtype=torch.bool, device=device)
        self.ids = torch.zeros((count, self.limit), dtype=torch.int64, device=device)
        self.logprobs = torch.zeros((count, self.limit), device=device)
        self.lengths = torch.full((count,), self.limit, device=device)
        self.stopped = torch.zeros(count, dtype=torch.bool, device=device)
        self.alive = count

    def append(self, t: int, tokens: Tensor, logprobs: Tensor, stops: Tensor) -> int:
        """Keep the tokens at `t` and their log-probs; returns how many rows ended with them."""
        self.ids[self.rows, t] = tokens
        self.logprobs[self.rows, t] = logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        ended = self.rows[stops & ~self.done]
        self.lengths[ended] = t + 1
        self.stopped[ended] = True
        self.done |= stops
        self.alive -= len(ended)
        return len(ended)

    def shrink(self, tokens: Tensor) -> Tensor:
        """Let ended rows leave if they are many; returns the tokens of those that stay."""
        if self.alive > SHRINK_AT * len(self.rows):
            return tokens
        stay = (~self.done).nonzero()[:, 0]
        self.rows, self.done = self.rows[stay], self.done[stay]
        self.cache.keep(stay)
        return tokens[stay]


def _stack(tensors: Sequence[Tensor], fill: Any) -> Tensor:
    return pad_sequence(list(tensors), batch_first=True, padding_value=fill)
