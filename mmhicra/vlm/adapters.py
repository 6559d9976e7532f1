"""New adapters: which layers get one, of which rank, as peft is told.

A model has three parts: the vision tower, the merger inside it, and the language model. Adapters go on linear layers of
the parts that `model.freeze` leaves free; the weights under them stay as they are. The head never gets one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from peft import LoraConfig as PeftOptions
from peft import PeftModel, get_peft_model
from peft.utils.other import get_pattern_key
from torch import nn

from mmhicra.config import FreezeConfig, LoraConfig
from mmhicra.core.errors import ConfigError
from mmhicra.vlm.family import Family

Part = Literal["vision_tower", "merger", "language_model"]
PARTS: tuple[Part, ...] = ("vision_tower", "merger", "language_model")
ADAPTER = "default"
"""What peft calls the one adapter of a model."""


def add_adapters(policy: nn.Module, family: Family, freeze: FreezeConfig, lora: LoraConfig, seed: int) -> PeftModel:
    """Freeze `policy` and wrap it with new adapters.

    Args:
        policy: a whole model.
        family: the model's.
        freeze: which parts get none.
        lora: what they are like.
        seed: of their initial weights; the global random state is left alone.

    Raises:
        ConfigError: a target or a pattern names no linear layer of a free part, or a free part gets nothing.
    """
    places = free_layers(policy, family, freeze, lora)
    chosen = [name for names in places.values() for name in names]
    for field, pattern in (("rank_pattern", lora.rank_pattern), ("alpha_pattern", lora.alpha_pattern)):
        _check_pattern(field, pattern, chosen)
    options = PeftOptions(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_expression(policy, family, freeze, lora, places),
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        use_dora=lora.dora,
        use_rslora=lora.rslora,
        modules_to_save=list(merger_names(policy, family)) if lora.full_merger else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return wrap(policy, options)


def wrap(policy: nn.Module, options: PeftOptions) -> PeftModel:
    """`get_peft_model`, for a model that is no more than a module to the type checker."""
    wrapped: Any = get_peft_model(policy, options)  # pyright: ignore[reportArgumentType]
    return wrapped


def free_layers(policy: nn.Module, family: Family, freeze: FreezeConfig, lora: LoraConfig) -> dict[Part, list[str]]:
    """Part -> full names of the layers that get an adapter; a part that gets none is left out.

    Raises:
        ConfigError: see `add_adapters`.
    """
    linear: dict[Part, list[str]] = {}
    for part, names in linear_layers(policy, family).items():
        if not getattr(freeze, part):
            linear[part] = names
    if lora.full_merger:
        linear.pop("merger", None)
    known = sorted({_last(name) for names in linear.values() for name in names})
    wanted = known if lora.targets == "all-linear" else list(lora.targets)
    strange = [target for target in wanted if not any(_is(name, target) for names in linear.values() for name in names)]
    if strange or not wanted:
        parts = " and ".join(part.replace("_", " ") for part in linear) or "parts that are not frozen"
        raise ConfigError(
            f"model.lora.targets: {strange[0] if strange else 'nothing'} is not a linear layer of the {parts}: "
            f"choose from {', '.join(known)}"
        )
    chosen: dict[Part, list[str]] = {}
    for part, names in linear.items():
        chosen[part] = [name for name in names if any(_is(name, target) for target in wanted)]
        if not chosen[part]:
            own = ", ".join(sorted({_last(name) for name in names}))
            full = ", or model.lora.full_merger to true" if part == "merger" else ""
            raise ConfigError(
                f"model.freeze.{part} is false, but model.lora.targets names no layer of it ({own}): set "
                f"model.lora.targets to all-linear or add them{full}, or set model.freeze.{part} to true"
            )
    return chosen


def linear_layers(policy: nn.Module, family: Family) -> dict[Part, list[str]]:
    """Full names of all linear layers by part, in the order of the model."""
    found: dict[Part, list[str]] = {part: [] for part in PARTS}
    part_of = part_finder(policy, family)
    for name, module in policy.named_modules():
        if isinstance(module, nn.Linear) and (part := part_of(name)) is not None:
            found[part].append(name)
    return found


def merger_names(policy: nn.Module, family: Family) -> list[str]:
    """The full names of what turns patches into image tokens."""
    wanted = {id(module) for module in family.merger(policy)}
    return [name for name, module in policy.named_modules() if id(module) in wanted]


def name_in(model: nn.Module, wanted: nn.Module) -> str:
    """The full name of a module."""
    return next(name for name, module in model.named_modules() if module is wanted)


def adapter_sizes(policy: nn.Module, family: Family, freeze: FreezeConfig, lora: LoraConfig) -> tuple[list[int], int]:
    """Sizes of the tensors that new adapters train, and the ranks of a decoder layer's adapters added up.

    Args:
        policy: a whole model, or one without weights.
        family: the model's.
        freeze: which parts get none.
        lora: what they are like.
    """
    modules: dict[str, Any] = dict(policy.named_modules())
    sizes: list[int] = []
    decoder = 0
    for part, names in free_layers(policy, family, freeze, lora).items():
        for name in names:
            rank = rank_of(name, lora.rank, lora.rank_pattern)
            layer = modules[name]
            sizes += [rank * layer.in_features, rank * layer.out_features, *([layer.out_features] if lora.dora else [])]
            decoder += rank if part == "language_model" else 0
    if lora.full_merger:
        sizes += [parameter.numel() for merger in family.merger(policy) for parameter in merger.parameters()]
    return sizes, decoder // max(1, len(family.language_model(policy).layers))


def rank_of(name: str, rank: int, pattern: Mapping[str, int]) -> int:
    """What peft makes of a pattern for the layer `name`; the same for alpha."""
    return pattern.get(get_pattern_key(list(pattern), name), rank)


def _check_pattern(field: str, pattern: Mapping[str, int], chosen: Sequence[str]) -> None:
    for key in pattern:
        try:
            found = any(get_pattern_key([key], name) == key for name in chosen)
        except re.error as error:
            raise ConfigError(f"model.lora.{field}: {key} is no regular expression ({error})") from None
        if not found:
            raise ConfigError(
                f"model.lora.{field}: {key} is the end of no layer that gets an adapter: name one, e.g. {chosen[0]}"
            )


def _expression(
    policy: nn.Module, family: Family, freeze: FreezeConfig, lora: LoraConfig, places: Mapping[Part, Sequence[str]]
) -> str:
    """One regular expression for the full names in `places`: the vision tower of Qwen2.5-VL has a `gate_proj`, too."""
    parts: list[str] = []
    for part, names in places.items():
        if lora.targets == "all-linear":
            wanted = sorted({_last(name) for name in names})
        else:
            wanted = [target for target in lora.targets if any(_is(name, target) for name in names)]
        ends = "|".join(map(re.escape, wanted))
        if part == "language_model":
            prefix = re.escape(name_in(policy, family.language_model(policy)) + ".layers")
            parts.append(rf"{prefix}\.\d+\.(?:.+\.)?(?:{ends})")
        elif part == "merger":
            mergers = "|".join(map(re.escape, merger_names(policy, family)))
            parts.append(rf"(?:{mergers})\.(?:.+\.)?(?:{ends})")
        else:
            tower = name_in(policy, family.vision_tower(policy)) + "."
            # Not the whole tower: its embedding of patches is called `proj`, too, and is a convolution.
            blocks = sorted({name.removeprefix(tower).partition(".")[0] for name in names})
            parts.append(rf"{re.escape(tower)}(?:{'|'.join(map(re.escape, blocks))})\.(?:.+\.)?(?:{ends})")
    return "|".join(parts)


def part_finder(policy: nn.Module, family: Family) -> Callable[[str], Part | None]:
    """A function that says to which part a layer of this name belongs, None if to none."""
    mergers = tuple(f"{name}." for name in merger_names(policy, family))
    tower = f"{name_in(policy, family.vision_tower(policy))}."
    layers = f"{name_in(policy, family.language_model(policy))}.layers."

    def part_of(name: str) -> Part | None:
        if name.startswith(mergers):
            return "merger"
        if name.startswith(tower):
            return "vision_tower"
        return "language_model" if name.startswith(layers) else None

    return part_of


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every layer with an adapter and its name in the model without peft."""
    from peft.tuners.lora import LoraLayer

    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    for name, module in inner.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _is(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
