"""What an engine is: it turns prompts into groups of completions.

Engines differ in how, not in what: a completion's log-probs are those of the distribution it was sampled from,
multimodal tokens are never sampled, and a request's random numbers depend on its seed, step and problem alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn
from transformers import PreTrainedTokenizerBase

from mmhicra.config import RolloutConfig
from mmhicra.core.errors import ConfigError, UserError
from mmhicra.core.records import Completion, Group, Prompt
from mmhicra.vlm.loading import LoadedModel
from mmhicra.vlm.special_tokens import control_token_ids

Progress = Callable[[int], None]
"""Told how many completions have come in so far."""

Arrival = Callable[[Group], None]
"""Given each group as soon as it is whole, in any order."""


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        n: G, completions per prompt.
        temperature: what logits are divided by; 0 takes the likeliest token.
        top_p: keep the likeliest tokens until they hold this much probability; 1 keeps all.
        top_k: keep so many of the likeliest tokens, before `top_p`; 0 keeps all.
        max_new_tokens: the longest response.
        stop_token_ids: a response ends with, and includes, the first of these.
        banned_token_ids: never sampled.
        stop_strings: a response ends with, and includes, the first token with which its text has one of these; see
            `rollout.stop_strings`.
    """

    n: int
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    banned_token_ids: tuple[int, ...]
    stop_strings: tuple[str, ...] = ()


class Engine(Protocol):
    """A way to generate."""

    @property
    def name(self) -> str:
        """What `rollout.engine` says."""
        ...

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
        step: int,
        on_finish: Progress | None = None,
        on_group: Arrival | None = None,
    ) -> list[Group]:
        """`sampling.n` completions for each prompt, in the order of `prompts`.

        Args:
            prompts: with distinct problem ids; equal ids would draw equal random numbers.
            sampling: how.
            seed: of the run.
            step: of the run; with the problem's id it makes the request's seed.
            on_finish: told how many completions have come in whenever there are more.
            on_group: given each group while others are still generated.

        Raises:
            PromptMismatch: the engine reads a prompt as other tokens than the trainer.
            NoDistribution: log-probs of sampled tokens are not finite.
        """
        ...

    def sync(self, model: nn.Module) -> dict[str, float]:
        """Sample from the weights of `model` from now on; returns numbers about it for `metrics.jsonl`.

        Raises:
            StaleEngine: the engine does not hold those weights afterwards.
        """
        ...

    def sleep(self) -> None:
        """Give back what only generating needs, until the next call."""
        ...


class PromptMismatch(UserError):
    """Engine and trainer would not see the same prompt."""


class NoDistribution(UserError):
    """The engine's log-probs are not finite: there was nothing to sample from."""


class StaleEngine(UserError):
    """The engine would sample from other weights than those that are trained."""


def refuse_nonfinite(prompt: Prompt, completions: Sequence[Completion]) -> None:
    """Raise NoDistribution, with problem and token position, if a sampled token has a log-prob that is not finite."""
    for number, completion in enumerate(completions):
        at = next((at for at, value in enumerate(completion.logprobs) if not math.isfinite(value)), None)
        if at is not None:
            raise NoDistribution(
                f"problem {prompt.problem.id}: the log-prob of token {at} of response {number} is "
                f"{completion.logprobs[at]}, so the model computes no finite numbers: were its weights trained with "
                "too high a train.optimizer.learning_rate? Start from an earlier checkpoint with a lower one; with "
                "model.precision bf16 try fp32"
            )


def read_texts(tokenizer: PreTrainedTokenizerBase, responses: Sequence[Sequence[int]]) -> list[str]:
    """The text of each response, without control tokens; special tokens that carry text stay (`control_token_ids`).

    Character for character what `hicra.spans.read_tokens` reads of the tokens that are kept.
    """
    control = control_token_ids(tokenizer)
    kept = [[token for token in response if token not in control] for response in responses]
    return tokenizer.batch_decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def without_stop(ids: Sequence[int], sampling: Sampling) -> Sequence[int]:
    """A response without its stop token, which would be decoded if it is no control token; stop strings stay."""
    return ids[:-1] if ids and ids[-1] in sampling.stop_token_ids else ids


def request_seed(run_seed: int, step: int, problem_id: str) -> int:
    """The 63-bit seed of one prompt's completions; a function of its arguments and of nothing else."""
    digest = hashlib.sha256(f"{run_seed}\n{step}\n{problem_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def sampling_of(rollout: RolloutConfig, loaded: LoadedModel, *, n: int, temperature: float) -> Sampling:
    """The configured sampling for one model.

    Args:
        rollout: limits and stop tokens; its `n` and `temperature` are training's, evaluation has its own.
        loaded: whose tokens they are.
        n: completions per prompt.
        temperature: 0 is greedy.

    Raises:
        ConfigError: `rollout.stop_tokens` names something that is not one token, `rollout.stop_strings` one that is
            longer than a response, or `rollout.max_sequences` is below `n`.
    """
    tokenizer = loaded.tokenizer
    stops = set(loaded.end_token_ids)
    for text in rollout.stop_tokens:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) != 1:
            raise ConfigError(f"rollout.stop_tokens: {text!r} is {len(ids)} tokens of this model: name single tokens")
        stops.add(ids[0])
    for text in rollout.stop_strings:
        if (count := len(tokenizer.encode(text, add_special_tokens=False))) > rollout.max_new_tokens:
            raise ConfigError(
                f"rollout.stop_strings: {text!r} is {count} tokens, more than rollout.max_new_tokens "
                f"({rollout.max_new_tokens}): no response can hold it"
            )
    if rollout.max_sequences < n:
        raise ConfigError(
            f"rollout.max_sequences ({rollout.max_sequences}) cannot hold the {n} completions of one prompt: raise it"
        )
    return Sampling(
        n=n,
        temperature=temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        max_new_tokens=rollout.max_new_tokens,
        stop_token_ids=tuple(sorted(stops)),
        banned_token_ids=tuple(loaded.banned_token_ids),
        stop_strings=tuple(dict.fromkeys(rollout.stop_strings)),
    )
