"""Plug-ins: objects of the user's own that the configuration names by an address, found and checked before a run.

An address is `package.module:object` or `./file.py:object`. An object that was handed to the Python API has an address
too, `python:module.name`, under which the run folder's configuration keeps it; it can be found in that process only.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from mmhicra.core.errors import ConfigError, one_line

PYTHON = "python:"
"""How the address of an object begins that was handed to the Python API."""

_GIVEN: dict[str, object] = {}
"""Address -> object, of those that were handed to the Python API."""


def is_address(text: str) -> bool:
    """Whether a name in the configuration is the address of a plug-in; no name that mmhicra knows has a colon."""
    return ":" in text


def give_objects(objects: Sequence[object]) -> list[str]:
    """Keep objects for `load_object`; returns their addresses, made of their own names or their classes'.

    Those of one call that have the same name are numbered. An object of an earlier call is replaced by one of the same
    address, as a cell of a notebook that runs again means.
    """
    addresses: list[str] = []
    for found in objects:
        named = found if hasattr(found, "__qualname__") else type(found)
        name = f"{PYTHON}{getattr(named, '__module__', '__main__')}.{getattr(named, '__qualname__', 'object')}"
        same = sum(address.partition("#")[0] == name for address in addresses)
        addresses.append(f"{name}#{same + 1}" if same else name)
    _GIVEN.update(zip(addresses, objects, strict=True))
    return addresses


def load_object(address: str, field: str, what: str = "object") -> object:
    """Import `package.module:object`, or `object` of a file `./my_file.py:object`.

    Modules are also searched for in the working directory, after everything else, as `python -m` does.

    Args:
        address: of the plug-in.
        field: of the configuration that names it, for the message of an error.
        what: the kind of object that is meant, likewise.

    Raises:
        ConfigError: the address is not of that form, there is no such module, file or object, or importing it fails.
    """
    if address in _GIVEN:
        return _GIVEN[address]
    if address.startswith(PYTHON):
        raise ConfigError(
            f"{field}: {address!r} was given to mmhicra as a Python object, which only the script that did so has: "
            "resume from there (resume=True), or name a file, ./file.py:object"
        )
    module, _, name = address.rpartition(":")
    if not module or not name.isidentifier():
        raise ConfigError(f"{field}: {address!r} must read package.module:{what} or ./file.py:{what}")
    try:
        return getattr(_import_file(Path(module)) if module.endswith(".py") else _import_module(module), name)
    except (ImportError, AttributeError, FileNotFoundError) as error:
        hint = "" if module.endswith(".py") else "; is it on PYTHONPATH? A file is named with its ending, ./file.py:f"
        raise ConfigError(f"{field}: cannot load {address!r}: {spell_error(error)}{hint}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{field}: {address!r} fails when it is imported: {spell_error(error)}") from error


def check_call(
    function: object, address: str, field: str, arguments: Sequence[str], form: str, may_be_async: bool = False
) -> Callable[..., object]:
    """The function, if it can be called with so many arguments and is async only where it may be.

    Args:
        function: what `load_object` found.
        address: where.
        field: of the configuration.
        arguments: the names of those that it is called with, in order.
        form: how it is called and what it returns, with the page that says more.
        may_be_async: whether its caller awaits what an async function gives.

    Raises:
        ConfigError: it cannot.
    """
    if not callable(function):
        raise ConfigError(f"{field}: {address!r} is not a function")
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    if is_async and not may_be_async:
        raise ConfigError(f"{field}: {address!r} is an async function: make it a plain one; {form}")
    signature = signature_of(function)
    if signature is not None:
        try:
            signature.bind(*arguments)
        except TypeError as error:
            wrong = f"takes {signature} and cannot be called with {_count(arguments)} ({error})"
            raise ConfigError(f"{field}: {address!r} {wrong}: {form}") from error
    return function


def signature_of(function: Callable[..., object]) -> inspect.Signature | None:
    """The signature; None of a compiled function that has none, where only a call shows what it takes."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def spell_error(error: BaseException, longest: int = 200) -> str:
    """Somebody else's error in one line."""
    said = one_line(str(error), limit=400)
    said = said if len(said) <= longest else said[: longest - 3] + "..."
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _import_module(name: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return importlib.import_module(name)


def _import_file(file: Path) -> ModuleType:
    """The module of a file, imported once; its folder is searched for what it imports, after everything else."""
    file = file.expanduser().resolve()
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    name = f"mmhicra_plugin_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _count(arguments: Sequence[str]) -> str:
    words = ("no arguments", "one argument", "two arguments", "three arguments")
    return words[len(arguments)] if len(arguments) < len(words) else f"{len(arguments)} arguments"
