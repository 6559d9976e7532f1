"""A model without its weights or processor, by its configuration alone: a folder's, one that ships, or a hub's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from mmhicra.config import ModelConfig
from mmhicra.core.errors import UserError, one_line
from mmhicra.core.resources import asset_path
from mmhicra.vlm.family import FAMILIES, Family
from mmhicra.vlm.loading import HUB_ID, SHIPPED, read_config
from mmhicra.vlm.own_family import choose_family
from mmhicra.vlm.shape import ModelShape, empty_model, shape_of


@dataclass(frozen=True)
class KnownShape:
    """A model whose shape ships in `assets/shapes/`.

    Attributes:
        model: its hub id.
        family: of `vlm.family`.
        source: the page that its configuration stands on.
        billions: of parameters, as that page says.
        config: what of the configuration decides the shape.
    """

    model: str
    family: str
    source: str
    billions: float
    config: dict[str, Any]


@cache
def known_shapes() -> dict[str, KnownShape]:
    """By hub id, the smallest first."""
    trees = [json.loads(path.read_text(encoding="utf-8")) for path in asset_path("shapes").glob("*.json")]
    shapes = sorted((KnownShape(**tree) for tree in trees), key=lambda shape: shape.billions)
    return {shape.model: shape for shape in shapes}


def configuration_of(known: KnownShape) -> Any:
    """As transformers has it."""
    tree = dict(known.config)
    return AutoConfig.for_model(tree.pop("model_type"), **tree)


@cache
def empty_of(model: str, family: Family) -> Any:
    """A model that ships as a shape, without weights; whoever freezes parts of it does so anew."""
    return empty_model(configuration_of(known_shapes()[model]), family)


def find_model(options: ModelConfig) -> tuple[Any, Family, str]:
    """The model without weights, its family, and where its configuration comes from.

    Raises:
        UserError: there is no configuration to be had.
    """
    path = str(asset_path(options.path)) if options.path in SHIPPED else options.path
    known = known_shapes().get(options.path)
    if known is not None and not Path(path).is_dir():
        family = FAMILIES[known.family]
        if options.family not in ("auto", known.family):
            family = choose_family(configuration_of(known), path, options.family)
        return empty_of(known.model, family), family, f"the shape that ships with mmhicra, of {known.source}"
    folder, names = Path(path).expanduser(), ", ".join(known_shapes())
    way_out = f"name a folder that holds its config.json, or one of {names}"
    if not folder.is_dir() and (path.startswith(".") or not HUB_ID.fullmatch(path)):
        raise UserError(f"model.path {options.path}: no such folder, and not a hub id (owner/name): {way_out}")
    try:
        config = read_config(str(folder) if folder.is_dir() else path, options.family)
    except UserError as refusal:
        reason = one_line(str(refusal), 200)
        raise UserError(f"model.path {options.path}: its configuration cannot be read ({reason}): {way_out}") from None
    family = choose_family(config, path, options.family)
    return empty_model(config, family), family, f"config.json of {options.path}"


def shape_by_config(options: ModelConfig) -> ModelShape:
    """The shape of a model, frozen and adapted as `options` say."""
    empty, family, _ = find_model(options)
    return shape_of(empty, family, options)
