"""What the page says of run folders, whole and broken."""

import json
import threading
import urllib.request

import pytest
from report.made_runs import HOSTILE, record, write_run

from mmhicra.cli import main
from mmhicra.core.errors import RunFolderError
from mmhicra.data.refused import RefusedRow, write_refused
from mmhicra.report import page, rollouts
from mmhicra.report.audit import suspicions
from mmhicra.report.folder import find_runs, read_run
from mmhicra.report.page import page_data, render
from mmhicra.report.serve import Follower, make_server


def data_of(*folders):
    return page_data([read_run(folder) for folder in folders], lambda *_: None)


def metrics(last, **more):
    return [{"step": step, "accuracy/mean": step / 10, "time/step": 1.0, **more} for step in range(1, last + 1)]


def test_a_killed_run_of_one_step_without_evaluation_and_images_says_so(tmp_path):
    run = write_run(tmp_path / "run", metrics(1), {1: [record(1, 0, "a text")]})
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "accu')
    said = " ".join(data_of(run)["missing"])
    for part in ("after step 1 of 9", "only one step", "no evaluation", "text only", "last line of metrics.jsonl"):
        assert part in said


def test_a_folder_with_nothing_but_a_configuration_gives_a_page(tmp_path):
    run = write_run(tmp_path / "run", [], {})
    data = data_of(run)
    assert data["verdict"] == "No step is finished: there is nothing to say yet."
    assert "no rollout files" in " ".join(data["missing"])
    assert "<html" in render(data)


def test_a_run_that_trained_nothing_or_skipped_updates_says_so_first(tmp_path):
    idle = write_run(tmp_path / "idle", metrics(3, **{"group/kept": 0.0}), {})
    said = "Nothing was trained so far: no step had a group whose rewards differ."
    assert data_of(idle)["verdict"].endswith(said)
    ill = write_run(tmp_path / "ill", metrics(3, **{"group/kept": 2.0, "optimizer/skipped": 1.0}), {})
    assert data_of(ill)["verdict"].endswith("of the last. 3 optimizer updates were skipped.")
    well = write_run(tmp_path / "well", metrics(3, **{"group/kept": 2.0, "optimizer/skipped": 0.0}), {})
    assert data_of(well)["verdict"].endswith("of the last.")
    (idle / "summary.json").write_text(json.dumps({"advice": ["nothing was trained: take easier problems"]}))
    assert data_of(idle)["verdict"].endswith("Nothing was trained: take easier problems.")


def test_hostile_text_stays_inside_its_json(tmp_path):
    run = write_run(tmp_path / "run", metrics(2), {1: [record(1, i, text) for i, text in enumerate(HOSTILE)]})
    data = data_of(run)
    inert = render(data).split('id="data">')[1].split("</script>")[0]
    assert "<" not in inert
    assert [c["text"] for c in json.loads(inert)["groups"][0]["completions"]] == HOSTILE


def test_counts_are_over_all_rollouts_and_the_browser_is_sampled(tmp_path, monkeypatch):
    steps = {step: [record(step, i, "some text", "wrong" if i else "right") for i in range(4)] for step in range(1, 9)}
    run = write_run(tmp_path / "run", metrics(8), steps)
    whole = data_of(run)
    assert len(whole["groups"]) == whole["groups_total"] == 8
    size = len(json.dumps(whole["groups"][0]))
    monkeypatch.setattr(rollouts, "BUDGET", 3 * size)
    part = data_of(run)
    assert 2 <= len(part["groups"]) <= 3
    assert part["audit"] == whole["audit"]
    assert {(verdict, count) for verdict, _, count in part["audit"]["reasons"]} == {("right", 8), ("wrong", 24)}
    (gram,) = part["grams"]["rows"]
    assert (gram["hits"], gram["right"], gram["wrong"], gram["times"]) == (32, 8, 24, [1.0] * 8)


@pytest.mark.parametrize(
    ("text", "more", "pattern"),
    [
        ("again and " * 60, {}, "repeated text"),
        ("\\boxed{1} or \\boxed{2} it may well be", {}, "several different boxed answers"),
        ("\\boxed{1} it is now", {"finish_reason": "length"}, "right, but cut off"),
        ("\\boxed{1}", {}, "right without any reasoning"),
        ("we see one and add two, \\boxed{3}", {}, None),
    ],
)
def test_suspicions(text, more, pattern):
    assert suspicions(record(1, 0, text, **more)) == ([pattern] if pattern else [])


