"""vLLM in the trainer's process: the same prompts, the trainer's weights after every step, and no stale cache.

Shapes: G completions of a prompt, R tokens of a response.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from itertools import count
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from mmhicra.core.records import Completion, Group, Prompt
from mmhicra.rollout.engine import (
    Arrival,
    Progress,
    PromptMismatch,
    Sampling,
    StaleEngine,
    read_texts,
    refuse_nonfinite,
    request_seed,
    without_stop,
)
from mmhicra.rollout.stop_strings import StopStrings
from mmhicra.rollout.vllm.parallel import ALONE, TPGroup
from mmhicra.rollout.vllm.worker import Held
from mmhicra.vlm.family import Family
from mmhicra.vlm.weights import TrainedParts, checksum, named_weights, trained_parts

Stage = Literal["weights", "kv_cache"]
STAGES: tuple[Stage, ...] = ("weights", "kv_cache")
"""What sleeps, in the order in which it wakes up."""


class Print(NamedTuple):
    """A weight's checksum, and how many elements it has."""

    checksum: int
    elements: int


class VLLMEngine:
    """Generates with a `vllm.LLM` that runs in this process; `vllm.loading.load_vllm` makes one.

    A prompt is one request with `n` completions: its images are processed and hashed once. Weights are synced by name,
    one at a time, and checked afterwards.

    Args:
        llm: the engine, its worker extended by `vllm.worker.TrainedWorker`.
        family: of the model.
        tokenizer: of the model.
        dtype: of the engine's weights.
        sleeps: whether `llm` can sleep.
        tp_group: the processes that hold one copy of the engine's weights.
        owns_group: whether torch's process group was made for `llm`, and ends with it.
    """

    name = "vllm"

    def __init__(
        self,
        llm: Any,
        family: Family,
        tokenizer: PreTrainedTokenizerBase,
        dtype: torch.dtype,
        sleeps: bool = False,
        tp_group: TPGroup = ALONE,
        owns_group: bool = False,
    ) -> None:
        self.llm = llm
        self.family = family
        self.tokenizer = tokenizer
        self.dtype = dtype
        self.sleeps = sleeps
        self.tp_group = tp_group
        self.owns_group = owns_group
        self.asleep: set[Stage] = set()
        self.numbers = count()

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
        step: int,
        on_finish: Progress | None = None,
        on_group: Arrival | None = None,
    ) -> list[Group]:
        """See `Engine.generate`. Processes that hold the weights together generate for all of them."""
        self._wake(*STAGES)
        engine, gathered = self.llm.llm_engine, self.tp_group.gather_prompts(prompts)
        waiting: dict[str, int] = {}
        groups: dict[int, Group] = {}
        try:
            for index, prompt in enumerate(gathered.prompts):
                request = str(next(self.numbers))
                params = sampling_params(sampling, request_seed(seed, step, prompt.problem.id))
                engine.add_request(request, self.read(prompt), params)
                waiting[request] = index
            while engine.has_unfinished_requests():
                for output in engine.step():
                    number = waiting.pop(output.request_id) - gathered.own.start
                    if not 0 <= number < len(prompts):
                        continue
                    groups[number] = Group(prompts[number], self._completions(output, sampling))
                    if on_group is not None:
                        on_group(groups[number])
                    if on_finish is not None:
                        on_finish(len(groups) * sampling.n)
        finally:
            if waiting:  # interrupted: what is still under way must not come back in the next call
                engine.abort_request(list(waiting))
        # Not before all are there: a process that left would let those that generate together with it wait.
        for group in groups.values():
            refuse_nonfinite(group.prompt, group.completions)
        return [groups[number] for number in range(len(prompts))]

    def read(self, prompt: Prompt) -> Any:
        """A prompt as vLLM takes it, its images processed by vLLM.

        Raises:
            PromptMismatch: vLLM expands it to other ids than the trainer's, or sees an image otherwise.
        """
        request: dict[str, Any] = {"prompt_token_ids": prompt.ids, **self.family.vllm_data(prompt)}
        renderer = self.llm.renderer
        (rendered,) = renderer.render_cmpl([request], renderer.default_cmpl_tok_params)
        refuse_mismatch(prompt, rendered["prompt_token_ids"], self.family.vllm_difference(prompt, rendered))
        return rendered

    def sync(self, model: nn.Module) -> dict[str, float]:
        """See `Engine.sync`: sends the parts that are trained, resets what became stale, and compares checksums."""
        return self._send(model, trained_parts(model, self.family))

    def sync_all(self, model: nn.Module) -> dict[str, float]:
        """The same for every weight: for a model that differs from its folder, where vLLM has read its own."""
        return self._send(model, TrainedParts())

    def _send(self, model: nn.Module, parts: TrainedParts) -> dict[str, float]:
        self._wake("weights")
        sent: dict[str, Print] = {}
        with quiet():
            self.llm.collective_rpc("take_weights", args=(self._noting(model, parts, sent),))
        self.reset_prefix_cache()
        if parts.vision:
            self.reset_image_caches()
        return {"sync/weights": float(len(sent)), "sync/verified": self._compare(sent)}

    def verify(self, model: nn.Module) -> float:
        """Compare all weights of `model` with those of the engine; returns the share that could be compared.

        Raises:
            StaleEngine: they differ.
        """
        sent: dict[str, Print] = {}
        for _ in self._noting(model, TrainedParts(), sent):
            pass
        return self._compare(sent)

    def reset_prefix_cache(self) -> None:
        """Forget keys and values of prompts.

        Raises:
            StaleEngine: they are in use.
        """
        if not self.llm.reset_prefix_cache():
            raise StaleEngine("vLLM would not reset its prefix cache while requests are running")

    def reset_image_caches(self) -> None:
        """Forget what the vision tower made of images, and the images."""
        self.llm.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()

    def sleep(self) -> None:
        """See `Engine.sleep`: with `sleeps`, weights go to main memory and the cache of keys and values is freed."""
        if self.sleeps and not self.asleep:
            self.llm.sleep(level=1)
            self.asleep = set(STAGES)

    def close(self) -> None:
        """End it for good, and give back what it holds."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        if self.owns_group:
            from vllm.distributed import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()

    def _wake(self, *stages: Stage) -> None:
        wanted = [stage for stage in stages if stage in self.asleep]
        if wanted:
            self.llm.wake_up(tags=wanted)
            self.asleep -= set(wanted)

    def _noting(self, model: nn.Module, parts: TrainedParts, sent: dict[str, Print]) -> Iterator[tuple[str, Tensor]]:
        """The weights of `model` as the engine keeps them; the checksum of each goes into `sent` as it passes."""
        for name, weight in named_weights(model, self.family, parts):
            cast = weight.to(self.dtype)
            sent[name] = Print(checksum(cast), cast.numel())
            yield name, cast

    def _compare(self, sent: dict[str, Print]) -> float:
        """Compare checksums with what the workers hold; returns the share of weights that could be compared.

        Weights that share a parameter there are compared together. Quantised ones cannot be, nor those that vLLM's CPU
        build packs away, nor split ones that some processes hold twice.
        """
        workers = self.tp_group.gather(self.llm.collective_rpc("held_weights", args=(list(sent),))[0])
        totals: dict[str, Print] = {}
        for name, place in workers[0].items():
            before = totals.get(place.name, Print(0, 0))
            totals[place.name] = Print(before.checksum + sent[name].checksum, before.elements + sent[name].elements)
        known, stale = 0, set[str]()
        for name, place in workers[0].items():
            same = agree(totals[place.name], [worker[name] for worker in workers], str(self.dtype))
            known += same is not None
            stale |= {place.name} if same is False else set()
        if stale or not known:
            found = f"{len(stale)} parameters differ, e.g. {min(stale)}" if stale else "none can be compared"
            raise StaleEngine(
                f"vLLM does not hold the trainer's weights ({found}): this vLLM does not load this model as expected; "
                "use the tested version (docs/explanation/rollout.md) or set rollout.engine to hf"
            )
        return known / len(sent)

    def _completions(self, output: Any, sampling: Sampling) -> list[Completion]:
        """The completions of a finished request; a stop token is kept in the ids and left out of the text.

        Greedy ones are all the same: vLLM makes one.
        """
        ids, stopped = self._cut(output, sampling)
        texts = read_texts(self.tokenizer, [without_stop(row, sampling) for row in ids])
        drawn = [
            Completion(
                ids=row,
                logprobs=[position[token].logprob for position, token in zip(each.logprobs, row, strict=False)],
                finish_reason="stop" if stop else "length",
                text=text,
            )
            for each, row, stop, text in zip(output.outputs, ids, stopped, texts, strict=True)
        ]
        return drawn if len(drawn) == sampling.n else [copy(drawn[0]) for _ in range(sampling.n)]

    def _cut(self, output: Any, sampling: Sampling) -> tuple[list[list[int]], list[bool]]:
        """The ids of each completion, and whether it was stopped.

        vLLM waits for whole characters: where a token completes a stop string and begins a character, it samples on.
        """
        ids = [list(each.token_ids) for each in output.outputs]
        stopped = [each.finish_reason == "stop" for each in output.outputs]
        if sampling.stop_strings:
            lengths = [StopStrings(sampling.stop_strings, self.tokenizer).length(row) for row in ids]
            ids = [row[:length] for row, length in zip(ids, lengths, strict=True)]
            stopped = [stop or length is not None for stop, length in zip(stopped, lengths, strict=True)]
        return ids, stopped


def sampling_params(sampling: Sampling, seed: int) -> Any:
    """vLLM's parameters for the completions of one prompt, just one if greedy; seeds are `seed` and those after it."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    stops: dict[str, Any] = {}
    if sampling.stop_strings:  # vLLM looks for them in the text, in which special tokens have to be seen too
        stops = {"stop": list(sampling.stop_strings), "include_stop_str_in_output": True, "skip_special_tokens": False}
    # The bias goes past vLLM's own limit of -100 for it: never sampled is never.
    return SamplingParams(
        n=sampling.n if sampling.temperature > 0 else 1,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_new_tokens,
        stop_token_ids=list(sampling.stop_token_ids),
        logit_bias=dict.fromkeys(sampling.banned_token_ids, -torch.inf),
        logprobs=0,
        seed=seed % 2**62,  # vLLM's are signed, and it adds a completion's number
        detokenize=bool(stops),
        output_kind=RequestOutputKind.FINAL_ONLY,
        **stops,
    )


