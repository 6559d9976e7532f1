"""docs/guides/adapters.md: every command of it is run, the runs shortened."""

import re
import shlex
from pathlib import Path

import pytest
from made_questions import write_questions
from safetensors.torch import load_file

from mmhicra.cli import main

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "adapters.md"
SHORT = (
    *(
        "train.steps=2",
        "train.prompts_per_step=4",
        "rollout.n=4",
        "data.count=64",
        "eval.problems=0",
        "log.trackers=[]",
    ),
    *("train.optimizer.warmup_steps=0", "rollout.max_new_tokens=48", "threads=1", "log.trackers=[]"),
)


def commands():
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.startswith("mmhicra ")]


def test_every_command_of_the_page_runs(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_data").mkdir()
    write_questions(tmp_path / "my_data", 3)["mathvista"].rename(tmp_path / "my_data" / "mathvista.jsonl")
    found = commands()
    assert [command[1] for command in found] == ["train", "train", "merge", "merge", "doctor", "eval"]
    for _, *arguments in found:
        arguments = [argument.replace("step_000060", "step_000002") for argument in arguments]
        short = [part for field in SHORT for part in ("--set", field)] if arguments[0] == "train" else []
        assert main([*arguments, *short]) == 0, f"{arguments}: {capfd.readouterr().err}"
    first, second = (load_file(tmp_path / "models" / name / "model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    changed = {name for name in first if not first[name].equal(second[name])}
    assert changed, "the second run trained on"
    assert not any("visual" in name or "lm_head" in name or "embed" in name for name in changed)
    assert (tmp_path / "runs" / "eval_second" / "mathvista.robust.json").exists()
