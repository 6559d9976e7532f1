"""What the page says of run folders, whole and broken."""

import json
import threading
import urllib.request
from itertools import product

import pytest
from report.made_runs import HOSTILE, record, write_run

from mmhicra.cli import main
from mmhicra.core import compressed, run_lines
from mmhicra.core.errors import RunFolderError
from mmhicra.core.rollout_files import rollout_steps
from mmhicra.core.run_folder import RunFolder
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


def test_a_served_page_reads_only_the_steps_that_are_new(tmp_path, monkeypatch):
    """Bytes read grow by the new files alone, and the page is the one that a single reading makes."""
    monkeypatch.setattr(rollouts, "BUDGET", 60_000)
    run, read = RunFolder(tmp_path / "run"), []
    monkeypatch.setattr(run_lines, "read_lines", lambda path: read.append(path) or compressed.read_lines(path))
    page = rollouts.RolloutPage()

    def files_read(*steps):
        """Write rollouts of these steps and the page again; the rollout files that were opened for it."""
        run.path.mkdir(exist_ok=True)
        for step in steps:
            records = []
            for group, n in product(range(6), range(2)):
                text = f"so we see {step} " * (1 + (step + group) % 5)
                records.append(record(step, n, text, "wrong" if n else "right", prompt=f"p/{group}"))
            for rank in range(2):
                run.write_rollouts(step, [r for r in records if int(r["prompt"][2:]) % 2 == rank], rank, 2)
        last = max(files.step for files in rollout_steps(run.rollouts))
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in metrics(last)))
        read.clear()
        grown = page_data([read_run(run.path)], lambda *_: None, page)
        opened = [path.name for path in read if path.parent == run.rollouts]
        assert grown == data_of(run.path) or gone
        return opened, grown

    gone = False
    names = lambda *steps: [f"step_{step:06d}.rank_0{rank}.jsonl.zst" for step in steps for rank in range(2)]  # noqa: E731
    assert files_read(1, 2)[0] == names(1, 2)
    for step in range(3, 12):
        opened, data = files_read(step)
        assert opened == names(step)
    assert 0 < len(data["groups"]) < data["groups_total"] == 66
    assert {group["step"] for group in data["groups"]} == set(range(1, 12)), "some of every step"
    assert files_read()[0] == []
    opened, _ = files_read(11)  # it was rewound and taken again
    assert opened == names(*range(1, 12))
    gone = True
    run.prune_rollouts(3)
    opened, kept = files_read(12)
    assert opened == names(12)
    assert (kept["groups_total"], kept["audit"]["count"]) == (72, 144)
    assert "Steps 1 to 8 were read before log.rollouts_keep removed their files." in kept["missing"]