def refuse_mismatch(prompt: Prompt, ids: Sequence[int], difference: str | None) -> None:
    """Raise PromptMismatch if the engine reads `prompt` as other ids than the trainer, or its images otherwise.

    Args:
        prompt: the trainer's.
        ids: the engine's.
        difference: from `Family.vllm_difference`.
    """
    ours = prompt.expanded_ids.tolist()
    where = f"problem {prompt.problem.id} ({prompt.vision.describe()})"
    cause = "the engine's processor is not the trainer's"
    if ours != list(ids):
        pairs = enumerate(zip(ours, ids, strict=False))
        first = next((at for at, (a, b) in pairs if a != b), min(len(ours), len(ids)))
        raise PromptMismatch(
            f"{where}: trainer and engine read other prompts: {len(ours)} and {len(ids)} tokens, the first difference "
            f"at position {first}; {cause}: see docs/explanation/rollout.md"
        )
    if difference:
        raise PromptMismatch(f"{where}: {difference}; {cause}")


def agree(total: Print, parts: Sequence[Held], dtype: str) -> bool | None:
    """Whether the processes hold, in `parts`, the weights that add up to `total`; None if that cannot be told."""
    if any(part.dtype != dtype for part in parts):
        return None
    if all(part.elements >= total.elements for part in parts):  # each all of it, perhaps filled up with zeros
        return all(part.checksum == wrapped(total.checksum) for part in parts)
    if sum(part.elements for part in parts) == total.elements:
        return wrapped(sum(part.checksum for part in parts)) == wrapped(total.checksum)
    return None


def wrapped(total: int) -> int:
    """A sum as 64 bits hold it, which is where checksums are added up."""
    return (total + 2**63) % 2**64 - 2**63


@contextmanager
def quiet() -> Iterator[None]:
    """vLLM warns of every weight that is not sent; here that is on purpose."""
    logger = logging.getLogger("vllm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
