"""One finished run for every test that only looks."""

import pytest
from short_runs import run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The folder of one uninterrupted short run."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(folder)
    return folder
