"""Where the data that ships with mmhicra lies: strategic grams, the tiny VLM, demo images."""

from __future__ import annotations

from pathlib import Path

from mmhicra.refusals import Refusal

_PACKAGE = Path(__file__).resolve().parent
_SHARE = Path("share", "mmhicra", "assets")


def asset_path(name: str) -> Path:
    """The file or folder `assets/<name>` of a checkout, or its copy in an installed wheel.

    A wheel's data files go to `<prefix>/share/mmhicra/assets`. How far above the package that prefix is,
    depends on the scheme (virtual environment, `--user`, `--target`), hence the walk upwards.

    Args:
        name: relative to `assets/`, e.g. `tiny_vlm` or `strategic_grams/published_249.json`.

    Raises:
        Refusal: this installation does not have it.
    """
    for folder in _asset_folders():
        if (folder / name).exists():
            return folder / name
    raise Refusal(f"asset {name!r} is missing from this installation of mmhicra ({_PACKAGE}): reinstall mmhicra")


def _asset_folders() -> list[Path]:
    checkout = _PACKAGE.parent
    # Beside a package in site-packages, `assets` would be somebody else's.
    own = [checkout / "assets"] if (checkout / "pyproject.toml").is_file() else []
    return own + [folder / _SHARE for folder in _PACKAGE.parents]
