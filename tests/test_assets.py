from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mmhicra
from mmhicra.cli import main
from mmhicra.config.loading import load_config
from mmhicra.core.errors import UserError
from mmhicra.core.resources import asset_path, find_config, shipped_configs


def test_a_checkout_has_its_assets_beside_the_package():
    path = asset_path("strategic_grams/published_249.json")
    assert path == Path(mmhicra.__file__).resolve().parents[1] / "assets/strategic_grams/published_249.json"
    assert path.is_file()


def test_a_missing_asset_is_refused_by_name():
    with pytest.raises(UserError, match=r"'no/such\.json'"):
        asset_path("no/such.json")


@pytest.mark.parametrize("site", ["lib/python3.11/site-packages", "Lib/site-packages", "."])
def test_an_installed_wheel_finds_its_share_and_not_somebody_elses_assets(site, tmp_path):
    package = Path(mmhicra.__file__).parent
    (tmp_path / site / "mmhicra").mkdir(parents=True)
    shutil.copy(package / "__init__.py", tmp_path / site / "mmhicra")
    shutil.copytree(package / "core", tmp_path / site / "mmhicra" / "core")
    for folder in (tmp_path / "share/mmhicra/assets", tmp_path / site / "assets"):
        folder.mkdir(parents=True)
        (folder / "list.json").write_text("[]")
    found = subprocess.run(
        [sys.executable, "-c", "from mmhicra.core.resources import asset_path; print(asset_path('list.json'))"],
        cwd=tmp_path / site,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == (tmp_path / "share/mmhicra/assets/list.json").resolve()


def test_a_wheel_ships_configurations_every_file_of_eval_and_what_the_package_reads_of_assets():
    root = Path(mmhicra.__file__).resolve().parents[1]
    with (root / "pyproject.toml").open("rb") as file:
        places = tomllib.load(file)["tool"]["setuptools"]["data-files"]
    shipped = {path for patterns in places.values() for pattern in patterns for path in root.glob(pattern)}
    wanted = {path for folder in ("configs", "eval", "assets") for path in (root / folder).rglob("*") if path.is_file()}
    assert {path for path in wanted - shipped if path.suffix != ".png"} == set()
    for place, patterns in places.items():
        for pattern in patterns:
            assert place == "share/mmhicra/" + str(Path(pattern).parent)


def test_a_configuration_is_found_by_name_outside_a_checkout_and_a_file_goes_before_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shipped = Path(mmhicra.__file__).resolve().parents[1] / "configs"
    assert list(shipped_configs()) == sorted(path.stem for path in shipped.glob("*.yaml"))
    for name in ("tiny", "tiny.yaml", "configs/tiny.yaml"):
        assert find_config(name) == str(shipped / "tiny.yaml")
    assert find_config("other") == "other"
    assert main(["configs", "tiny"]) == 0
    (tmp_path / "tiny").write_text(capsys.readouterr().out)
    assert find_config("tiny") == "tiny"
    assert load_config("tiny") == load_config(shipped / "tiny.yaml")
    monkeypatch.chdir(shipped.parent)
    assert find_config("tiny") == "configs/tiny.yaml"


def test_configurations_are_listed_and_an_unknown_one_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["configs"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(shipped_configs())
    assert all(line.endswith(".") and len(line.split()) > 4 for line in listed)
    assert main(["configs", "tinny"]) == 2
    assert "choose one of lab, mimo_vl_7b" in capsys.readouterr().err
    assert main(["train", "--config", "tinny"]) == 2
    assert capsys.readouterr().err.endswith("`mmhicra configs` lists those that ship\n")