@pytest.mark.parametrize(
    ("text", "gold", "choices", "verdict", "official"),
    [
        ("so it is \\boxed{50\\%}", "0.5", [], "right", False),
        ("so it is \\boxed{0.5}", "1/2", [], "right", True),
        ("so it is \\boxed{2.004}", "2", [], "wrong", True),
        ("so it is \\boxed{40}", "B", ["30", "40"], "right", True),
        ("so it is \\boxed{40}", "B", [], "right", False),
        ("so it is forty", "40", [], "no-answer", False),
    ],
)
def test_official_and_robust_scoring_are_compared(tmp_path, text, gold, choices, verdict, official):
    reward = {"extracted": "x", "method": "boxed", "gold": gold, "verdict": verdict, "why": "", "parts": {}, "total": 0}
    unusable = record(1, 2, text, reward={**reward, "verdict": "gold-unusable"})
    records = [record(1, i, text, reward=reward, choices=choices) for i in (0, 1)]
    found = data_of(write_run(tmp_path / "run", metrics(2), {1: [*records, unusable]}))["audit"]["official"]
    robust = verdict == "right"
    assert (found["scored"], found["robust_right"], found["official_right"]) == (2, 2 * robust, 2 * official)
    assert [case["count"] for case in found["listed"]] == ([2] if robust != official else [])
    assert (found["only_robust"], found["only_official"]) == (2 * (robust > official), 2 * (official > robust))


def test_refused_rows_are_listed_by_what_is_wrong_with_them(tmp_path):
    run = write_run(tmp_path / "run", metrics(2), {})
    rows = [RefusedRow("set.jsonl", n, f"p{n}", f"{n} prompt tokens exceed 5: shorten it", "Why?") for n in range(1, 8)]
    gold = RefusedRow("set.jsonl", 9, "p9", "the gold as a completion is judged wrong: another number", HOSTILE[0])
    write_refused(run / "refused.jsonl", [gold, *rows])
    first, second = data_of(run)["refused"]
    assert (first["kind"], first["count"], len(first["rows"])) == ("N prompt tokens exceed N", 7, 7)
    assert second["rows"] == [["set.jsonl:9", "p9", gold.reason, HOSTILE[0]]]


def test_a_problem_that_came_twice_in_a_step_is_two_groups(tmp_path):
    run = write_run(tmp_path / "run", metrics(2), {1: [record(1, i % 2, f"text {i}") for i in range(4)]})
    data = data_of(run)
    assert [(group["copy"], [c["text"] for c in group["completions"]]) for group in data["groups"]] == [
        (0, ["text 0", "text 1"]), (1, ["text 2", "text 3"]),
    ]  # fmt: skip
    assert {(entry["copy"], entry["text"]) for entry in data["audit"]["longest"]} == {
        (0, "text 0"), (0, "text 1"), (1, "text 2"), (1, "text 3"),
    }  # fmt: skip


def test_long_runs_are_thinned_but_keep_their_evaluations_and_their_sums(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "POINTS", 10)
    lines = metrics(29, **{"memory/rollout_gib": 1.5, "time/rollout": 0.5})
    lines[16] |= {"eval/accuracy": 0.5, "eval/accuracy_low": 0.4, "eval/accuracy_high": 0.6}
    lines[4]["memory/rollout_gib"] = 2.5
    data = data_of(write_run(tmp_path / "run", lines, {}))
    assert data["runs"][0]["metrics"]["step"] == [*range(1, 17, 3), 17, *range(19, 29, 3), 29]
    assert data["spent"] == [("rollout", 14.5, 2.5)]
    assert "one step in 3" in " ".join(data["missing"])


def test_a_lab_is_all_of_its_runs(tmp_path):
    for name in ("grpo/seed_0", "grpo/seed_1", "hicra/seed_0"):
        write_run(tmp_path / "lab/runs" / name, metrics(3), {})
    found = find_runs([tmp_path / "lab"])
    assert [(run["method"], run["name"]) for run in data_of(*found)["runs"]] == [
        ("grpo", "grpo, seed 0"), ("grpo", "grpo, seed 1"), ("hicra", "hicra, seed 0"),
    ]  # fmt: skip
    with pytest.raises(RunFolderError, match="holds no run"):
        find_runs([tmp_path])


def test_the_command_writes_the_page_and_names_what_is_missing(tmp_path, capsys):
    run = write_run(tmp_path / "run", metrics(2), {})
    assert main(["report", str(run)]) == 0
    assert "not on the page: summary.json is missing" in capsys.readouterr().out.replace("\n", " ")
    assert (run / "report.html").stat().st_size > 50_000
    assert main(["report", str(tmp_path / "nothing")]) == 2


def test_served_pages_follow_the_run(tmp_path):
    run = write_run(tmp_path / "run", metrics(1), {})
    with make_server(Follower([run], tmp_path / "page.html"), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_address[1]}"
        before = urllib.request.urlopen(f"{root}/stamp").read()
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics(5)))
        assert urllib.request.urlopen(f"{root}/stamp").read() != before
        assert b'"step":[1,2,3,4,5]' in urllib.request.urlopen(root).read()
        server.shutdown()
