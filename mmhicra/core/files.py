"""Files that are whole or not there: written beside their name, synced, renamed; a failed write is one line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmhicra.core.errors import RunFolderError

PARTIAL = ".partial"
"""The suffix of a file that is being written; one that a kill left behind is written anew or removed."""

WAY_OUT = "free or choose another run_folder"


@contextmanager
def writing(path: Path, way_out: str = WAY_OUT) -> Iterator[None]:
    """Turn a failed write (no permission, full disk, a folder that is gone) into one line that names the path.

    torch and safetensors wrap the system's error in their own classes, so the wrapped error is searched for.

    Raises:
        RunFolderError: the write failed for a reason that lies outside the program; it says `way_out`.
    """
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}; {way_out}") from error
    except Exception as error:
        wrapped = ("os error", "PytorchStreamWriter", "inline_container", "No space left")
        if not any(sign in str(error) for sign in wrapped):
            raise
        outside = "os error" in str(error) and "No space" not in str(error)
        reason = " ".join(str(error).split()) if outside else "No space left on device"
        raise RunFolderError(f"cannot write {path}: {reason}; {way_out}") from error


def write_whole(path: Path, content: str | bytes, way_out: str = WAY_OUT) -> None:
    """Write `path` so that a kill or a power cut leaves the old file or the new one, never half of one.

    A lone surrogate, which no encoding has, becomes the escape that JSON writes it with.

    Raises:
        RunFolderError: it cannot be written; it says `way_out`.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    partial = path.with_name(path.name + PARTIAL)
    with writing(path, way_out):
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add a line, on disk when this returns.

    Raises:
        RunFolderError: it cannot be written.
    """
    with writing(path), path.open("ab") as file:
        file.write((line + "\n").encode("utf-8", "backslashreplace"))
        file.flush()
        if path.is_file():  # a device cannot be synced
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk, which syncing the files does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems cannot; there a rename is on disk when it returns
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Put a folder with everything below it on disk, readable for whom new files are."""
    mode = 0o666 & ~current_umask()
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
            continue
        path.chmod(mode)  # safetensors makes its files private
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def current_umask() -> int:
    """The permissions that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def free_name(path: Path, suffix: str) -> Path:
    """The first of `path` + `suffix`, `suffix` 2, 3, ... that is not taken."""
    number = 1
    while True:
        name = path.with_name(f"{path.name}{suffix}{number if number > 1 else ''}")
        if not os.path.lexists(name):
            return name
        number += 1


def jsonable(value: Any) -> Any:
    """`value` with non-finite floats as None, which JSON can say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value


def json_text(value: Any, indent: int | None = None) -> str:
    """`value` as JSON text, non-finite floats as null."""
    return json.dumps(jsonable(value), indent=indent, ensure_ascii=indent is not None)
