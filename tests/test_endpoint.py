"""What is secret of an endpoint is used and nowhere shown or stored."""

import json

import pytest
from hicra.judge_server import JudgeServer, Scripted
from report.made_runs import record, write_run

from mmhicra.cli import main
from mmhicra.core.endpoint import Endpoint
from mmhicra.core.errors import ConfigError

KEY = "sk-proj-1234567890abcdef"
PASSWORD, TOKEN = "p%40ss-word-7", "QTOKEN/77"


def with_secrets(url):
    scheme, _, rest = url.partition("://")
    return f"{scheme}://ann:{PASSWORD}@{rest}?token=QTOKEN%2F77&api-version=2026-01"


@pytest.fixture
def questions(tmp_path):
    row = {
        "id": "1",
        "question": "How many?",
        "answer": "3",
        "level": 1,
        "subject": "x",
        "options": [],
        "image": "a.png",
    }
    (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "responses.jsonl").write_text(json.dumps({"id": "1", "response": "it may be three or four"}) + "\n")
    return ["--questions", str(tmp_path / "questions.jsonl"), "--responses", str(tmp_path / "responses.jsonl")]


def score(url, questions, tmp_path):
    judge = ["--judge", url, "--judge-model", "referee", "--judge-cache", str(tmp_path / "replies.jsonl")]
    out = ["--out", str(tmp_path / "result.json"), "--judge-retries", "0"]
    return main(["eval", "score", "--benchmark", "mathvision", "--mode", "robust", *questions, *judge, *out])


def no_secret(text):
    for secret in (KEY, PASSWORD, "p@ss-word-7", TOKEN, "QTOKEN", "2026-01"):
        assert secret not in text


def test_secrets_of_a_url_are_used_and_not_stored(questions, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with JudgeServer([Scripted(r"\boxed{right}")]) as server:
        assert score(with_secrets(server.url), questions, tmp_path) == 0
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions?token=QTOKEN%2F77&api-version=2026-01"
    assert request["key"].startswith("Basic ")  # the password in the URL is what the user chose
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["judge"]["url"] == server.url
    no_secret("".join(path.read_text() for path in tmp_path.iterdir()))
    no_secret("".join(capfd.readouterr()))


@pytest.mark.parametrize(
    "reply",
    [
        Scripted(f"Incorrect API key provided: Bearer {KEY}", status=401),
        Scripted(f"no model referee for {KEY} at ann:p@ss-word-7", status=404),
        Scripted(f"bad request with token {TOKEN} or QTOKEN%2F77", status=500),
        Scripted(f"the key {KEY[:-4]}**** of http://ann:p%40ss-word-7@host is unknown", status=403),
    ],
)
def test_what_an_endpoint_repeats_is_not_shown(reply, questions, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with JudgeServer([reply]) as server:
        assert score(with_secrets(server.url), questions, tmp_path) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("mmhicra: ")
    assert "***" in line
    no_secret(line)
    assert KEY[:-4] not in line


def test_the_errors_command_does_not_show_them_either(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    run = write_run(tmp_path / "run", [{"step": 1}], {1: [record(1, 0, "a text", "wrong")]})
    refusing = Scripted(f"Incorrect API key provided: {KEY}", status=401)
    not_taken = Scripted(f"too long for {KEY}", status=400)
    for replies, status in (([refusing], 2), ([not_taken], 0)):
        with JudgeServer(replies) as server:
            options = ["--judge", with_secrets(server.url), "--model", "referee", "--retries", "0"]
            assert main(["errors", str(run), *options]) == status
    said = capfd.readouterr()
    no_secret(said.out + said.err)
    no_secret((run / "errors.jsonl").read_text())
    assert "too long for ***" in (run / "errors.jsonl").read_text()


@pytest.mark.parametrize(
    "url",
    ["localhost", "ann:secret-9@host/v1", "http://", "http://ann:secret-9@:80/v1", "http://host:abc/v1", "http://[::1/v1",
     "ftp://host/v1", "http://host/v1?token=secret-9\n", "http://h ost/v1", "http://høst/v1", "http://host:99999/v1"],
)  # fmt: skip
def test_what_is_no_url_is_refused_without_its_secrets(url, questions, tmp_path, capfd):
    assert score(url, questions, tmp_path) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "give a URL such as http://127.0.0.1:8000/v1" in line
    assert "secret-9" not in line


def test_a_key_that_cannot_be_sent_and_numbers_that_cannot_be_used(monkeypatch):
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")
    assert Endpoint("http://host/v1", "m", "MY_KEY").key == KEY  # as `export MY_KEY=$(cat file)` leaves it
    for key in ("schlüssel", "two words", "a\nb"):
        monkeypatch.setenv("MY_KEY", key)
        with pytest.raises(ConfigError, match="the key in MY_KEY holds a character that no key has") as refusal:
            Endpoint("http://host/v1", "m", "MY_KEY")
        assert key not in str(refusal.value)
    for wrong in ({"concurrency": 0}, {"retries": -1}, {"timeout": 0.0}, {"timeout": float("nan")}):
        with pytest.raises(ConfigError, match="must be at least 1"):
            Endpoint("http://host/v1", "m", **wrong)
