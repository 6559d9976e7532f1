"""Tiny random models of every family, made once a session, and problems to put to them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from faults.spawner import Child, fork
from made_data import DataFolder, write_data
from PIL import Image
from real_data import REAL_DATA, mark_real_data
from short_runs import SHORT_LAB, STRONG, run

from mmhicra.cli import main
from mmhicra.config import ModelConfig
from mmhicra.core.records import Problem, ProblemImage
from mmhicra.lab.runs import LOG, LabRun
from mmhicra.vlm.loading import LoadedModel, load_policy
from tools.tiny_vlm.factory import make_tiny


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_real_data(items)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets; tests that use it are marked and skipped without it."""
    return REAL_DATA


@pytest.fixture(scope="session")
def made_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small made files in the places and forms of the real data sets. Not to be written to."""
    return write_data(tmp_path_factory.mktemp("made_data"))


MADE_AND_REAL = ["made", pytest.param("real", marks=pytest.mark.real_data)]


@pytest.fixture(params=MADE_AND_REAL)
def geometry3k(request: pytest.FixtureRequest) -> Path:
    """The folder of Geometry3K, made and real, for tests whose own scenes last longer than a module's data."""
    return request.getfixturevalue(f"{request.param}_data") / "geometry3k"


@pytest.fixture(scope="session", params=MADE_AND_REAL)
def data_folder(request: pytest.FixtureRequest) -> DataFolder:
    """The made data sets and, where there are some, the real ones."""
    return DataFolder(request.getfixturevalue(f"{request.param}_data"), real=request.param == "real")


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family name -> a model folder of its true architecture, with random weights. Not to be written to."""

    @cache
    def folder(family: str) -> Path:
        return make_tiny(family, tmp_path_factory.mktemp("models") / family)

    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_model_folder: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    """Family name -> that model, loaded and all frozen but the language model. Shared: not to be changed."""

    @cache
    def load(family: str) -> LoadedModel:
        return load_policy(ModelConfig(path=str(tiny_model_folder(family))))

    return load


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., Problem]:
    """(question, *(width, height), id=...) -> a problem with pictures of noise of those sizes."""

    def make(question: str, *sizes: tuple[int, int], id: str = "p") -> Problem:
        rng = np.random.default_rng(len(question))
        pictures = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]
        images = tuple(ProblemImage(p, f"noise/{p.width}x{p.height}.png") for p in pictures)
        return Problem(id=id, question=question, images=images, answer="1")

    return make


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one uninterrupted short run. Not to be written to."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(folder)
    return folder


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a lab of two methods and two seeds, whose processes are forked. Not to be written to."""
    out = tmp_path_factory.mktemp("lab")

    def start(run: LabRun) -> Child:
        run.folder.path.mkdir(parents=True, exist_ok=True)
        return fork(["train", "--config", str(run.config), "--resume", "auto"], run.folder.path / LOG)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmhicra.lab.runs._start", start)
        assert main(["lab", *SHORT_LAB, *STRONG, "--out", str(out)]) == 0
    return out
