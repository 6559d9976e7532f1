"""Checksums of a checkpoint's files, written last: a checkpoint whose files differ from them is damaged.

xxh3 with 128 bits finds any accident at the speed of the disk; it is no seal against intent. Two equal runs have equal
manifests: what measures time is left out of the checksum of `state.json`, and has its own inside that file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from mmhicra.core.errors import RunFolderError
from mmhicra.core.files import json_text

MANIFEST = "manifest.json"
CHECKSUM = "xxh3_128"
STATE = "trainer_state"
STATE_FILE = f"{STATE}/state.json"
TIMED = "seconds"
"""The part of `state.json` that no two runs share."""

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""The errors that reading a damaged manifest or state raises."""

CHUNK = 2**24
"""Bytes that are read at a time."""


def write_manifest(folder: Path, known: Mapping[str, dict[str, Any]] | None = None) -> None:
    """List every file below `folder` with its size and checksum in `manifest.json`.

    Args:
        folder: of a checkpoint.
        known: what is to be said of some files, by their path in it: they are not read again.

    Raises:
        OSError: a file cannot be read, or the list not be written.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    known = known or {}
    files = {name: known[name] if name in known else entry(folder, path) for name, path in names.items()}
    text = json.dumps({"checksum": CHECKSUM, "files": files}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def entry(folder: Path, path: Path) -> dict[str, Any]:
    """What the manifest says of one file."""
    if path.relative_to(folder).as_posix() == STATE_FILE:
        return {"checksum": state_checksum(json.loads(path.read_text(encoding="utf-8")))}
    return {"bytes": path.stat().st_size, "checksum": checksum(path)}


def checksum(path: Path) -> str:
    """xxh3_128 of a file's bytes."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def state_checksum(state: dict[str, Any]) -> str:
    """xxh3_128 of what `state.json` says, without times."""
    return json_checksum({key: value for key, value in state.items() if key != TIMED})


def json_checksum(value: Any) -> str:
    """xxh3_128 of a JSON value, however it is laid out."""
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())


def pack_times(times: dict[str, Any]) -> dict[str, Any]:
    """Pack times together with a checksum of them."""
    return {**times, "checksum": json_checksum(json.loads(json_text(times)))}


def damage(folder: Path, step: int) -> str | None:
    """Why the checkpoint of `step` cannot be used, None if it is whole: the first file that is not what was written.

    Files that the manifest does not name are of no interest.
    """
    if not folder.is_dir():
        return "it is no folder"
    try:
        files = json.loads((folder / MANIFEST).read_bytes())["files"]
        for name, facts in files.items():
            if reason := file_damage(folder, name, facts):
                return reason
    except OSError:
        unchecked = ": an mmhicra before checksums wrote it, or it was not copied with it"
        return f"{MANIFEST} is missing{unchecked if (folder / STATE_FILE).is_file() else ''}"
    except UNREADABLE:
        return f"{MANIFEST} cannot be read"
    if STATE_FILE not in files:
        return f"{MANIFEST} does not name {STATE_FILE}"
    written = json.loads((folder / STATE_FILE).read_bytes()).get("step")
    return None if written == step else f"it is a copy of step {written}"


def refuse_damaged_model(folder: Path) -> None:
    """Stop if the model in a checkpoint is another one than was written; what a resume needs may be gone.

    A folder without a manifest is somebody else's, and nothing says what was in it.

    Raises:
        RunFolderError: names the file.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if not isinstance(manifest, dict) or manifest.get("checksum") != CHECKSUM:
            return  # of another program
        model = {name: facts for name, facts in manifest["files"].items() if Path(name).parts[0] != STATE}
        reason = next((why for name, facts in model.items() if (why := file_damage(folder, name, facts))), None)
    except OSError:
        return
    except UNREADABLE:
        if not (folder / STATE_FILE).exists():
            return
        reason = f"{MANIFEST} cannot be read"
    if reason is not None:
        raise RunFolderError(
            f"the checkpoint {folder} is damaged: {reason}; take another one, or remove its {MANIFEST} if it was "
            "changed on purpose"
        )


def file_damage(folder: Path, name: str, facts: dict[str, Any]) -> str | None:
    """Why one file is not what the manifest says."""
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    try:
        if name == STATE_FILE:
            return state_damage(path, facts)
        if path.stat().st_size != facts["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, not {facts['bytes']}"
        return None if checksum(path) == facts["checksum"] else f"{name} has other bytes than were written"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"


def state_damage(path: Path, facts: dict[str, Any]) -> str | None:
    """Why `state.json` is not what the manifest says."""
    try:
        state = json.loads(path.read_bytes())
        times = {key: value for key, value in state[TIMED].items() if key != "checksum"}
        whole = state_checksum(state) == facts["checksum"] and json_checksum(times) == state[TIMED]["checksum"]
    except UNREADABLE:
        return f"{STATE_FILE} cannot be read"
    return None if whole else f"{STATE_FILE} says something else than was written"


def remove_listed(folder: Path) -> None:
    """Remove the files that a checkpoint's manifest names, the manifest last, and folders that are empty then.

    What somebody else put there stays, and so does a folder without a manifest.
    """
    try:
        names = list(json.loads((folder / MANIFEST).read_bytes())["files"])
        places = [folder / name for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts]
    except (OSError, ValueError, KeyError, TypeError):
        places = []
    else:
        for place in places:
            if place.is_file() or place.is_symlink():
                place.unlink()
        (folder / MANIFEST).unlink()
    below = sorted((path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()), reverse=True)
    for empty in (*below, folder):
        if not any(empty.iterdir()):
            empty.rmdir()
