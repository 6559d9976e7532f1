"""Cards against rows as their data sets have them."""

from __future__ import annotations

import json

import pytest
from made_questions import image_files

from mmhicra.cli import main
from mmhicra.config import BenchmarkConfig
from mmhicra.evaluate.benchmarks.cards import NAMES, read_card
from mmhicra.evaluate.benchmarks.registry import load_items, make_benchmark
from mmhicra.evaluate.questions import load_question_set

ROWS = {
    "emma": {
        "pid": "math_1", "question": "<image_1> Which is next? <image_2>", "options": ["(1)", "(2)"], "answer": "B",
        "image_1": "one", "image_2": "two", "image_3": None, "subject": "Math", "category": "Pattern", "context": "",
        "type": "Multiple Choice",
    },
    "aime24": {"id": 60, "problem": "Find $x$.", "answer": "033", "solution": "..."},
    "aime25": {"id": "0", "problem": "Find $x$.", "answer": "70"},
    "amc23": {"id": 0, "question": "Find $x$.", "answer": 27.0},
    "math500": {
        "unique_id": "test/algebra/1.json", "problem": "Convert.", "answer": r"\left( 3, \frac{\pi}{2} \right)",
        "subject": "Algebra", "level": 2,
    },
    "minerva": {"question": "What is the luminosity?", "answer": "6.1e33"},
    "olympiadbench": {
        "id": 1606, "question": "Let $T=1$.", "final_answer": ["$\\frac{1}{2}$"], "context": None, "unit": None,
        "subfield": "Algebra", "answer_type": "Numerical", "image_1": None,
    },
}  # fmt: skip
RIGHT = {
    "emma": r"\boxed{B}", "aime24": r"\boxed{33}", "aime25": r"\boxed{70}", "amc23": r"\boxed{27}",
    "math500": r"\boxed{(3, \pi/2)}", "minerva": r"\boxed{6.1 \times 10^{33}}", "olympiadbench": r"\boxed{0.5}",
}  # fmt: skip


def write(path, row):
    path.write_text(json.dumps(row) + "\n")
    return str(path)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_each_is_read_and_a_right_answer_is_right(name, tmp_path, capsys):
    questions = write(tmp_path / "q.jsonl", ROWS[name])
    (item,) = load_items(make_benchmark(name), questions)
    responses = write(tmp_path / "r.jsonl", {"id": item.id, "response": f"So it is {RIGHT[name]}."})
    options = ["--benchmark", name, "--questions", questions, "--responses", responses, "--json"]
    assert main(["eval", "score", *options, "--out", str(tmp_path / "x.json")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["score"]["correct"], result["mode"]) == (1, "robust")
    assert main(["eval", "score", *options, "--mode", "official", "--out", str(tmp_path / "x.json")]) == 2
    assert "no official rules to score by" in capsys.readouterr().err


def test_emma_shows_its_images_where_the_question_names_them(tmp_path):
    one, two = image_files(tmp_path, 2)
    row = ROWS["emma"] | {"image_1": str(one), "image_2": str(two)}
    questions = load_question_set(BenchmarkConfig(name="emma", source=write(tmp_path / "q.jsonl", row)))
    (problem,) = questions.problems
    assert problem.question.startswith(
        "<image> Which is next? <image>\nA: (1)\nB: (2)\nAnswer with the option's letter"
    )
    assert [image.payload for image in problem.images] == [one, two]


def test_every_benchmark_has_a_card_with_a_hub_id_a_prompt_and_a_mode():
    for name in NAMES:
        card = read_card(name)
        assert card.name == name == make_benchmark(name).name
        assert all(hub.count("/") == 1 for hub in card.hub)
        assert "robust" in card.modes
        assert "boxed" in card.prompts
