"""`mmhicra eval` in two processes writes the files of one, goes on where a kill left it, and refuses with one line."""

from __future__ import annotations

import re
import shutil

import pytest
import spoiling
from faults.spawner import fork
from made_questions import write_questions

from mmhicra.cli import main
from mmhicra.core.resources import find_config

pytestmark = pytest.mark.slow

NAMES = ("mathvista", "mathvision")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return write_questions(tmp_path_factory.mktemp("questions"), 7)


def command(questions, out):
    """Seven questions, two at a time and twice each: portions of 2, 2, 2 and 1 for two processes."""
    sources = [part for name in NAMES for part in ("--data", f"{name}={questions[name]}", "--prompt", f"{name}=boxed")]
    return [
        *("eval", "--model", "tiny_vlm", "--config", str(find_config("tiny")), "--benchmarks", ",".join(NAMES)),
        *(*sources, "--n", "2", "--temperature", "1.0", "--max-new-tokens", "12", "--out", str(out)),
        *("--set", "rollout.max_sequences=4", "--set", "threads=1"),
    ]


def on_two(command, out, **options):
    """Status, what was printed and what went to standard error."""
    out.mkdir(parents=True, exist_ok=True)
    said, errors = out.parent / f"{out.name}.said", out.parent / f"{out.name}.errors"
    status = fork(command, said, errors=errors, ranks=2, **options).wait()
    return status, said.read_text(), errors.read_text()


def files(folder):
    """What an evaluation left, without the time at which it was scored."""
    return {
        path.name: re.sub(r'"scored": ".*"', "", path.read_text())
        for path in sorted(folder.iterdir())
        if path.suffix in (".json", ".jsonl") or path.name.startswith("leaderboard")
    }


@pytest.fixture(scope="module")
def alone(questions, tmp_path_factory):
    out = tmp_path_factory.mktemp("eval") / "alone"
    assert main(command(questions, out)) == 0
    return out


def test_two_processes_write_the_files_of_one(questions, alone, tmp_path):
    status, said, errors = on_two(command(questions, tmp_path / "two"), tmp_path / "two")
    assert status == 0, errors[-3000:]
    assert files(tmp_path / "two") == files(alone)
    assert len(files(alone)) > 8
    assert said.count("result ") == 4, "one of the processes prints"


def test_a_killed_evaluation_goes_on_in_two_processes(questions, alone, tmp_path):
    """A kill left the first portion and a part of the second; another evaluation in the folder is refused once."""
    out = tmp_path / "two"
    out.mkdir()
    for path in alone.glob("mathvista.generation.json"):
        shutil.copy(path, out)
    lines = (alone / "mathvista.responses.jsonl").read_bytes().splitlines(keepends=True)
    (out / "mathvista.responses.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:9])
    status, said, errors = on_two(command(questions, out), out)
    assert status == 0, errors[-3000:]
    assert "mathvista: 2 of 7 questions are answered already" in said
    assert files(out) == files(alone)
    status, _, errors = on_two([*command(questions, out), "--seed", "5"], out)
    assert status != 0
    assert errors.count("mmhicra: ") == 1
    assert "holds responses of another evaluation of mathvista (seed was 0, is 5)" in errors


def test_a_refusal_of_one_process_ends_both_with_one_line(questions, tmp_path):
    out = tmp_path / "two"
    script = {"script": spoiling.__file__, spoiling.REFUSING: "1"}
    status, _, errors = on_two(command(questions, out), out, **script)
    assert status != 0
    assert errors.count("mmhicra: refused by rank 1") == 1, errors[-3000:]


def test_a_mistake_is_told_once(questions, tmp_path):
    status, _, errors = on_two([*command(questions, tmp_path / "two"), "--set", "eval.n=no"], tmp_path / "two")
    assert status != 0
    assert errors.count("mmhicra: ") == 1
    assert "eval.n" in errors
