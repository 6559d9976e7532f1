"""What vLLM's workers do for the trainer: take weights that are streamed to them, and say what they hold.

vLLM mixes `TrainedWorker` into its own worker class, wherever that runs, and calls its methods by name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmhicra.vlm.weights import checksum

QUALIFIED_NAME = f"{__name__}.TrainedWorker"


@dataclass(frozen=True)
class Held:
    """A parameter of a worker: its name there, its checksum, and how many elements it has."""

    name: str
    checksum: int
    elements: int
    dtype: str


class TrainedWorker:
    """Methods that `LLM.collective_rpc` reaches."""

    model_runner: Any
    vllm_config: Any

    def take_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load weights by their checkpoint names, in place; layers that do not come keep theirs.

        A layer that several weights make up, such as one projection for queries, keys and values, must get them all.
        No cache is reset: the caller knows which are stale.
        """
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload.inplace import reload_weights

        model = self.model_runner.get_model()
        with set_current_vllm_config(self.vllm_config):
            reload_weights(
                self.vllm_config, model, weights_iterator=weights, weights_path=None, is_checkpoint_format=True
            )
            for layer in tied_layers(model):
                # vLLM's CPU build multiplies by a packed copy of each weight. The one of a head that is tied to the
                # embeddings stays old, because no weight of that name comes.
                layer.quant_method.process_weights_after_loading(layer)

    def held_weights(self, names: Sequence[str]) -> dict[str, Held]:
        """The parameter that each weight of a checkpoint went to; those that cannot be told are left out.

        Several weights may share one.
        """
        model = self.model_runner.get_model()
        parameters = dict(model.named_parameters())
        mappers = mappers_of(model)
        places = {name: place for name in names if (place := place_of(name, mappers, model, parameters.keys()))}
        held = {
            place: Held(place, checksum(parameters[place]), parameters[place].numel(), str(parameters[place].dtype))
            for place in set(places.values())
        }
        return {name: held[place] for name, place in places.items()}


def tied_layers(model: nn.Module) -> list[Any]:
    """The layers that share their weight with another."""
    owners: dict[int, list[Any]] = {}
    for layer in model.modules():
        if isinstance(weight := getattr(layer, "weight", None), nn.Parameter):
            owners.setdefault(id(weight), []).append(layer)
    return [layer for layers in owners.values() if len(layers) > 1 for layer in layers]


def mappers_of(model: nn.Module) -> list[tuple[str, Any]]:
    """Every module that renames weights as it loads them, with its path, outermost first."""
    found = [(path, module.hf_to_vllm_mapper) for path, module in model.named_modules() if _renames(module)]
    return sorted(found, key=lambda pair: pair[0].count(".") if pair[0] else -1)


def place_of(name: str, mappers: Sequence[tuple[str, Any]], model: Any, known: Collection[str]) -> str | None:
    """The parameter in `known` that the weight `name` of a checkpoint is loaded into, None if there is none."""
    place: str | None = name
    for path, mapper in mappers:
        prefix = f"{path}." if path else ""
        if place is None or not place.startswith(prefix):
            continue
        inner = mapper.map_name(place.removeprefix(prefix))
        place = None if inner is None else prefix + inner
    if place is None or place in known:
        return place
    packed: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    for whole, parts in packed.items():
        for part in parts:
            candidate = place.replace(f".{part}.", f".{whole}.")
            if candidate in known:
                return candidate
    return None


def _renames(module: nn.Module) -> bool:
    return getattr(module, "hf_to_vllm_mapper", None) is not None
