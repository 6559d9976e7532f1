"""The rollout engine as a model of lmms-eval: its requests become prompts, its engine call ours.

Imports lmms-eval; `lmms.require_lmms_eval` says how to get it.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.utils import simple_parse_args_string
from PIL import ImageFile

from mmhicra.config import RunConfig
from mmhicra.config.base import MOST
from mmhicra.config.loading import apply_override, build_config
from mmhicra.core.errors import ConfigError, DataError
from mmhicra.core.records import IMAGE_PLACEHOLDER, Completion, Problem, ProblemImage, Prompt
from mmhicra.data.images import read_image
from mmhicra.evaluate.model import open_engine
from mmhicra.evaluate.runner import EVALUATION_STEP
from mmhicra.rollout.engine import Engine, Sampling, sampling_of
from mmhicra.rollout.portions import generate_in_portions
from mmhicra.vlm.loading import LoadedModel, load_policy
from mmhicra.vlm.processing import PromptBuilder

ImageFile.LOAD_TRUNCATED_IMAGES = False
"""lmms-eval sets it on import, and Pillow then fills the missing part of a truncated image with grey."""

ARGUMENTS = {
    "path": "model.path",
    "precision": "model.precision",
    "engine": "rollout.engine",
    "max_sequences": "rollout.max_sequences",
    "max_new_tokens": "eval.max_new_tokens",
    "min_pixels": "data.min_pixels",
    "max_pixels": "data.max_pixels",
    "max_prompt_tokens": "data.max_prompt_tokens",
    "seed": "seed",
}
"""What `--model_args` may hold, and the field of the configuration that it is."""

_Request = tuple[str, str, int]
"""Task, split and row: what one question is."""


class EngineModel(lmms):
    """Answers lmms-eval's requests with a rollout engine.

    Temperature, nucleus and length are the task's, but `eval.max_new_tokens` goes before the task's length where it is
    set. A task's `until` strings are not used: a response ends with the model's own end token, as it does in training.

    Args:
        config: limits of prompts and of the engine, and the seed.
        loaded: the model, for its processor and end tokens.
        engine: generates; the live one of a trainer will do.
        on_finish: told how many completions are done so far.

    Attributes:
        completions: (task, split, row) -> the completions given to it.
    """

    is_simple = False

    def __init__(
        self,
        config: RunConfig,
        loaded: LoadedModel,
        engine: Engine,
        on_finish: Callable[[int], None] = lambda done: None,
    ) -> None:
        super().__init__()
        self.config = config
        self.loaded = loaded
        self.engine = engine
        self.on_finish = on_finish
        self.completions: dict[_Request, list[Completion]] = {}
        self._builders: dict[str | None, PromptBuilder] = {}

    @classmethod
    def load(cls, **arguments: Any) -> EngineModel:
        """The configured engine on a model folder, a hub id, or a model that ships with mmhicra.

        Raises:
            ConfigError: an argument is not one of `ARGUMENTS`, or its value is wrong.
            UserError: the model cannot be loaded.
        """
        # Training's own limits have nothing to say here.
        tree: dict[str, Any] = {"data": {"max_prompt_tokens": 8192}, "train": {"tokens_per_micro_batch": MOST}}
        for name, value in arguments.items():
            if name not in ARGUMENTS:
                raise ConfigError(f"model argument {name} is not known: choose from {', '.join(ARGUMENTS)}")
            apply_override(tree, f"{ARGUMENTS[name]}={value}")
        config = build_config(tree)
        loaded = load_policy(config.model)
        open_until_exit = ExitStack()
        atexit.register(open_until_exit.close)
        return cls(config, loaded, open_until_exit.enter_context(open_engine(config, loaded)))

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> EngineModel:
        """`--model mmhicra --model_args path=...,max_new_tokens=...`; see `load`.

        lmms-eval's own `--batch_size` means completions decoded at a time.
        """
        arguments = dict(simple_parse_args_string(arg_string))
        given = {key: value for key, value in (additional_config or {}).items() if value is not None}
        if int(given.pop("batch_size", 1)) > 1:
            arguments.setdefault("max_sequences", int((additional_config or {})["batch_size"]))
        return cls.load(**given, **arguments)

    def generate_until(self, requests: Sequence[Instance]) -> list[Any]:
        """A `GenerationResult` per request, in order. Repeats of a row stand together and are one group's completions.

        Raises:
            DataError: a prompt cannot be built.
        """
        asked = [_Asked(*one) for one in _repeats(requests)]
        answers: dict[int, list[Completion]] = {}
        lengths: dict[int, int] = {}
        done = 0
        for sampling, numbers in self._by_sampling(asked):
            # As many as decode together: no more pixels than that are held.
            at_a_time = max(1, self.config.rollout.max_sequences // sampling.n)
            portions = generate_in_portions(
                self.engine,
                numbers,
                lambda portion: [self._prompt(asked[number]) for number in portion],
                sampling,
                seed=self.config.seed,
                step=EVALUATION_STEP,
                at_a_time=at_a_time,
                on_finish=lambda finished, done=done: self.on_finish(done + finished),
            )
            for number, group in zip(numbers, chain.from_iterable(portions), strict=True):
                answers[number] = group.completions
                lengths[number] = len(group.prompt)
                self.completions[asked[number].key] = group.completions
            done += sampling.n * len(numbers)
        return [
            GenerationResult(completion.text, TokenCounts(lengths[number], len(completion)))
            for number in range(len(asked))
            for completion in answers[number]
        ]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not offered.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("mmhicra answers in one round: choose tasks without multi-round generation")

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Not offered.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("mmhicra scores no given answers: choose tasks of output_type generate_until")

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
        longest = self.config.eval.max_new_tokens or int(options.get("max_new_tokens") or 1024)
        rollout = self.config.rollout.model_copy(update={"max_new_tokens": longest, "top_p": 1.0, "top_k": 0})
        sampling = sampling_of(rollout, self.loaded, n=asked.count, temperature=temperature)
        if temperature == 0:
            return sampling
        # Tasks write 0, and some None, where they mean "all".
        return replace(sampling, top_p=float(options.get("top_p") or 1.0), top_k=int(options.get("top_k") or 0))

    def _prompt(self, asked: _Asked) -> Prompt:
        task, split, row = asked.key
        system, problem = read_messages(asked.messages(self.task_dict[task][split][row]), f"{task}/{split}/{row}")
        if system not in self._builders:
            own = {} if system is None else {"system_prompt": system}
            data = self.config.data.model_copy(update={"instruction": "", **own})
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
        arguments: Any = group[0].args
        _, messages, options, row, task, split = arguments
        yield (task, split, row), messages, options, len(group)


def read_messages(messages: Sequence[Mapping[str, Any]], identity: str) -> tuple[str | None, Problem]:
    """A chat of lmms-eval as (system prompt, problem).

    Args:
        messages: at most one system message, then one user message, their contents text and images.
        identity: the problem's id.

    Raises:
        DataError: the chat has other parts.
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
            raise DataError(f"{identity}: a chat of several turns cannot be answered: choose tasks of one question")
        for part in parts:
            if part["type"] == "text":
                texts.append(part["text"])
            elif part["type"] == "image":
                texts.append(IMAGE_PLACEHOLDER)
                images.append(read_image(part["url"], None, f"{identity}#image{len(images) + 1}"))
            else:
                raise DataError(f"{identity}: the chat holds {part['type']}, mmhicra sees text and images only")
    return system, Problem(id=identity, question="".join(texts), images=tuple(images), answer="")
