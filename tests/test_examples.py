"""Each example of `examples/` is run from a folder outside the package; the pages of `docs/extend` show its code."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from rollout_lines import read_rollouts
from short_runs import SHORT

from mmhicra.cli import main
from mmhicra.config import ModelConfig
from mmhicra.config.loading import read_yaml
from mmhicra.core.errors import UserError
from mmhicra.evaluate.benchmarks.registry import load_items, make_benchmark
from mmhicra.vlm.loading import load_processor

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
    "model.family=./family.py:FAMILY",
    "log.callbacks=[./callback.py:LongestResponses]",
    "eval.problems=4",
)


@pytest.fixture(scope="module")
def own_run(outside):
    """The run folder of a run with a reward, a credit method, a family and a callback of the user's own."""
    assert train(outside / "run", *OWN) == 0
    return outside / "run"


def test_every_example_has_a_page_that_shows_its_code():
    pages = {page.stem: page.read_text(encoding="utf-8") for page in PAGES.glob("*.md")}
    examples = [file for file in sorted(EXAMPLES.iterdir()) if file.suffix in (".py", ".yaml")]
    assert {file.stem for file in examples} == pages.keys()
    for file in examples:
        assert f"# examples/{file.name}\n{file.read_text(encoding='utf-8')}```" in pages[file.stem], file


def test_a_reward_of_ones_own_is_a_term_of_the_reward(own_run):
    records = read_rollouts(own_run, 1) + read_rollouts(own_run, 2)
    assert len(records) == 32
    for record in records:
        part = record["reward"]["parts"]["./reward.py:rewards_checking"]
        right = record["reward"]["verdict"] == "right"
        assert part in ((0.5, 1.0) if right else (0.0,))
        assert record["reward"]["total"] == pytest.approx(right + 0.5 * part)


def test_a_credit_method_of_ones_own_makes_the_advantages(own_run):
    amplified = 0
    for record in (record for record in read_rollouts(own_run, 1) + read_rollouts(own_run, 2) if record["kept"]):
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
        assert int(length) == max(len(record["ids"]) for record in read_rollouts(own_run, int(step)))


def test_a_family_of_ones_own_says_what_is_never_sampled(own_run):
    usual, own = (load_processor(ModelConfig(family=family)) for family in ("auto", "./family.py:FAMILY"))
    boxes = {own.tokenizer.get_vocab()[token] for token in ("<|box_start|>", "<|box_end|>")}
    assert set(own.banned_token_ids) - set(usual.banned_token_ids) == boxes
    assert own.family.name == "qwen2_5_vl_without_boxes"
    tree = read_yaml(own_run / "config.yaml")
    assert tree["model"]["family"] == "./family.py:FAMILY"


def test_resume_with_another_method_is_refused_and_with_other_callbacks_goes_on(own_run, capsys):
    resumed = [*OWN[:1], "eval.problems=4"]
    sets = [*SHORT, "train.steps=2", f"run_folder={own_run}", *resumed]
    arguments = ["train", "--config", "tiny", "--resume", *(part for each in sets for part in ("--set", each))]
    assert main(arguments) == 2
    assert "credit.method was './credit_method.py:fading', is 'hicra'" in capsys.readouterr().err
    assert main([*arguments, "--set", OWN[1], "--set", OWN[2]]) == 0


QUESTIONS = [
    {"id": f"q{number}", "question": f"What is {number} + 1?", "answer": str(number + 1), "choices": []}
    for number in range(6)
]


@pytest.fixture(scope="module")
def questions(outside):
    """A file of questions of one's own."""
    (outside / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in QUESTIONS), encoding="utf-8")
    return "questions.jsonl"


ENGINE = "./engine.py:ScriptedEngine"


