"""Secrets taken out of a configuration before it is logged or sent to a service."""

from __future__ import annotations

import re
from typing import Any

REMOVED = "(removed)"

_NAMES = frozenset(
    {"key", "apikey", "token", "secret", "password", "passwd", "pwd", "passphrase", "credential", "credentials"}
    | {"auth", "authorization", "bearer"}
)
"""Words of a name whose value is a secret; `max_prompt_tokens` has none of them, `api_key_env` names a variable."""
_NOT_ITSELF = frozenset({"env", "file", "path", "name"})
"""Last words of a name whose value says where a secret lies."""
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|AKIA[A-Z0-9]{12,}"
    r"|(?<=Bearer )\S{8,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
)
"""Keys of well-known services, whatever field they stand in."""
_ADDRESS = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)([^\s/?#@]*@)?([^\s?#]*)(\?[^\s#]*)?(#\S*)?")
"""A URL: scheme, user and password, place, query, fragment."""


def without_secrets(tree: Any, name: str = "") -> Any:
    """A plain tree with every secret replaced by `(removed)`.

    A secret is a text under a name such as `api_key`, a user, password or query in a URL, and what looks like the key
    of a well-known service.
    """
    if isinstance(tree, dict):
        return {key: without_secrets(value, str(key)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_secrets(value, name) for value in tree]
    if not isinstance(tree, str) or not tree:
        return tree
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    if _NAMES & set(words) and words[-1] not in _NOT_ITSELF:
        return REMOVED
    return _SHAPES.sub(REMOVED, _ADDRESS.sub(_plain_address, tree))


def _plain_address(found: re.Match[str]) -> str:
    scheme, user, place, query, fragment = found.groups()
    return f"{scheme}{REMOVED + '@' if user else ''}{place}{'?' + REMOVED if query or fragment else ''}"
