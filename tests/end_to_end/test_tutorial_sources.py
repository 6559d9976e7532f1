"""The tutorial on two sources: what stands in it is run, on the tiny model."""

import re
import shlex
from pathlib import Path

import pytest
from rollout_lines import read_rollouts
from short_runs import REPOSITORY, assert_same_run, metrics

from mmhicra.cli import main

pytestmark = pytest.mark.slow

PAGE = REPOSITORY / "docs" / "guides" / "two_sources.md"


def test_the_page_on_two_sources(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        if language == "python":
            exec(compile(block, PAGE.name, "exec"), {})
        elif language == "yaml":
            Path(block.split()[1]).write_text(block, encoding="utf-8")
        else:
            assert [main(shlex.split(line)[1:]) for line in block.splitlines()] == [0] * len(block.splitlines()), block
    said = capsys.readouterr().out
    assert "squares: squares: preset mmk12" in said
    assert "colours: colours/train.jsonl: preset llava" in said
    assert "How many squares are there?\n  | Answer with a number.<|im_end|>" in said
    assert re.search(r"held-out accuracy before training: .*\n  colours: .*\n  squares: ", said)
    assert Path("two.html").read_text("utf-8").count("<img ") == 6
    before, *steps = metrics("runs/two")
    assert {"eval/squares/accuracy", "eval/colours/accuracy_low"} <= before.keys()
    assert [(step["data/squares/share"], step["data/colours/share"]) for step in steps] == [(0.75, 0.25)] * 3
    for number, step in enumerate(steps, start=1):
        rollouts = read_rollouts("runs/two", number)
        rewards = {"squares": [], "colours": []}
        for each in rollouts:
            name, parts = each["prompt"].split("/")[0], each["reward"]["parts"]
            colours = 0.5 * parts["accuracy"] + 0.5 * parts["format"]
            assert each["reward"]["total"] == (colours if name == "colours" else parts["accuracy"])
            rewards[name].append(each["reward"]["total"])
        for name, totals in rewards.items():
            assert step[f"data/{name}/reward"] == pytest.approx(sum(totals) / len(totals))
        kept = {each["prompt"] for each in rollouts if each["kept"]}
        assert step["data/squares/kept"] == sum(prompt.startswith("squares/") for prompt in kept)
        assert step["data/squares/kept"] + step["data/colours/kept"] == step["group/kept"]
    assert main(["train", "--config", "two.yaml", "--set", "run_folder=runs/whole"]) == 0
    assert_same_run("runs/two", "runs/whole", 3)
    changed = ["--set", "data.sources=[{source: squares, weight: 2}, {source: colours/train.jsonl, name: colours}]"]
    assert main(["train", "--config", "two.yaml", "--resume", "--set", "train.steps=4", *changed]) == 2