def test_an_engine_of_ones_own_generates_in_training_and_evaluates_a_card_of_ones_own(outside, questions):
    card = f"[{{name: ./benchmark.yaml, source: {questions}}}]"
    own = (f"rollout.engine={ENGINE}", "rollout.guard.every=0", f"eval.benchmarks={card}", "train.steps=1")
    assert train(outside / "scripted", *own) == 0
    records = read_rollouts(outside / "scripted", 1)
    assert len(records) == 16
    for record in records:
        assert record["response"].startswith("Wait. \\boxed{")
        assert (record["reward"]["verdict"] == "wrong") == ("nothing" in record["response"])
    lines = (outside / "scripted" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    right = [json.loads(line)["eval/shapes"] for line in lines]
    result = json.loads((outside / "scripted/evaluations/step_000001/shapes.robust.json").read_text())
    assert right == [result["score"]["accuracy"]] * 2  # the script does not learn
    assert 0 < right[0] < 1


def test_a_benchmark_of_ones_own_has_its_prompt_and_its_rules(outside, questions, capsys):
    own = "./benchmark.py:LastWord"
    asked = [
        "--benchmarks",
        own,
        "--data",
        f"{own}={questions}",
        "--engine",
        ENGINE,
        "--out",
        str(outside / "evaluated"),
    ]
    assert main(["eval", "--model", "tiny_vlm", *asked, "--json"]) == 0
    official, robust = json.loads(capsys.readouterr().out)
    assert (official["benchmark"], official["mode"], robust["mode"]) == ("last_word", "official", "robust")
    assert official["generation"]["questions"]["source"] == questions
    assert official["generation"]["engine"] == ENGINE
    assert official["score"]["accuracy"] == robust["score"]["accuracy"]
    assert 0 < official["score"]["accuracy"] < 1

    said = [
        {"id": each["id"], "response": f"It is {each['answer'] if at % 2 else 'no'}."}
        for at, each in enumerate(QUESTIONS)
    ]
    (outside / "responses.jsonl").write_text("".join(json.dumps(each) + "\n" for each in said), encoding="utf-8")
    scored = ["--benchmark", own, "--responses", "responses.jsonl", "--questions", questions, "--mode", "official"]
    assert main(["eval", "score", *scored, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["score"]["accuracy"] == 0.5


WRONG = [
    ("rollout.engine=vlm", "rollout.engine is 'vlm': input should be 'hf', 'vllm', or package.module:object"),
    ("credit.method=hicrra", "credit.method is 'hicrra': input should be 'hicra', 'grpo'"),
    ("eval.benchmarks=[{name: mathvisa}]", "input should be 'mathvista'"),
    ("rollout.engine=./engine.py:Missing", "rollout.engine: cannot load './engine.py:Missing': AttributeError"),
    ("model.family=qwen", "model.family is 'qwen': input should be 'auto', 'qwen2_vl'"),
    ("model.family=json:__doc__", "model.family: 'json:__doc__' is a str, not an object of a subclass"),
    ("model.family=mmhicra.vlm.qwen3_vl:QWEN3_VL", "is for Qwen3VLForConditionalGeneration"),
    ("model.family=./family.py:WithoutBoxes", "model.family: './family.py:WithoutBoxes' cannot be made: TypeError"),
    ("rollout.engine=json:dumps", "rollout.engine: 'json:dumps' takes"),
    ("eval.benchmarks=[{name: ./no_such.yaml}]", "no_such.yaml"),
    ("eval.benchmarks=[{name: 'json:dumps'}]", "eval.benchmarks: 'json:dumps' cannot be made"),
    ("eval.benchmarks=[{name: 'json:__doc__'}]", "'json:__doc__' is no benchmark: it lacks name, card"),
    ("credit.method=./no_such.py:f", "credit.method: cannot load './no_such.py:f': FileNotFoundError"),
    ("log.callbacks=['./callback.py:Path']", "has none of the methods"),
    ("log.callbacks=[callback]", "log.callbacks: 'callback' must read package.module:object"),
    ("reward.custom=[{path: 'python:__main__.f'}]", "was given to mmhicra as a Python object"),
]


@pytest.mark.parametrize(("override", "says"), WRONG, ids=[override for override, _ in WRONG])
def test_what_cannot_be_used_is_one_line_before_the_model_is_loaded(outside, capsys, override, says):
    assert train(outside / "wrong", override) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("mmhicra: ")
    assert says in line
    assert not (outside / "wrong" / "metrics.jsonl").exists()


CARDS = [
    ("title: A", "has no name"),
    ("{name: mathvista, title: A}", "is that of a benchmark that ships"),
    ("{name: a/b, title: A}", "is not of letters"),
    ("{name: a, title: A, colums: {}}", "colums is not a field"),
    ("{name: a, title: A, items: many}", "items is 'many', not of the type"),
    ("{name: a, title: A, modes: [official]}", "is scored in robust mode only"),
    ("{name: a, title: A, prompts: [short]}", "there is no prompt 'short'"),
    ("{name: a, title: A}", "its card names no hub id"),
]


@pytest.mark.parametrize(("card", "says"), CARDS)
def test_a_wrong_card_is_one_line(tmp_path, card, says):
    (tmp_path / "card.yaml").write_text(card)
    with pytest.raises(UserError, match=says) as caught:
        load_items(make_benchmark(f"{tmp_path}/card.yaml"))
    assert "\n" not in str(caught.value)
