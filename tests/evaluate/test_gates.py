"""The gates of the scorer, on outputs that others made and labelled with the official code (and on made ones).

G1, G2, G7: MathVision. G3, G4, G5, G9: MathVista. G6: MathVerse. G8: threads and processes. G10: time.
"""

from __future__ import annotations

import ast
import random
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from made_data import CURRENT_GAIN as MADE_GAIN
from made_data import VISION, VISTA

from mmhicra.evaluate.benchmarks.mathvision_rules import extract_official
from mmhicra.evaluate.benchmarks.mathvista import MathVista
from mmhicra.evaluate.benchmarks.registry import load_items, load_responses, make_benchmark, pair
from mmhicra.evaluate.scoring.records import Item, Response
from mmhicra.evaluate.scoring.score import score_pairs, summarise
from mmhicra.rewards.notation import compact

ROOT = Path(__file__).resolve().parents[2]
CURRENT_GAIN = {"bard": 0, "chatgpt": 0, "minigpt4": 0, "idefics": 2}
"""Labels that the current integer rule turns from wrong to right."""


@pytest.fixture(scope="module")
def vision(data_folder):
    """Output file -> its questions and responses."""
    benchmark = make_benchmark("mathvision")
    items = load_items(benchmark, str(data_folder / "mathvision" / "test.jsonl.gz"))

    def load(name: str) -> list[tuple[Item, Response]]:
        path = str(data_folder / "mathvision" / "outputs" / f"{name}.jsonl.gz")
        return pair(items, load_responses(benchmark, path)[0], path)

    return load


@pytest.fixture(scope="module")
def vista(data_folder):
    """Output file -> its questions and responses."""

    def load(name: str) -> list[tuple[Item, Response]]:
        path = str(data_folder / "mathvista" / "results" / f"{VISTA[name][0]}.json.gz")
        responses, items = load_responses(MathVista(), path)
        return pair(items, responses, path)

    return load


def agreement(records):
    """Share of stored labels met, and the difference of the scores in points."""
    labelled = [record for record in records if record.label is not None]
    gap = sum(record.correct for record in labelled) - sum(record.label for record in labelled)
    return sum(r.correct == r.label for r in labelled) / len(labelled), 100 * gap / len(labelled)


def stored_questions(data_folder):
    return load_items(make_benchmark("mathvision"), str(data_folder / "mathvision" / "test.jsonl.gz"))


@pytest.mark.parametrize("name", VISION)
@pytest.mark.parametrize("stage", ["equality", "response"])
def test_g1_mathvision_official_labels(vision, data_folder, read_json, name, stage):
    benchmark = make_benchmark("mathvision")
    records = score_pairs(benchmark, vision(name), "official", stage)
    same, points = agreement(records)
    assert len(records) == (3040 if data_folder.real else len(stored_questions(data_folder)))
    assert same >= 0.9995
    assert abs(points) <= 0.10
    stored = read_json(data_folder / "mathvision" / "outputs" / f"{name}_result.json.gz")
    assert benchmark.official_scores(records) == stored


def test_g1_with_latex2sympy2_itself(vision):
    """Our number reader against the library that the official scorer calls, on all answers it has to work out."""
    latex2sympy2 = pytest.importorskip("latex2sympy2", reason="latex2sympy2 1.9.1 is not installed (needs antlr 4.7.2)")
    from mmhicra.evaluate.benchmarks.latex_number import latex_number

    answers = {extract_official(response.text) for name in VISION for _, response in vision(name)}
    asked = sorted(answer for answer in answers if len(answer) < 60 and any(map(str.isdigit, answer)))[:2000]
    apart = [answer for answer in asked if is_number(latex2sympy2, answer) != (latex_number(answer) is not None)]
    assert len(apart) <= 0.002 * len(asked), apart


def is_number(library, text: str) -> bool:
    try:
        return bool(library.latex2sympy(text).is_number)
    except Exception:  # noqa: BLE001 - whatever it raises is "no number" to the official scorer
        return False


def test_g2_mathvision_extraction(vision, data_folder):
    pairs = [one for name in VISION for one in vision(name)]
    differ = [response.id for _, response in pairs if extract_official(response.text) != response.extraction]
    assert len(pairs) == (15200 if data_folder.real else 5 * len(stored_questions(data_folder)))
    assert len(differ) <= (3 if data_folder.real else 0), differ  # in proportion to 10 of 48,640


@pytest.mark.parametrize("name", VISTA)
def test_g3_mathvista_scoring_in_both_integer_rules(vista, data_folder, name):
    pairs = vista(name)
    legacy = score_pairs(MathVista("legacy"), pairs, "official", "equality")
    labelled = [record for record in legacy if record.label is not None]
    assert [record.correct for record in labelled] == [record.label for record in labelled]
    current = score_pairs(MathVista("current"), pairs, "official", "equality")
    changed = [
        (old.correct, new.correct) for old, new in zip(legacy, current, strict=True) if old.correct != new.correct
    ]
    assert changed == [(False, True)] * (CURRENT_GAIN[name] if data_folder.real else MADE_GAIN)


