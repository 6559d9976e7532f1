from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmhicra.rewards.reward import FormatStyle
from mmhicra.rewards.workers import Verifier


@dataclass(frozen=True)
class Custom:
    path: str
    weight: float = 1.0


@dataclass(frozen=True)
class Settings:
    accuracy_weight: float = 1.0
    format_weight: float = 0.0
    format_style: FormatStyle = "boxed"
    length_weight: float = 0.0
    length_buffer: int = 0
    workers: int = 0
    time_limit: float = 5.0
    custom: tuple[Custom, ...] = ()


@pytest.fixture(scope="session")
def settings() -> type[Settings]:
    return Settings


@pytest.fixture(scope="session")
def custom() -> type[Custom]:
    return Custom


@pytest.fixture(scope="session")
def verifier() -> Iterator[Verifier]:
    with Verifier(workers=2, time_limit=20) as verifier:
        yield verifier


@pytest.fixture(scope="session")
def shared_data() -> Path:
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("MMHICRA_SHARED_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist (set MMHICRA_SHARED_DATA)")
    return folder
