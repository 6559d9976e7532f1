"""The data that ships with mmhicra: configurations, Strategic Grams, the tiny VLMs, benchmark cards."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from mmhicra.core.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
_DATA = "_data"
"""The folder inside an installed package that the build copies `assets/`, `configs/` and `eval/` to (`setup.py`)."""


def asset_path(name: str) -> Path:
    """The file or folder `assets/<name>` of a checkout, or its copy inside an installed package.

    Args:
        name: relative to `assets/`, e.g. `tiny_vlm` or `strategic_grams/published_249.json`.

    Raises:
        UserError: this installation does not have it.
    """
    return _shipped("assets", name)


def evaluation_path(name: str) -> Path:
    """The file `eval/<name>` of a checkout, or its copy inside an installed package, like `asset_path`.

    Args:
        name: relative to `eval/`, e.g. `cards/mathvista.yaml`.

    Raises:
        UserError: this installation does not have it.
    """
    return _shipped("eval", name)


def shipped_configs() -> dict[str, Path]:
    """The configurations of `configs/`, by the name that `--config` takes: the file's without `.yaml`."""
    found = {path.stem: path for folder in reversed(_folders("configs")) for path in sorted(folder.glob("*.yaml"))}
    return dict(sorted(found.items()))


def find_config(name: str) -> str:
    """The file that `--config NAME` means: one that is there, else the shipped configuration of that name.

    Returns:
        The file's path, relative to the working directory if it lies below that; of an unknown name the name itself,
        which then cannot be read.
    """
    shipped = shipped_configs().get(name.removeprefix("configs/").removesuffix(".yaml"))
    if Path(name).is_file() or shipped is None:
        return name
    return str(shipped.relative_to(Path.cwd()) if shipped.is_relative_to(Path.cwd()) else shipped)


def _shipped(kind: str, name: str) -> Path:
    for folder in _folders(kind):
        if (folder / name).exists():
            return folder / name
    raise UserError(f"asset {name!r} is missing from this installation of mmhicra ({_PACKAGE}): reinstall mmhicra")


def checkout() -> Path | None:
    """The root of the repository, if mmhicra runs from one."""
    # Beside a package in site-packages, `assets` would be somebody else's.
    return _PACKAGE.parent if (_PACKAGE.parent / "pyproject.toml").is_file() else None


def _folders(kind: str) -> list[Path]:
    root = checkout()
    own = [root / kind] if root else []
    return [*own, Path(str(files("mmhicra").joinpath(_DATA, kind)))]
