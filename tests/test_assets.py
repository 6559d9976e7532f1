from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mmhicra
from mmhicra.assets import asset_path
from mmhicra.refusals import Refusal


def test_a_checkout_has_its_assets_beside_the_package():
    path = asset_path("strategic_grams/published_249.json")
    assert path == Path(mmhicra.__file__).resolve().parents[1] / "assets/strategic_grams/published_249.json"
    assert path.is_file()


def test_a_missing_asset_is_refused_by_name():
    with pytest.raises(Refusal, match=r"'no/such\.json'"):
        asset_path("no/such.json")


@pytest.mark.parametrize("site", ["lib/python3.11/site-packages", "Lib/site-packages", "."])
def test_an_installed_wheel_finds_its_share_and_not_somebody_elses_assets(site, tmp_path):
    package = Path(mmhicra.__file__).parent
    (tmp_path / site / "mmhicra").mkdir(parents=True)
    for name in ("__init__.py", "assets.py", "refusals.py"):
        shutil.copy(package / name, tmp_path / site / "mmhicra" / name)
    for folder in (tmp_path / "share/mmhicra/assets", tmp_path / site / "assets"):
        folder.mkdir(parents=True)
        (folder / "list.json").write_text("[]")
    found = subprocess.run(
        [sys.executable, "-c", "from mmhicra.assets import asset_path; print(asset_path('list.json'))"],
        cwd=tmp_path / site,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == (tmp_path / "share/mmhicra/assets/list.json").resolve()


def test_a_wheel_ships_every_file_of_eval_and_what_the_package_reads_of_assets():
    root = Path(mmhicra.__file__).resolve().parents[1]
    with (root / "pyproject.toml").open("rb") as file:
        places = tomllib.load(file)["tool"]["setuptools"]["data-files"]
    shipped = {path for patterns in places.values() for pattern in patterns for path in root.glob(pattern)}
    wanted = {path for folder in ("eval", "assets") for path in (root / folder).rglob("*") if path.is_file()}
    assert {path for path in wanted - shipped if path.suffix != ".png"} == set()
    for place, patterns in places.items():
        for pattern in patterns:
            assert place == "share/mmhicra/" + str(Path(pattern).parent)
