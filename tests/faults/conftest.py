from __future__ import annotations

from pathlib import Path

import pytest
from faults.kills import Points, Reference, make_reference


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """One undisturbed run with its file operations. Not to be written to."""
    return make_reference(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="session")
def points(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Points:
    """The file operations of that run and of one resumed in its middle."""
    return Points(reference, tmp_path_factory.mktemp("points"))


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where disturbed runs and kept faults go."""
    return tmp_path_factory.mktemp("disturbed")
