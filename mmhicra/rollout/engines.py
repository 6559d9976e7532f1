"""The engines by name, and those of the user's own: made, closed at the end, and held to what they promise.

An engine of the user's own is named by its address: a class or function that is called with (config, model), a
`RunConfig` and a `LoadedModel`, and gives an object with the methods of `rollout.engine.Engine`. If it has a method
`close`, that is called when the run ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, cast, get_args

import torch.distributed
from torch import nn

from mmhicra.config import RunConfig
from mmhicra.core.errors import ConfigError, UserError
from mmhicra.core.names import EngineName
from mmhicra.core.plugins import check_call, load_object, spell_error
from mmhicra.core.records import Group, Prompt
from mmhicra.rollout.engine import Arrival, Engine, Progress, Sampling, refuse_nonfinite
from mmhicra.rollout.hf.engine import HFEngine
from mmhicra.rollout.vllm.loading import load_vllm, refuse_without_vllm
from mmhicra.vlm.loading import LoadedModel

_FIELD = "rollout.engine"
_PAGE = "see docs/extend/engine.md"
_METHODS = {
    "generate": ("prompts", "sampling", "seed", "step", "on_finish", "on_group"),
    "sync": ("model",),
    "sleep": (),
}


class EngineFactory(Protocol):
    """What makes an engine that samples from `model` as it is."""

    def __call__(self, config: RunConfig, model: LoadedModel) -> Engine:
        """See the class. Raises UserError where it cannot run here."""
        ...


def make_hf(config: RunConfig, model: LoadedModel) -> Engine:
    """The embedded engine, which shares the trainer's model."""
    return HFEngine(
        model.model,
        model.family,
        model.tokenizer,
        pad_token_id=model.pad_token_id,
        max_sequences=config.rollout.max_sequences,
        precision=config.model.precision,
        half_weights=config.rollout.hf.weights == "bf16",
    )


def make_vllm(config: RunConfig, model: LoadedModel) -> Engine:
    """vLLM in this process, alone or with the other processes of the run."""
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    return load_vllm(config, model, torch.distributed.get_world_size() if shared else 1)


ENGINES: dict[EngineName, EngineFactory] = {"hf": make_hf, "vllm": make_vllm}
"""What makes each engine that mmhicra knows."""


def check_engine(config: RunConfig) -> None:
    """Refuse an engine that is not there, before any weight is loaded.

    Raises:
        ConfigError: vLLM is not installed, or an engine of the user's own cannot be found, called, or shard.
    """
    if config.rollout.engine == "vllm":
        refuse_without_vllm()
    find_factory(config.rollout.engine)
    if is_own(config) and config.model.shard:
        raise ConfigError(
            f"model.shard splits the model that {_FIELD} {config.rollout.engine} is given: set it to false, or use "
            "engine hf or vllm"
        )


def is_own(config: RunConfig) -> bool:
    """Whether the engine is the user's own."""
    return config.rollout.engine not in get_args(EngineName)


def find_factory(engine: str) -> EngineFactory:
    """What makes the engine of `rollout.engine`, a name or an address.

    Raises:
        ConfigError: there is none, or it is not called with (config, model).
    """
    if engine in get_args(EngineName):
        return ENGINES[cast(EngineName, engine)]
    form = f"mmhicra calls it with (config, model) and takes an engine; {_PAGE}"
    found = check_call(load_object(engine, _FIELD, "class"), engine, _FIELD, ("config", "model"), form)

    def make(config: RunConfig, model: LoadedModel) -> Engine:
        try:
            made: Any = found(config, model)
        except UserError:
            raise
        except Exception as error:
            raise ConfigError(f"{_FIELD} {engine} cannot be made: {spell_error(error)}") from error
        for name, arguments in _METHODS.items():
            form = f"mmhicra calls {name}({', '.join(arguments)}); {_PAGE}"
            check_call(getattr(made, name, None), f"{engine}.{name}", _FIELD, arguments, form)
        if config.rollout.prefetch and not getattr(made, "separate", False):
            raise ConfigError(
                f"rollout.prefetch samples while the trainer works: {_FIELD} {engine} has to say `separate = True` if "
                "it can, because it does not use the trainer's model"
            )
        return OwnEngine(engine, made)

    return make


def make_engine(config: RunConfig, model: LoadedModel, stack: ExitStack) -> Engine:
    """The configured engine, sampling from the model as it is; `stack` closes it.

    Raises:
        UserError: it cannot run here.
    """
    engine = find_factory(config.rollout.engine)(config, model)
    close: Callable[[], None] | None = getattr(engine, "close", None)
    if close is not None:
        stack.callback(close)
    return engine


class OwnEngine:
    """An engine of the user's own, whose mistakes are errors that name it.

    Args:
        address: in the configuration.
        engine: what was made.
    """

    def __init__(self, address: str, engine: Engine) -> None:
        self.address = address
        self.engine = engine

    @property
    def name(self) -> str:
        """Its own, or its address."""
        return str(getattr(self.engine, "name", self.address))

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
        step: int,
        on_finish: Progress | None = None,
        on_group: Arrival | None = None,
    ) -> list[Group]:
        """See `Engine.generate`; groups that the engine does not hand to `on_group` are handed over at the end.

        Raises:
            UserError: the engine failed, or did not give what was asked for.
        """
        told: list[Group] = []

        def tell(group: Group) -> None:
            self._check([group.prompt], [group], sampling)
            told.append(group)
            if on_group is not None:
                on_group(group)

        generate = self.engine.generate
        groups = self._call("generate", generate, prompts, sampling, seed, step, on_finish, tell)
        self._check(prompts, groups, sampling)
        for group in groups:
            if not any(group is other for other in told):
                tell(group)
        return groups

    def sync(self, model: nn.Module) -> dict[str, float]:
        """See `Engine.sync`."""
        return self._call("sync", self.engine.sync, model) or {}

    def sleep(self) -> None:
        """See `Engine.sleep`."""
        self._call("sleep", self.engine.sleep)

    def close(self) -> None:
        """Let it end what it started."""
        close = getattr(self.engine, "close", None)
        if close is not None:
            self._call("close", close)

    def _call(self, name: str, method: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{_FIELD} {self.address} failed in {name}: {spell_error(error)}") from error

    def _check(self, prompts: Sequence[Prompt], groups: Sequence[Group], sampling: Sampling) -> None:
        said = f"{_FIELD} {self.address}"
        if not isinstance(groups, list) or [id(group.prompt) for group in groups] != [id(each) for each in prompts]:
            raise UserError(f"{said} gave other groups than one for each of {len(prompts)} prompts, in their order")
        for group in groups:
            problem = group.prompt.problem.id
            if len(group.completions) != sampling.n:
                given = f"{len(group.completions)} completions, not {sampling.n}"
                raise UserError(f"{said} gave problem {problem} {given}")
            for number, each in enumerate(group.completions):
                if not 0 < len(each.ids) <= sampling.max_new_tokens or len(each.logprobs) != len(each.ids):
                    given = f"{len(each.ids)} tokens and {len(each.logprobs)} log-probs"
                    raise UserError(
                        f"{said} gave problem {problem}, completion {number}, {given}: there must be 1 to "
                        f"{sampling.max_new_tokens} (the limit) of both"
                    )
                stop = next((text for text in sampling.stop_strings if text in each.text), None)
                if stop is not None and each.finish_reason == "length":
                    raise UserError(
                        f"{said} went on behind {stop!r} in completion {number} of problem {problem}: it has to stop "
                        f"at the strings of sampling.stop_strings; {_PAGE}"
                    )
            refuse_nonfinite(group.prompt, group.completions)
