"""The second stage against a real HTTP server: it sees only what the rules left open, and what it cost is said."""

from __future__ import annotations

import json
import sys

import pytest
from hicra.judge_server import JudgeServer, Scripted

from mmhicra.cli import main
from mmhicra.evaluate.benchmarks import official_prompts
from mmhicra.evaluate.scoring.judging import REMINDER

RIGHT, WRONG = Scripted(r"It commits itself. \boxed{right}"), Scripted(r"\boxed{\text{wrong}}")
VISION = [
    {
        "id": str(number),
        "question": f"How many ({number})?",
        "options": [],
        "answer": "7",
        "level": 1,
        "subject": "logic",
    }
    for number in range(5)
]
SAID = {
    "0": r"So \boxed{7}.",  # decided
    "1": "It is one more than six, I would say, having looked at the whole of the picture for quite a good while.",
    "2": "I count the marks on the left and find 9 of them in all, but the ones on the right are many more to count.",
    "3": "",  # nothing to judge
    "4": "<think>it goes on",  # cut off
}
VISTA = {
    "1": {"pid": "1", "question": "Is it?", "choices": ["Yes", "No"], "precision": None, "answer": "No",
          "question_type": "multi_choice", "answer_type": "text", "metadata": {"skills": []}, "query": "Hint: Is it?",
          "response": "It looks rather unlikely to me, all in all, as far as one can tell from this picture here."},
}  # fmt: skip


@pytest.fixture
def score(tmp_path, capsys):
    questions, responses = tmp_path / "q.jsonl", tmp_path / "r.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in VISION))
    responses.write_text("".join(json.dumps({"id": i, "response": text}) + "\n" for i, text in SAID.items()))

    def score(url, *more, status=0, benchmark="mathvision", source=("--questions", str(questions))):
        options = [*("--benchmark", benchmark, "--responses", str(responses), *source), "--mode", "robust"]
        judge = ["--judge", url, "--judge-model", "referee", "--judge-cache", str(tmp_path / "cache.jsonl")]
        out = ["--out", str(tmp_path / "x.json"), "--json"]
        assert main(["eval", "score", *options, *judge, *out, *more]) == status
        said = capsys.readouterr()
        return said.err if status else json.loads(said.out)

    return score


def test_only_the_undecided_are_asked_and_the_cost_is_said(score, tmp_path):
    with JudgeServer([RIGHT, WRONG]) as server:
        result = score(server.url, "--judge-concurrency", "1", "--judge-prices", "1", "10")
        again = score(server.url, "--judge-concurrency", "1")
    assert len(server.requests) == 2
    judge = result["judge"]
    assert (judge["asked"], judge["of"], judge["share"], judge["overturned"]) == (2, 5, 0.4, 1)
    assert (judge["requests"], judge["cached"], judge["prompt_tokens"], judge["completion_tokens"]) == (2, 0, 200, 20)
    assert judge["cost"] == pytest.approx(200e-6 + 200e-6)
    assert (judge["model"], judge["mode"], judge["unparsed"]) == ("referee", "local", 0)
    assert (again["judge"]["requests"], again["judge"]["cached"]) == (0, 2)
    assert again["score"] == result["score"]
    lines = [json.loads(line) for line in (tmp_path / "x.samples.jsonl").read_text().splitlines()]
    assert [(line["correct"], line["judged"]) for line in lines] == [
        *((True, False), (True, True), (False, True), (False, False), (False, False))
    ]
    prompt = server.requests[0]["messages"][0]["content"]
    assert "<right_answer>\n7\n" in prompt
    assert SAID["1"] in prompt
    assert server.requests[0]["temperature"] == 0


def test_an_unreadable_verdict_is_asked_again_then_the_rules_stand_and_it_is_counted(score):
    with JudgeServer([Scripted("Hm.")]) as server:
        result = score(server.url, "--judge-concurrency", "1")
    assert [request["messages"][-1]["content"] for request in server.requests][1::2] == [REMINDER] * 2
    assert (result["judge"]["unparsed"], result["judge"]["overturned"], result["score"]["correct"]) == (2, 0, 1)


def test_an_unreachable_judge_is_an_error_and_leaves_no_result(score, tmp_path):
    said = score("http://127.0.0.1:9/v1", "--judge-retries", "0", status=2)
    assert "http://127.0.0.1:9/v1 does not answer after 0 retries" in said
    assert not (tmp_path / "x.json").exists()


@pytest.fixture
def lmms_eval(tmp_path, monkeypatch):
    """A package with the prompts where lmms-eval has them, whose modules cannot be imported."""
    official_prompts.official_prompt.cache_clear()
    files = {
        "__init__.py": "raise ImportError('not to be imported')",
        "tasks/mathvista/mathvista_evals.py": "import nothing_of_that_name\nDEMO_PROMPT = 'Read it out.'\n",
        "llm_judge/prompt.py": "BINARY_JUDGE_PROMPT = 'Q {question} A {answer} P {prediction}: {positive}, {negative}'",
    }
    for name, text in files.items():
        (tmp_path / "site/lmms_eval" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site/lmms_eval" / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "lmms_eval", raising=False)
    yield
    official_prompts.official_prompt.cache_clear()


def test_official_prompts_come_from_lmms_eval(score, lmms_eval, tmp_path):
    with JudgeServer([Scripted("1"), Scripted("0")]) as server:
        result = score(server.url, "--judge-mode", "official", "--judge-concurrency", "1")
    assert result["judge"]["overturned"] == 1
    assert server.requests[0]["messages"][0]["content"] == f"Q How many (1)? A 7 P {SAID['1']}: 1, 0"
    file = tmp_path / "output.json"
    file.write_text(json.dumps(VISTA))
    with JudgeServer([Scripted("(B) No")]) as server:
        source = ("--responses", str(file))
        result = score(server.url, "--judge-mode", "official", benchmark="mathvista", source=source)
    assert (result["score"]["correct"], result["methods"]) == (1, {"extracted by the judge": 1})
    asked = server.requests[0]["messages"][0]["content"]
    assert asked == f"Read it out.\n\nHint: Is it?\n\n{VISTA['1']['response']}\n\nExtracted answer: "


def test_without_lmms_eval_official_is_refused_by_name(score, monkeypatch):
    official_prompts.official_prompt.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "lmms-eval, which is not installed" in score("http://127.0.0.1:9/v1", "--judge-mode", "official", status=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--judge", "localhost"], "give a URL"), (["--judge", "http://x/v1"], "needs --judge-model NAME")],
)
def test_half_a_judge_is_refused(options, said, capsys):
    assert main(["eval", "score", "--benchmark", "mathvision", "--responses", "x.jsonl", *options]) == 2
    assert said in capsys.readouterr().err
