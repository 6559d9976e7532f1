from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from mmhicra.config import JudgeConfig, TermConfig
from mmhicra.core.names import FormatStyle
from mmhicra.rewards.workers import Verifier


@dataclass(frozen=True)
class Custom:
    path: str
    weight: float = 1.0
    name: str | None = None


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
    terms: tuple[TermConfig, ...] = ()
    judges: tuple[JudgeConfig, ...] = ()
    custom_attempts: int = 1
    custom_wait: float = 0.0
    custom_time_limit: float = 60.0
    custom_threads: int = 1
    custom_concurrency: int = 4
    custom_batch: int = 0
    custom_failures: int = 10


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