def test_g4_mathvista_aggregates(vista, data_folder, read_json):
    cells = differ = 0
    for name, (_, scores) in VISTA.items():
        records = score_pairs(MathVista("legacy"), vista(name), "official", "equality")
        ours = MathVista().official_scores(records)
        stored = read_json(data_folder / "mathvista" / "results" / f"{scores}.json.gz")
        assert list(ours)[1:] == [key for key in stored if key != "average"]
        for key, values in stored.items():
            for value, cell in {"": values}.items() if key == "average" else values.items():
                mine = ours[key] if key == "average" else ours[key][value]
                cells += 1
                differ += (mine["correct"], mine["total"]) != (cell["correct"], cell["total"])
    assert cells > (250 if data_folder.real else 70)
    assert differ <= data_folder.real  # two items of chatgpt have no labels


@pytest.mark.parametrize(
    ("name", "least", "points"), [("bard", 0.98, 1.0), ("chatgpt", 0.99, 0.5), ("minigpt4", 0.98, 0.5)]
)
def test_g5_mathvista_extraction_by_rules(vista, name, least, points):
    records = score_pairs(MathVista("legacy"), vista(name), "official")
    same, difference = agreement(records)
    assert same >= least
    assert abs(difference) <= points
    assert agreement([record for record in records if record.extracted is not None])[0] >= 0.99


@pytest.mark.parametrize("data_folder", [pytest.param("real", marks=pytest.mark.real_data)], indirect=True)
def test_g5_idefics_has_labels_that_contradict_its_responses(vista, data_folder):
    """`The answer is (A) 26°.` with the stored extraction C; where the labels do not, 99 % are met here too."""
    pairs = vista("idefics")
    records = score_pairs(MathVista("legacy"), pairs, "official")
    answered = [
        (declared_option(item, response.text), item, record)
        for (item, response), record in zip(pairs, records, strict=True)
        if record.extracted is not None and record.label is not None
    ]
    wrong = {item.id for said, item, record in answered if said is not None and (said == item.answer) != record.label}
    assert len(answered) == 873
    assert len(wrong) == 41
    assert agreement([record for _, item, record in answered if item.id not in wrong])[0] >= 0.99
    mine = [(said, record.normalised) for said, item, record in answered if item.id in wrong]
    assert sum(said == normalised for said, normalised in mine) >= 40


def declared_option(item: Item, text: str) -> str | None:
    """The option whose letter and whole text the first words of a response give; None if they do not."""
    first = re.match(r"(?:The answer is:? )?\(([A-Z])\) ", text.strip())
    place = ord(first[1]) - ord("A") if first else 99
    option = item.choices[place] if place < len(item.choices) else None
    return option if first and option and text.strip()[first.end() :].startswith(option) else None


JUDGED = [
    ("Write the set of numbers represented on the number line in interval notation.", "(-2,1]", r"\((-2, 1)\)", False),
    ("the length of BC is ()\nChoices:\nA:2\nB:2√{3}\nC:√{3}\nD:2√{2}", "C", "B:2√{3}", False),
    ("Find the domain and range.", "domain: [-4, 0) and range: (-3, 1]", r"Range: \((-4, 1]\)", False),
    ("the length of BC is ()\nChoices:\nA:2\nB:2√{3}\nC:√{3}\nD:2√{2}", "C", "null", False),
    (
        r"determine its equation. A. \frac{x^2}{81} + \frac{y^2}{9} = 1 B. Can not determine.",
        "A",
        r"\frac{x^2}{81} + \frac{y^2}{9} = 1",
        True,
    ),
]
"""The official judge's own examples (the fifth is the only right one)."""


@pytest.mark.parametrize(("question", "gold", "answer", "right"), JUDGED)
def test_g6_mathverse_examples_of_the_official_judge(verifier, question, gold, answer, right):
    kind = "multi-choice" if len(gold) == 1 else "free-form"
    cells = {"sample_index": "1", "problem_index": "1", "problem_version": "Text Lite", "metadata": {}}
    benchmark = make_benchmark("mathverse")
    item = benchmark.read_item(cells | {"question": question, "answer": gold, "question_type": kind}, "here")
    (record,) = score_pairs(benchmark, [(item, Response("1", "", answer))], "robust", "equality", verifier)
    assert record.correct == right


