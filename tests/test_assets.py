from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
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


def test_an_installed_package_has_its_data_inside_and_no_use_for_somebody_elses_assets(tmp_path):
    package, site = Path(mmhicra.__file__).parent, tmp_path / "lib/python3.11/site-packages"
    (site / "mmhicra").mkdir(parents=True)
    shutil.copy(package / "__init__.py", site / "mmhicra")
    shutil.copytree(package / "core", site / "mmhicra" / "core")
    for folder in (site / "mmhicra/_data/assets", site / "assets"):
        folder.mkdir(parents=True)
        (folder / "list.json").write_text("[]")
    found = subprocess.run(
        [sys.executable, "-c", "from mmhicra.core.resources import asset_path; print(asset_path('list.json'))"],
        cwd=site,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert Path(found.stdout.strip()) == (site / "mmhicra/_data/assets/list.json").resolve()


def test_a_build_takes_every_configuration_every_file_of_eval_and_what_the_package_reads_of_assets(monkeypatch):
    root = Path(mmhicra.__file__).resolve().parents[1]
    monkeypatch.chdir(root)
    monkeypatch.setattr("setuptools.setup", lambda **options: None)
    shipped = {root / path for path in runpy.run_path(str(root / "setup.py"))["data_files"]()}
    wanted = {path for folder in ("configs", "eval", "assets") for path in (root / folder).rglob("*") if path.is_file()}
    assert {path for path in wanted if path.suffix != ".png"} == shipped


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
