"""docs/guides/rewards.md: its example runs, and it names every field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmhicra.config import RewardConfig
from mmhicra.core.records import Problem
from mmhicra.rewards.reward import Rewarder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "rewards.md"


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (path,) = re.findall(r"path: (\S+),", text)
    (tmp_path / "my_reward.py").write_text(program, encoding="utf-8")
    config = RewardConfig.model_validate({"custom": [{"path": path, "weight": 0.5}]})
    problem = Problem("p", "3 + 4?", (), "7", "number")
    with Rewarder(config, 100) as rewarder:
        rewarder.try_custom(problem)
        assert rewarder.score_one(problem, "\\boxed{7}").total == pytest.approx(1.05)
        assert rewarder.score_one(problem, "the answer is 7").total == 1.0


def test_the_page_names_every_field():
    table = PAGE.read_text(encoding="utf-8").split("## A function")[0]
    assert [name for name in RewardConfig.model_fields if f"`{name}`" not in table] == []
