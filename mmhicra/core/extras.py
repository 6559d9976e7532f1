"""Packages that only some commands need, and the extra of the installation that brings each of them."""

from __future__ import annotations

import importlib.util

from mmhicra.core.errors import UserError

EXTRAS = {
    "mine": ("sklearn", "threadpoolctl", "sentence_transformers"),
    "judge": ("openai",),
    "vllm": ("vllm",),
    "lmms": ("lmms_eval", "evaluate", "loguru", "sacrebleu", "pytablewriter", "Levenshtein", "tenacity"),
    "bench": ("trl",),
    "qlora": ("bitsandbytes",),
    "torchao": ("torchao",),
    "liger": ("liger_kernel",),
}
"""Extra of `pip install 'mmhicra[EXTRA]'` -> the modules that are imported from it."""


def is_installed(module: str) -> bool:
    """Whether a module could be imported; it is not."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: something has put a module without a specification in its place
        return False


def require_extra(extra: str, what: str) -> None:
    """Refuse what cannot be done without an extra; cheap, so that it can come before any work.

    Args:
        extra: one of `EXTRAS`.
        what: needs it; the line begins with it.

    Raises:
        UserError: some of its packages are not installed.
    """
    missing = [module for module in EXTRAS[extra] if not is_installed(module)]
    if missing:
        raise UserError(missing_line(what, missing, extra))


def extra_of(module: str | None) -> str | None:
    """The extra that brings a module, whose name may have dots; None for any other."""
    top = (module or "").partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if top in modules), None)


def missing_line(what: str, missing: list[str], extra: str) -> str:
    """One line that names what is missing and how to get it."""
    are = "is" if len(missing) == 1 else "are"
    return f"{what} needs {', '.join(missing)}, which {are} not installed: pip install 'mmhicra[{extra}]'"
