"""The rollout engine as a model of lmms-eval: its requests become prompts, its engine call ours.

Imports lmms-eval; `lmms.require_lmms_eval` says how to get it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.utils import simple_parse_args_string

from mmhicra.config import DataConfig, ModelConfig, RolloutConfig
from mmhicra.records import IMAGE_PLACEHOLDER, Completion, Problem, ProblemImage, Prompt
from mmhicra.refusals import ConfigRefusal, DataRefusal
from mmhicra.rollout.engine import Engine, Sampling, sampling_of
from mmhicra.rollout.hf import HFEngine
from mmhicra.train.evaluation import EVALUATION_STEP
from mmhicra.vlm.loading import LoadedModel, load_policy
from mmhicra.vlm.processing import PromptBuilder

PROMPTS_AT_A_TIME = 64
"""Prompts whose pixels are held at once."""

_Request = tuple[str, str, int]
"""Task, split and row: what one question is."""


@dataclass(frozen=True)
class Limits:
    """What bounds prompts and responses.

    Attributes:
        max_new_tokens: the longest response, where it is set; else the task's.
        max_sequences: completions decoded at a time.
        min_pixels: as `data.min_pixels`.
        max_pixels: as `data.max_pixels`.
        max_prompt_tokens: longer prompts are refused.
        seed: of the sampled responses; greedy ones have no use for it.
    """

    max_new_tokens: int | None = None
    max_sequences: int = 256
    min_pixels: int = 3136
    max_pixels: int = 1003520
    max_prompt_tokens: int = 8192
    seed: int = 0


class EngineModel(lmms):
    """Answers lmms-eval's requests with a rollout engine.

    The tasks' `until` strings are not used: a response ends with the model's own end token, as it does in training.

    Args:
        engine: generates.
        loaded: the model, for its processor and end tokens.
        limits: of prompts and responses.
        on_finish: told how many completions are done so far.

    Attributes:
        completions: (task, split, row) -> the completions given to it.
    """

    is_simple = False

    def __init__(
        self,
        engine: Engine,
        loaded: LoadedModel,
        limits: Limits = Limits(),
        on_finish: Callable[[int], None] = lambda done: None,
    ) -> None:
        super().__init__()
        self.engine = engine
        self.loaded = loaded
        self.limits = limits
        self.on_finish = on_finish
        self.completions: dict[_Request, list[Completion]] = {}
        self._builders: dict[str | None, PromptBuilder] = {}

    @classmethod
    def load(cls, path: str, precision: str = "fp32", device: str = "cpu", **limits: int) -> EngineModel:
        """The embedded engine on a model folder, a hub id, or a model that ships with mmhicra.

        Raises:
            Refusal: the model cannot be loaded.
            ConfigRefusal: an argument is unknown.
        """
        known = [field.name for field in fields(Limits)]
        if unknown := [name for name in limits if name not in known]:
            said = ", ".join(["path", "precision", "device", *known])
            raise ConfigRefusal(f"model argument {unknown[0]} is not known: choose from {said}")
        config = ModelConfig.model_validate({"path": path, "precision": precision})
        bounds = Limits(**limits)
        loaded = load_policy(config)
        engine = HFEngine(
            loaded.model.to(device),
            loaded.family,
            loaded.tokenizer,
            pad_token_id=loaded.pad_token_id,
            max_sequences=bounds.max_sequences,
            precision=config.precision,
        )
        return cls(engine, loaded, bounds)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> EngineModel:
        """`--model mmhicra --model_args path=...,max_new_tokens=...`; see `load`.

        lmms-eval's own `--batch_size` means completions decoded at a time.
        """
        arguments = dict(simple_parse_args_string(arg_string))
        given = {key: value for key, value in (additional_config or {}).items() if value is not None}
        if int(given.get("batch_size") or 1) > 1:
            arguments.setdefault("max_sequences", int(given["batch_size"]))
        if given.get("device"):
            arguments.setdefault("device", given["device"])
        return cls.load(**arguments)

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """One response per request, in order. Repeats of a row stand together and are one group's completions.

        Raises:
            DataRefusal: a prompt cannot be built.
        """
        asked = [_Asked(*one) for one in _repeats(requests)]
        answers: dict[int, list[Completion]] = {}
        lengths: dict[int, int] = {}
        done = 0
        for sampling, numbers in self._by_sampling(asked):
            for start in range(0, len(numbers), PROMPTS_AT_A_TIME):
                part = numbers[start : start + PROMPTS_AT_A_TIME]
                prompts = [self._prompt(asked[number]) for number in part]
                groups = self.engine.generate(
                    prompts,
                    sampling,
                    seed=self.limits.seed,
                    step=EVALUATION_STEP,
                    on_finish=lambda finished, done=done: self.on_finish(done + finished),
                )
                for number, group in zip(part, groups, strict=True):
                    answers[number] = group.completions
                    lengths[number] = len(group.prompt)
                    self.completions[asked[number].key] = group.completions
                done += sampling.n * len(part)
        return [
            GenerationResult(completion.text, TokenCounts(lengths[number], len(completion)))
            for number in range(len(asked))
            for completion in answers[number]
        ]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not offered.

        Raises:
            ConfigRefusal: always.
        """
        raise ConfigRefusal("mmhicra answers in one round: choose tasks without multi-round generation")

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Not offered.

        Raises:
            ConfigRefusal: always.
        """
        raise ConfigRefusal("mmhicra scores no given answers: choose tasks of output_type generate_until")

    def _by_sampling(self, asked: Sequence[_Asked]) -> Iterator[tuple[Sampling, list[int]]]:
        """Questions that are answered alike go to the engine together."""
        samplings = [self._sampling(one) for one in asked]
        for sampling in dict.fromkeys(samplings):
            yield sampling, [number for number, other in enumerate(samplings) if other == sampling]

    def _sampling(self, asked: _Asked) -> Sampling:
        options = asked.options
        temperature = float(options.get("temperature") or 0.0)
        if options.get("do_sample") is False:
            temperature = 0.0
        rollout = RolloutConfig(
            max_new_tokens=int(self.limits.max_new_tokens or options.get("max_new_tokens") or 1024),
            max_sequences=max(self.limits.max_sequences, asked.count),
        )
        sampling = sampling_of(rollout, self.loaded, n=asked.count, temperature=temperature)
        if temperature == 0:
            return sampling
        # Tasks write 0, and some None, where they mean "all".
        return replace(sampling, top_p=float(options.get("top_p") or 1.0), top_k=int(options.get("top_k") or 0))

    def _prompt(self, asked: _Asked) -> Prompt:
        task, split, row = asked.key
        system, problem = read_messages(asked.messages(self.task_dict[task][split][row]), f"{task}/{split}/{row}")
        if system not in self._builders:
            data = DataConfig(
                system_prompt=system,
                min_pixels=self.limits.min_pixels,
                max_pixels=self.limits.max_pixels,
                max_prompt_tokens=self.limits.max_prompt_tokens,
            )
            loaded = self.loaded
            self._builders[system] = PromptBuilder(loaded.processor, loaded.family, loaded.config, data)
        return self._builders[system].build(problem)


@dataclass(frozen=True)
class _Asked:
    """One row of a task, and how often it is to be answered."""

    key: _Request
    messages: Callable[[Any], list[dict[str, Any]]]
    options: Mapping[str, Any]
    count: int


def _repeats(requests: Sequence[Instance]) -> Iterator[tuple[_Request, Any, Mapping[str, Any], int]]:
    """lmms-eval repeats the very same request `repeats` times in a row."""
    for _, same in groupby(requests, key=id):
        group = list(same)
        _, messages, options, row, task, split = group[0].args
        yield (task, split, row), messages, options, len(group)


def read_messages(messages: Sequence[Mapping[str, Any]], identity: str) -> tuple[str | None, Problem]:
    """A chat of lmms-eval as (system prompt, problem).

    Args:
        messages: at most one system message, then one user message, their contents text and images.
        identity: the problem's id.

    Raises:
        DataRefusal: the chat has other parts.
    """
    system: str | None = None
    texts: list[str] = []
    images: list[ProblemImage] = []
    for message in messages:
        parts = message["content"]
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        if message["role"] == "system" and system is None and not texts:
            system = "".join(part["text"] for part in parts)
            continue
        if message["role"] != "user" or texts:
            raise DataRefusal(f"{identity}: a chat of several turns cannot be answered: choose tasks of one question")
        for part in parts:
            if part["type"] == "text":
                texts.append(part["text"])
            elif part["type"] == "image":
                texts.append(IMAGE_PLACEHOLDER)
                images.append(ProblemImage(part["url"], f"{identity}#image{len(images) + 1}"))
            else:
                raise DataRefusal(f"{identity}: the chat holds {part['type']}, mmhicra sees text and images only")
    return system, Problem(id=identity, question="".join(texts), images=tuple(images), answer="")