def test_g6_mathverse_templates(data_folder, verifier):
    benchmark = make_benchmark("mathverse")
    found = {}
    for name in ("output_template_testmini", "output_template_testmini_text_only"):
        path = str(data_folder / "mathverse" / f"{name}.json.gz")
        responses, items = load_responses(benchmark, path)
        for record in score_pairs(benchmark, pair(items, responses, path), "robust", verifier=verifier):
            found[record.groups["version"][0]] = record.correct
    assert found.pop("Vision Only") is False  # says 13, the gold is 14
    assert len(found) == 5
    assert all(found.values())


def test_g6_mathverse_golds_against_themselves_and_each_other(data_folder, verifier):
    benchmark = make_benchmark("mathverse")
    items = load_items(benchmark, str(data_folder / "mathverse" / "testmini_text_only.json.gz"))
    boxed = [(item, Response(item.id, rf"So it is \boxed{{{item.answer}}}.")) for item in items]
    right = sum(record.correct for record in score_pairs(benchmark, boxed, "robust", verifier=verifier))
    assert right >= 0.99 * (788 if data_folder.real else len(items))
    rng, crossed = random.Random(0), []
    while len(crossed) < (10_000 if data_folder.real else 100):
        item, other = rng.sample(items, 2)
        if compact(item.answer) != compact(other.answer):
            crossed.append((item, Response(item.id, "", other.answer)))
    wrongly = sum(record.correct for record in score_pairs(benchmark, crossed, "robust", "equality", verifier))
    assert wrongly <= 0.005 * len(crossed)


def test_g7_mathvision_robust_scores(vision, data_folder, verifier):
    benchmark = make_benchmark("mathvision")
    for name in VISION:
        records = score_pairs(benchmark, vision(name), "robust", verifier=verifier)
        _, points = agreement(records)
        assert points >= -0.1, name
        if data_folder.real and name.startswith("GPT4"):
            assert 15.0 <= 100 * sum(record.correct for record in records) / 3040 <= 16.5


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["official", "robust"])
def test_g8_the_same_in_one_thread_eight_threads_and_two_processes(vision, data_folder, verifier, mode):
    benchmark = make_benchmark("mathvision")
    pairs = vision("Gemini-Pro-CoT")[:800]
    alone = score_pairs(benchmark, pairs, mode, verifier=verifier)
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(
            lambda start: score_pairs(benchmark, pairs[start : start + 100], mode, verifier=verifier),
            range(0, 800, 100),
        )
        assert [record for part in parts for record in part] == alone
    program = f"""
        import sys
        from mmhicra.evaluate.benchmarks.registry import load_items, load_responses, make_benchmark, pair
        from mmhicra.evaluate.scoring.score import score_pairs
        benchmark = make_benchmark("mathvision")
        folder = {str(data_folder / "mathvision")!r}
        items = load_items(benchmark, folder + "/test.jsonl.gz")
        path = folder + "/outputs/Gemini-Pro-CoT.jsonl.gz"
        pairs = pair(items, load_responses(benchmark, path)[0], path)[int(sys.argv[1]):int(sys.argv[1]) + 400]
        print("".join(str(int(record.correct)) for record in score_pairs(benchmark, pairs, {mode!r})))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    running = [
        subprocess.Popen([*command, start], stdout=subprocess.PIPE, text=True, cwd=ROOT) for start in ("0", "400")
    ]
    said = "".join(process.communicate(timeout=120)[0].strip() for process in running)
    assert said == "".join(str(int(record.correct)) for record in alone)


def test_g9_precision_may_be_a_float(vista, data_folder):
    pairs = vista("bard")
    floats = [
        (replace(item, facts=dict(item.facts) | {"precision": float(item.facts["precision"])}), response)
        for item, response in pairs
        if item.facts["answer_type"] == "float"
    ]
    whole = [pair_ for pair_ in pairs if pair_[0].facts["answer_type"] == "float"]
    records = score_pairs(MathVista(), floats, "official", "equality")
    assert len(records) == (40 if data_folder.real else 3)
    assert [r.correct for r in records] == [r.correct for r in score_pairs(MathVista(), whole, "official", "equality")]
    assert any(record.correct for record in records)


def test_g10_no_response_text_is_evaluated():
    for file in [*(ROOT / "mmhicra" / "evaluate").rglob("*.py"), *(ROOT / "mmhicra" / "rewards").rglob("*.py")]:
        calls = [node.func for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call)]
        names = {call.id for call in calls if isinstance(call, ast.Name)}
        assert not names & {"eval", "exec", "compile", "__import__"}, file


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["official", "robust"])
def test_a_whole_test_set_is_scored(vision, mode):
    """How long it takes stands in docs/guides/evaluation.md."""
    pairs = vision("Gemini-Pro-CoT")
    records = score_pairs(make_benchmark("mathvision"), pairs, mode)
    assert [record.id for record in records] == [item.id for item, _ in pairs]
    assert summarise(make_benchmark("mathvision"), records, mode, "response")["counts"]["samples"] == len(pairs)
