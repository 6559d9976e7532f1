"""Packages that can be called: `mmhicra.train` and `mmhicra.evaluate` are packages, and functions of the Python API.

Importing a submodule sets the package's name in `mmhicra` to the package, whatever stood there before. So the package
itself has to be what is called; the function behind it is imported by the first call.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A module that hands calls on to a function of another one."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function."""
        module, _, name = vars(self)["_call"].partition(":")
        return getattr(importlib.import_module(module), name)(*arguments, **options)


def make_callable(module: str, function: str) -> None:
    """Let the module of this name, which is being imported, be called.

    Args:
        module: its `__name__`.
        function: what a call calls, `package.module:function`; `help(function)` tells of it.
    """
    made = sys.modules[module]
    made.__class__ = CallableModule
    vars(made)["_call"] = function
