"""The tutorials on boxes and on captions: what stands in them is run, on the tiny model and a local fake judge."""

import json
import os
import re
import shlex
import signal
from pathlib import Path

import pytest
from hicra.judge_server import JudgeServer, Scripted
from rollout_lines import read_rollouts
from short_runs import REPOSITORY, assert_same_run, metrics, run, start

from mmhicra.cli import main

pytestmark = pytest.mark.slow

GUIDES = REPOSITORY / "docs" / "guides"


def follow(page, folder, monkeypatch, change=lambda text: text):
    """Do what a page says in `folder`: run its Python, save its files, run its commands; returns the statuses."""
    monkeypatch.chdir(folder)
    text = change((GUIDES / page).read_text(encoding="utf-8"))
    statuses = []
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if language == "python":
            exec(compile(block, page, "exec"), {})
        elif language == "yaml":
            Path(block.split()[1]).write_text(block, encoding="utf-8")
        elif language == "text":
            Path("judge.txt").write_text(block, encoding="utf-8")
        elif language == "bash":
            statuses += [(line, main(shlex.split(line)[1:])) for line in block.splitlines()]
    return statuses


def test_the_page_on_boxes_trains_and_its_numbers_are_there(tmp_path, monkeypatch, capsys):
    statuses = follow("grounding.md", tmp_path, monkeypatch)
    assert [status for _, status in statuses] == [0, 0, 0]
    printed = capsys.readouterr().out
    assert re.search(r"gold\s+40\s+1\.000\s+1\.000\s+1\.000\s+1\.000", printed), printed
    assert re.search(r"box moved\s+40\s+0\.000\s+1\.000\s+0\.000\s+0\.000", printed), printed
    _, one, two = metrics("runs/grounding")
    assert 0 <= one["reward/part_iou"] == one["reward/mean"] <= 1
    assert 0 <= two["eval/part_iou"] <= 1
    assert json.loads(read_rollouts("runs/grounding")[0]["reward"]["gold"])["bbox_2d"]

    assert main(["reward", "test", "--config", "grounding.yaml", "--rollouts", "runs/grounding"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"rollouts\s+32 ", printed), printed
    assert "the run itself paid its 32 rollouts" in printed


def judge(n, request):
    """Points by the caption's length, now and then without a number: a judge of no taste, but always the same."""
    text = request["messages"][0]["content"]
    caption = text.split("Caption: ")[1].split("\n\nGive points")[0]
    if len(request["messages"]) == 1 and len(caption) % 5 == 0:
        return Scripted("I like it.")
    return Scripted(f"So be it.\n{len(caption) % 11}", tokens=(100, 10))


def test_the_page_on_captions_trains_with_a_judge_and_shows_its_cost(tmp_path, monkeypatch):
    with JudgeServer(judge) as server:
        statuses = follow(
            "captions_with_judge.md",
            tmp_path,
            monkeypatch,
            lambda text: text.replace("http://127.0.0.1:8000/v1\n      model", f"{server.url}\n      model"),
        )
        assert [status for _, status in statuses] == [0, 0]
        texts = [request["messages"][0]["content"] for request in server.requests]
    filled = "on the picture: A plain red square without any other object.\nThe caption has to name: red\n"
    assert any(filled in text for text in texts)
    records, summary = metrics("runs/captions"), json.loads(Path("runs/captions/summary.json").read_text())
    for record in records:
        assert record["reward/faithful/calls"] == 16
        assert record["reward/mean"] == pytest.approx(record["reward/part_faithful"])
        low, middle, high = (record[f"reward/part_faithful_{what}"] for what in ("min", "median", "max"))
        assert 0 <= low <= middle <= high <= 1
        assert record["reward/faithful/requests"] + record["reward/faithful/cached"] >= 16
        tokens = record["reward/faithful/prompt_tokens"], record["reward/faithful/completion_tokens"]
        assert tokens == (100 * record["reward/faithful/requests"], 10 * record["reward/faithful/requests"])
    judged = summary["judges"]["faithful"]
    assert judged["requests"] == sum(record["reward/faithful/requests"] for record in records) > 0
    assert judged["cost"] == pytest.approx((judged["prompt_tokens"] * 0.1 + judged["completion_tokens"] * 0.4) / 1e6)
    assert len(Path("runs/captions.replies/faithful.0.jsonl").read_text().splitlines()) == 1 + judged["requests"]


def overrides(folder, server):
    """A run with a judge, 2 steps of 16 responses."""
    prompt = folder / "judge.txt"
    prompt.write_text("Caption: {response}\n\nGive points for {gold}.")
    judges = [{"name": "faithful", "url": server.url, "model": "m", "prompt": str(prompt), "scale": [0, 10]}]
    judges[0] |= {"concurrency": 3, "price_in": 1.0, "price_out": 2.0}
    return ("train.steps=2", "eval.problems=0", f"reward.judges={json.dumps(judges)}")


def test_killed_and_resumed_gives_the_same_run_and_asks_nothing_twice(tmp_path):
    """Killed while the second step is judged, some of its replies kept: the run goes on as if nothing had been."""
    victims, killed = [], []

    def deadly(n, request):
        if victims and n == 24:
            killed.append(victims[0].pid)
            os.kill(victims[0].pid, signal.SIGKILL)
        return judge(n, request)

    with JudgeServer(judge) as server:
        calm = run(tmp_path / "calm", *overrides(tmp_path, server))
        wanted = len(server.requests)
    with JudgeServer(deadly) as server:
        changes = overrides(tmp_path, server)
        victims.append(start(tmp_path / "killed", changes))
        assert victims[0].wait() == -signal.SIGKILL
        assert killed
        kept = len((tmp_path / "killed.replies" / "faithful.0.jsonl").read_text().splitlines())
        assert kept > 16
        resumed = run(tmp_path / "killed", *changes, resume=True)
        in_flight = len(server.requests) - wanted
    assert 0 <= in_flight <= 3, "asked when the kill came, and not answered"
    assert_same_run(tmp_path / "calm", tmp_path / "killed", 2)
    assert calm["judges"] == resumed["judges"]
    for step in (1, 2):
        file = f"rollouts/step_{step:06d}.jsonl.zst"
        assert (tmp_path / "calm" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes()
    lines = (tmp_path / "killed.replies" / "faithful.0.jsonl").read_text().splitlines()
    assert len(lines) == len({json.loads(line)["key"] for line in lines}) == wanted
