"""Each example of `examples/` is run from a folder outside the package; the pages of `docs/extend` show its code."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from short_runs import SHORT

from mmhicra.cli import main

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"
PAGES = REPOSITORY / "docs" / "extend"


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder with copies of the examples and nothing else of the repository; the working directory meanwhile."""
    folder = tmp_path_factory.mktemp("outside")
    shutil.copytree(EXAMPLES, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def train(folder, *overrides):
    """`mmhicra train` of the tiny model for two steps; returns the exit status."""
    sets = [*SHORT, "train.steps=2", "eval.problems=0", f"run_folder={folder}", *overrides]
    return main(["train", "--config", "tiny", *(part for override in sets for part in ("--set", override))])


OWN = (
    "reward.custom=[{path: ./reward.py:rewards_checking, weight: 0.5}]",
    "credit.method=./credit_method.py:fading",
    "log.callbacks=[./callback.py:LongestResponses]",
    "eval.problems=4",
)


@pytest.fixture(scope="module")
def own_run(outside):
    """The run folder of a run with a reward, a credit method and a callback of the user's own."""
    assert train(outside / "run", *OWN) == 0
    return outside / "run"


def rollouts(folder, step):
    """The rollout records of a step."""
    lines = (folder / "rollouts" / f"step_{step:06d}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_every_example_has_a_page_that_shows_its_code():
    pages = {page.stem: page.read_text(encoding="utf-8") for page in PAGES.glob("*.md")}
    examples = {file.stem: file for file in EXAMPLES.iterdir() if file.suffix in (".py", ".yaml")}
    assert examples.keys() == pages.keys()
    for name, file in examples.items():
        assert f"# examples/{file.name}\n{file.read_text(encoding='utf-8')}```" in pages[name], name


def test_a_reward_of_ones_own_is_a_term_of_the_reward(own_run):
    records = rollouts(own_run, 1) + rollouts(own_run, 2)
    assert len(records) == 32
    for record in records:
        part = record["reward"]["parts"]["./reward.py:rewards_checking"]
        right = record["reward"]["verdict"] == "right"
        assert part in ((0.5, 1.0) if right else (0.0,))
        assert record["reward"]["total"] == pytest.approx(right + 0.5 * part)


def test_a_credit_method_of_ones_own_makes_the_advantages(own_run):
    amplified = 0
    for record in (record for record in rollouts(own_run, 1) + rollouts(own_run, 2) if record["kept"]):
        base, length = record["advantage"], len(record["ids"])
        planning = torch.zeros(length)
        for start, end in record["planning"]:
            planning[start:end] = 1.0
        expected = base + 0.2 * abs(base) * planning * torch.linspace(1.0, 0.0, length)
        assert record["advantages"] == pytest.approx(expected.tolist(), abs=1e-5)
        amplified += int(planning.sum())
    assert amplified > 0


def test_a_callback_of_ones_own_is_told_every_step(own_run):
    lines = [line.split("\t") for line in (own_run / "longest.txt").read_text(encoding="utf-8").splitlines()]
    assert [int(step) for step, _, _ in lines] == [1, 2]
    for step, length, _ in lines:
        assert int(length) == max(len(record["ids"]) for record in rollouts(own_run, int(step)))


def test_resume_with_another_method_is_refused_and_with_other_callbacks_goes_on(own_run, capsys):
    resumed = [*OWN[:1], "eval.problems=4"]
    sets = [*SHORT, "train.steps=2", f"run_folder={own_run}", *resumed]
    arguments = ["train", "--config", "tiny", "--resume", *(part for each in sets for part in ("--set", each))]
    assert main(arguments) == 2
    assert "credit.method was './credit_method.py:fading', is 'hicra'" in capsys.readouterr().err
    assert main([*arguments, "--set", OWN[1]]) == 0
