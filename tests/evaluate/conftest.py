from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmhicra.evaluate.scoring.score import TIME_LIMIT
from mmhicra.rewards.workers import Verifier


@pytest.fixture(scope="session")
def verifier() -> Iterator[Verifier]:
    with Verifier(time_limit=TIME_LIMIT) as verifier:
        yield verifier


@pytest.fixture(scope="session")
def read_json() -> Any:
    def read(path: Path) -> Any:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return json.load(file)

    return read
