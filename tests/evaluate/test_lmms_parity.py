"""lmms-eval's own tasks, run as they are, beside our scorer on real responses; each known defect is found and named."""

from __future__ import annotations

import gzip
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from made_data import CURRENT_GAIN
from made_questions import write_questions
from PIL import ImageFile

from mmhicra.cli import main
from mmhicra.commands.eval_lmms import INSTALL
from mmhicra.core.errors import DataError
from tools.lmms_parity import builtin as lmms_builtin
from tools.lmms_parity import parity as lmms_parity
from tools.lmms_parity.__main__ import LATEX2SYMPY2
from tools.lmms_parity.parity import BUILTINS, Builtin, Setup, compare

pytestmark = pytest.mark.slow

pytest.importorskip("lmms_eval", reason=f"lmms-eval is not installed: {INSTALL}")


@pytest.fixture
def only(monkeypatch):
    """Compare these tasks alone: each takes half a minute to start."""

    def choose(*names: str) -> None:
        monkeypatch.setattr(lmms_parity, "BUILTINS", [one for one in BUILTINS if one.name in names])

    return choose


@pytest.fixture
def in_this_process(monkeypatch):
    """Jobs without a process of their own, for what does not depend on one."""
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)  # importing lmms-eval sets it; undone afterwards
    monkeypatch.setattr(lmms_parity, "_work", lambda builtin, job, setup: lmms_builtin.perform(job))


def test_d1_takes_every_float_of_mathvista(data_folder, tmp_path, only):
    only("mathvista_testmini_cot")
    with gzip.open(data_folder / "mathvista" / "results" / "bard" / "output_bard.json.gz", "rt") as file:
        rows = json.load(file)
    floats = {pid: row for pid, row in rows.items() if row["answer_type"] == "float"}
    others = dict(list(rows.items())[:60])
    path = tmp_path / "output.json"
    path.write_text(json.dumps(floats | others))
    (row,) = compare("mathvista", Setup(responses=str(path), extractor="stored"))
    right = sum(floats[pid]["true_false"] for pid in floats)
    (effect,) = row.effects
    assert (effect.defect, effect.labels, row.differ, row.rest) == ("D1", right, right, 0)
    assert effect.points == pytest.approx(-100 * right / row.rows)
    labels = sum(one["true_false"] for one in (floats | others).values())
    current = labels + (0 if data_folder.real else CURRENT_GAIN)  # stored labels are of the older integer rule
    assert row.official == pytest.approx(100 * current / row.rows)


@pytest.fixture
def gemini(data_folder, tmp_path):
    """Responses to MathVision, all those with a root or pi among them: file and questions."""
    with gzip.open(data_folder / "mathvision" / "outputs" / "Gemini-Pro-CoT.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    chosen = [
        row for n, row in enumerate(rows) if n < 60 or "sqrt" in row["model_answer"] or "pi" in row["model_answer"]
    ]
    path = tmp_path / "output.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chosen))
    return {"responses": str(path), "questions": str(data_folder / "mathvision" / "test.jsonl.gz")}


def test_d2_takes_roots_and_pi_of_mathvision(gemini, only):
    if not LATEX2SYMPY2.is_dir():
        pytest.skip(f"latex2sympy2 1.9.1 is not in {LATEX2SYMPY2.name} of this environment (make setup puts it there)")
    only("mathvision_test")
    (row,) = compare("mathvision", Setup(**gemini, latex2sympy2=str(LATEX2SYMPY2)))
    (effect,) = row.effects
    assert (effect.defect, effect.labels, row.rest) == ("D2", row.differ, 0)
    assert effect.points is not None
    assert effect.points < 0
    assert row.theirs == pytest.approx(row.official + effect.points)


def test_d3_takes_equivalences_of_the_reasoning_tasks(gemini, only, in_this_process):
    only("mathvision_reason_test_reasoning")
    (row,) = compare("mathvision", Setup(**gemini))
    (effect,) = row.effects
    assert effect.defect == "D3"
    assert effect.points is not None
    assert effect.points < 0


def test_d4_leaves_a_task_without_what_it_imports(gemini, only, in_this_process):
    if find_spec("latex2sympy2"):
        pytest.skip("latex2sympy2 is installed in this environment, and math-verify then is not usable")
    only("mathvision_test")
    (row,) = compare("mathvision", Setup(**gemini, limit=2))
    assert (row.theirs, [(one.defect, one.points) for one in row.effects]) == (None, [("D4", None)]), row.note
    assert row.official >= 0


def test_a_model_answers_the_tasks_own_prompts(tmp_path, only, in_this_process, capsys):
    only("mathverse_testmini", "mathverse_testmini_reasoning")
    file = write_questions(tmp_path, 2)["mathverse"]
    out = tmp_path / "parity.json"
    command = ["eval", "parity", "--benchmark", "mathverse", "--model", "tiny_vlm", "--max-new-tokens", "4"]
    assert main([*command, "--questions", str(file), "--out", str(out)]) == 0
    judged, reasoning = json.loads(out.read_text())
    assert judged["theirs"] is None
    assert "a language model judges here" in judged["note"]
    assert (reasoning["rows"], reasoning["theirs"]) == (2, 0.0)
    assert "mathverse_testmini, 2 rows: lmms-eval has no number" in capsys.readouterr().out


LABELS = {"official": [True, True, False, True], "robust": [False] * 4}


def test_differences_are_put_down_to_what_mending_changes():
    builtin = Builtin("t", "mathvista", "testmini", "official", ("D1", "D3"))
    runs = [
        {"mended": [], "labels": [True, False, False, False], "error": None},
        {"mended": ["D1"], "labels": [True, True, False, False], "error": None},
        {"mended": ["D3"], "labels": [True, False, False, False], "error": None},
    ]
    row = lmms_parity.attribute(builtin, LABELS, runs)
    assert (row.theirs, row.official, row.differ, row.rest) == (25.0, 75.0, 2, 1)
    assert [(one.defect, one.labels, one.points) for one in row.effects] == [("D1", 1, -25.0)]


@pytest.mark.parametrize(
    ("error", "defects"),
    [("ImportError: No module named 'latex2sympy2_extended'", ["D4"]), ("ValueError: no rows", [])],
)
def test_a_task_that_does_not_run_has_no_number(error, defects):
    row = lmms_parity.attribute(BUILTINS[0], LABELS, [{"mended": [], "labels": [], "error": error}])
    assert (row.theirs, row.note, [one.defect for one in row.effects]) == (None, error, defects)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either --responses or --model"),
        (["--model", "tiny_vlm"], "name the questions"),
        (["--model", "tiny_vlm", "--responses", "x"], "either --responses or --model"),
        (["--responses", "x.jsonl", "--extractor", "judge"], "needs --judge-url"),
        (["--responses", "x.jsonl"], "x.jsonl does not exist"),
    ],
)
def test_refusals_of_the_command(monkeypatch, capsys, arguments, said):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main(["eval", "parity", "--benchmark", "mathvista", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_responses_to_other_questions_are_refused(tmp_path):
    file = write_questions(tmp_path, 2)["mathvista"]
    responses = tmp_path / "mine.jsonl"
    responses.write_text(json.dumps({"pid": "77", "response": "4"}) + "\n")
    with pytest.raises(DataError, match="answers none of the questions"):
        compare("mathvista", Setup(responses=str(responses), questions=str(file)))


def test_the_default_folder_is_that_of_this_environment():
    assert Path(sys.prefix, "latex2sympy2") == LATEX2SYMPY2
