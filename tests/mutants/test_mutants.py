"""The list of mutants fits the code as it is now, and the runner tells what is noticed from what is not."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from mutants import REPOSITORY, load_mutants  # noqa: E402

MUTANTS = load_mutants()


def run(*arguments):
    """The runner in a process of its own: exit status and output."""
    done = subprocess.run(
        [sys.executable, str(HERE), *map(str, arguments)], capture_output=True, text=True, cwd=REPOSITORY
    )
    return done.returncode, done.stdout + done.stderr


def test_the_list_is_large_enough_where_it_matters():
    counts = Counter(mutant.area for mutant in MUTANTS)
    assert counts.total() >= 120
    assert counts["trainer"] >= 40
    titles = Counter(mutant.title for mutant in MUTANTS)
    assert [title for title, count in titles.items() if count > 1] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.title)
def test_every_mutant_can_be_planted_and_names_its_tests_and_its_reason(mutant):
    source = (REPOSITORY / mutant.file).read_text(encoding="utf-8")
    compile(mutant.plant(source), mutant.file, "exec")
    assert len(mutant.why) > 20
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        text = (REPOSITORY / file).read_text(encoding="utf-8")
        assert f"def {name.partition('[')[0]}(" in text if name else text


@pytest.mark.slow
def test_a_sample_is_noticed():
    status, output = run("--only", "losses", "--sample", 3, "--seed", 14)
    assert status == 0, output
    assert "3 of 3 noticed: 100.0%" in output


@pytest.mark.slow
def test_a_mistake_that_nobody_notices_and_one_that_is_gone_end_in_status_1(tmp_path):
    mutant = (
        'file = "mmhicra/train/update/losses.py"\ntests = ["tests/train/test_losses.py::test_loss_equals_a_loop"]\n'
        'why = "a test of the runner"\n[[mutant]]\ntext = "return gap.exp()"\nreplacement = "{}"\n'
    )
    (tmp_path / "kept.toml").write_text(mutant.format("return torch.exp(gap)"))
    (tmp_path / "wrong.toml").write_text(mutant.format("return gap"))
    status, output = run("--areas", tmp_path)
    assert status == 1, output
    assert "1/2 survived" in output
    assert "2/2 killed" in output
    assert "1 of 2 noticed: 50.0%" in output
    (tmp_path / "gone.toml").write_text(mutant.format("x").replace("return gap.exp()", "return gap.log()"))
    status, output = run("--areas", tmp_path)
    assert status == 1
    assert "the text stands 0 times in the file, not once: mend the list" in output
