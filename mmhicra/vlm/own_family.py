"""A family of the user's own, named by its address: `model.family: ./family.py:FAMILY`.

It holds for the model that names it alone; one that `auto` should find too is registered (`family.register_family`).
"""

from __future__ import annotations

from transformers import PreTrainedConfig

from mmhicra.core.errors import ConfigError
from mmhicra.core.plugins import is_address, load_object, spell_error
from mmhicra.vlm.family import FAMILIES, Family, family_of

_FIELD = "model.family"


def choose_family(config: PreTrainedConfig, path: str, requested: str, chat_template: str | None = None) -> Family:
    """The family that `model.family` names, by name or address; arguments and errors as of `family_of`."""
    if not is_address(requested):
        return family_of(config, path, requested, chat_template)
    family = load_family(requested)
    declared = list(config.architectures or [])
    if family.model_type != config.model_type or (declared and family.architecture not in declared):
        found = ", ".join(declared) or f"{config.model_type} model"
        raise ConfigError(
            f"{_FIELD} {requested} is for {family.architecture} (model_type {family.model_type}), but model.path "
            f"{path} is a {found}: set {_FIELD} to auto, or mend the family"
        )
    return family


def load_family(address: str) -> Family:
    """The family at an address: an object of a subclass of `Family`, or what makes one without arguments.

    Raises:
        ConfigError: there is none, it cannot be made, or it has the name of one that ships.
    """
    found = load_object(address, _FIELD)
    if callable(found):
        try:
            found = found()
        except Exception as error:
            raise ConfigError(f"{_FIELD}: {address!r} cannot be made: {spell_error(error)}") from error
    if not isinstance(found, Family):
        raise ConfigError(
            f"{_FIELD}: {address!r} is a {type(found).__name__}, not an object of a subclass of "
            "mmhicra.vlm.family.Family; see docs/extend/family.md"
        )
    if FAMILIES.get(found.name, found) is not found:
        raise ConfigError(f"{_FIELD}: {address!r} has the name {found.name}, which another has: give it another")
    return found
