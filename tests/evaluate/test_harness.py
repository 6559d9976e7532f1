"""`mmhicra eval --model` with the tiny model, from questions to a leaderboard; killed on the way, the same result."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from faults.spawner import fork
from made_questions import image_files, mathvision_row, write_questions

from mmhicra.cli import main
from mmhicra.evaluate.scoring.records import SCORER_VERSION

pytestmark = pytest.mark.slow

COUNT = 12
SMALL = [
    *("--max-new-tokens", "8", "--max-pixels", "7056"),
    *("--set", "rollout.max_sequences=4", "--set", "threads=1"),
]


def arguments(files, out, *more):
    data = [part for name, file in files.items() for part in ("--data", f"{name}={file}")]
    return ["eval", "--model", "tiny_vlm", "--benchmarks", ",".join(files), *data, *SMALL, "--out", str(out), *more]


def results(folder: Path):
    """Every file of an evaluation that does not hold a time."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json":
            tree = json.loads(path.read_text())
            tree.pop("scored", None)
            found[path.name] = tree
        else:
            found[path.name] = path.read_text()
    return found


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_at(command, file: Path, lines: int) -> None:
    """Start `command` and kill it as soon as `file` has so many lines."""
    process = fork(command, file.parent.with_suffix(".output"))
    deadline = time.monotonic() + 240
    while lines_in(file) < lines:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()


def test_three_benchmarks_to_a_leaderboard_killed_twice_with_the_same_result(tmp_path, capsys):
    files = write_questions(tmp_path, COUNT)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(arguments(files, whole)) == 0
    said = capsys.readouterr().out
    assert "MathVista: 12 questions, prompt official" in said
    assert not re.search(r"\b0 truncated", said)  # eight tokens are too few
    kill_at(arguments(files, broken), broken / "mathvista.responses.jsonl", 4)
    kept = (broken / "mathvista.responses.jsonl").read_text()
    kill_at(arguments(files, broken), broken / "mathverse.responses.jsonl", 8)
    assert (broken / "mathvista.responses.jsonl").read_text().startswith(kept)  # nothing was generated twice
    with (broken / "mathverse.responses.jsonl").open("a") as file:
        file.write('{"sample_index": "8", "resp')
    assert main(arguments(files, broken)) == 0
    assert results(broken) == results(whole)
    assert {path.name for path in whole.iterdir()} == {
        *(f"{name}.{kind}" for name in files for kind in ("responses.jsonl", "generation.json")),
        *(
            f"{name}.{mode}.{kind}"
            for name in files
            for mode in ("official", "robust")
            for kind in ("json", "samples.jsonl")
        ),
        *("leaderboard.md", "leaderboard.csv", "leaderboard.html"),
    }
    assert "**tiny_vlm**" in (whole / "leaderboard.md").read_text()
    result = json.loads((whole / "mathvision.robust.json").read_text())
    generation = result["generation"]
    assert generation["limits"]["max_pixels"] == 7056
    assert generation["decoding"]["max_new_tokens"] == 8
    assert len(generation["model"]["sha256"]) == 64
    assert (result["scorer_version"], generation["seed"], generation["prompt"]) == (SCORER_VERSION, 0, "cot")


@pytest.fixture
def vision(tmp_path):
    """One benchmark of four questions."""
    file = tmp_path / "test.jsonl"
    rows = [mathvision_row(number, str(path)) for number, path in enumerate(image_files(tmp_path, 4))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"mathvision": file}


def test_several_samples_are_scored_alike_from_the_file_of_responses(vision, tmp_path, capsys):
    out = tmp_path / "out"
    more = ["--n", "2", "--temperature", "1", "--seed", "3", "--limit", "3", "--json"]
    assert main(arguments(vision, out, *more)) == 0
    official, robust = json.loads(capsys.readouterr().out)
    assert robust["samples"]["k"] == 2
    assert robust["samples"]["pass"].keys() == {"1", "2"}
    assert robust["counts"]["samples"] == 6
    assert robust["generation"]["questions"]["count"] == 3
    again = ["--benchmark", "mathvision", "--questions", str(vision["mathvision"]), "--json"]
    stored = ["--responses", str(out / "mathvision.responses.jsonl"), "--out", str(tmp_path / "again.json")]
    assert main(["eval", "score", *again, *stored]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["samples"] == official["samples"]
    assert scored["missing"] == ["3"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--n", "2"], "eval.temperature 0 gives the same response every time"),
        (["--prompt", "mathvision=polite"], "has no prompt 'polite'"),
        (["--subset", "mathvision=mathvista_240"], "is of mathvista, not of mathvision"),
        (["--subset", "mathvision=nothing"], "neither a file nor one that ships"),
        (["--data", "emma=x.jsonl"], "write it as --data mathvision=..."),
        (["--set", "data.max_prompt_tokens=20"], "exceed data.max_prompt_tokens"),
        (["--engine", "magic"], "rollout.engine is 'magic'"),
        (["--chat-template-kwargs", '{"enable_thinking": false}'], "does not read enable_thinking: it reads none"),
        (["--chat-template-kwargs", "{"], "--set data.chat_template_kwargs={"),
    ],
)
def test_mistakes_are_refused_by_name_before_anything_is_generated(vision, tmp_path, capsys, more, said):
    assert main(arguments(vision, tmp_path / "out", *more)) == 2
    assert said in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.responses.jsonl"))


def test_a_missing_image_is_refused_by_the_question(vision, tmp_path, capsys):
    row = mathvision_row(9, "images/none.jpg")
    vision["mathvision"].write_text(json.dumps(row) + "\n")
    assert main(arguments(vision, tmp_path / "out")) == 2
    assert "mathvision, question 9: image missing: images/none.jpg" in capsys.readouterr().err


def test_responses_of_another_evaluation_are_refused_or_replaced(vision, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(arguments(vision, out, "--limit", "1")) == 0
    assert main(arguments(vision, out, "--limit", "1", "--prompt", "boxed")) == 2
    assert "prompt was 'cot', is 'boxed'" in capsys.readouterr().err
    assert main(arguments(vision, out, "--limit", "1", "--prompt", "boxed", "--overwrite")) == 0
