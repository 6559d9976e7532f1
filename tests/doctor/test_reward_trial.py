"""`mmhicra reward test`: golds, golds spoilt in one place, and stored rollouts, with every term."""

import json

import pytest

from mmhicra.cli import main
from mmhicra.core.records import Problem
from mmhicra.doctor.reward_trial import spoil

SPOILT = [
    (Problem("p", "?", (), "41", "number"), [("number changed", "42")]),
    (Problem("p", "?", (), "x = 3/4", "math"), [("number changed", "x = 3/5")]),
    (Problem("p", "?", (), "2.5", "number"), [("number changed", "3.5")]),
    (Problem("p", "?", (), "C", "choice", ("1", "2", "3")), [("letter changed", "A")]),
    (Problem("p", "?", (), "a red cat", "text"), []),
    (Problem("p", "?", (), "[1, 2, 3, 4]", "text"), [("box moved", '[{"bbox_2d": [3.0, 2.0, 5.0, 4.0]}]')]),
]


@pytest.mark.parametrize(("problem", "spoilt"), SPOILT)
def test_a_gold_is_spoilt_in_one_place_by_its_kind(problem, spoilt):
    assert list(spoil(problem)) == [*spoilt, ("text emptied", "")]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A configuration over three rows, whose reward is a function in `reward.py`."""
    monkeypatch.chdir(tmp_path)
    rows = [{"problem": "1 + 1?", "answer": "2"}, {"problem": "Which? (A) 1 (B) 2", "answer": "B"}]
    rows.append({"problem": "2 + 2?", "answer": ""})
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = "data: {source: data.jsonl, max_refused_share: 0.9, held_out_share: 0.0, columns: {images: none}}\n"
    text += "reward: {custom: [{path: ./reward.py:f, name: own}]}\nmodel: {path: no_such_model_is_loaded}\n"
    (tmp_path / "config.yaml").write_text(text)
    return tmp_path


def test_a_sound_reward_pays_golds_more_than_spoilt_ones(config, capsys):
    (config / "reward.py").write_text("def f(problems, completions, records): return [r.total for r in records]")
    assert main(["reward", "test", "config.yaml"]) == 0
    printed = capsys.readouterr().out
    rows = {line.split("  ")[0].strip(): line.split()[-5:] for line in printed.splitlines() if line.count(".") >= 4}
    assert rows["gold"] == ["2", "1.000", "1.000", "1.000", "2.000"]
    assert rows["number changed"] == ["1", "0.000", "1.000", "0.000", "0.000"]
    assert rows["letter changed"] == ["1", "0.000", "1.000", "0.000", "0.000"]
    assert rows["text emptied"] == ["2", "0.000", "0.000", "0.000", "0.000"]
    assert "1 rows cannot be used, the first at " in printed
    assert "data.jsonl:3: answer empty" in printed


def test_a_reward_that_pays_spoilt_golds_more_is_told_and_fails(config, capsys):
    (config / "reward.py").write_text("def f(problem, completion, record): return 9.0 * (not completion.text)")
    assert main(["reward", "test", "config.yaml", "--problems", "1"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "earns 1 with its gold and 9 with its text emptied: ''" in printed
    (config / "reward.py").write_text("def f(problem, completion, record): return 1 / 0")
    (config / "other.yaml").write_text((config / "config.yaml").read_text().replace("reward.py", "other.py"))
    (config / "other.py").write_text("def f(problem, completion, record): return 1 / 0")
    assert main(["reward", "test", "--config", "other.yaml", "--set", "reward.custom_wait=0"]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert main(["reward", "test"]) == 2
    assert "name one configuration" in capsys.readouterr().err
