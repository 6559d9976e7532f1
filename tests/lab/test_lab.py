"""The lab as a command: real runs in their own processes, resumed, and everything it writes."""

import json
import re
import shutil

import pytest
from rollout_lines import read_rollouts
from short_runs import SHORT_LAB, STRONG

from mmhicra.cli import main
from mmhicra.core.compressed import zstd_frame
from mmhicra.core.run_folder import RunFolder
from mmhicra.lab.outcomes import read_outcome
from mmhicra.lab.runs import LabError, LabRun

pytestmark = pytest.mark.slow


def test_it_writes_tables_numbers_and_a_picture(lab):
    results = json.loads((lab / "lab.json").read_text())
    assert [row["method"] for row in results["methods"]] == ["grpo", "strong"]
    assert len(results["runs"]) == 4
    for run in results["runs"]:
        summary = json.loads((lab / f"runs/{run['method']}/seed_{run['seed']}/summary.json").read_text())
        assert run["after"] == summary["held_out"]["after"]["mean"]
        failures = run["planning_errors"] + run["execution_errors"]
        assert failures == pytest.approx(100 * (1 - run["late_accuracy"]))  # the late step is one that was judged
    assert (lab / "curves.png").read_bytes().startswith(b"\x89PNG")
    table = (lab / "table.md").read_text()
    assert "| strong | 2 |" in table
    assert (lab / "table.csv").read_text().startswith("method,what,number,mean")


def test_methods_start_alike_and_see_the_same_problems(lab):
    for seed in (0, 1):
        folders = [lab / f"runs/{method}/seed_{seed}" for method in ("grpo", "strong")]
        responses = [[record["response"] for record in read_rollouts(folder)] for folder in folders]
        assert responses[0] == responses[1]  # identical starts: even the first rollouts


def test_it_goes_on_where_it_stopped_and_repeats_nothing(lab, tmp_path):
    out = tmp_path / "lab"
    shutil.copytree(lab, out)
    whole = (out / "lab.json").read_text()
    shutil.rmtree(out / "runs/strong/seed_1")
    untouched = (out / "runs/grpo/seed_0/summary.json").stat().st_mtime_ns
    for config in (out / "runs").glob("*/*/config.yaml"):
        config.write_text(config.read_text().replace(str(lab), str(out)))
    assert main(["lab", *SHORT_LAB, *STRONG, "--out", str(out)]) == 0
    assert (out / "runs/grpo/seed_0/summary.json").stat().st_mtime_ns == untouched
    again = json.loads((out / "lab.json").read_text())
    for old, new in zip(json.loads(whole)["runs"], again["runs"], strict=True):
        assert {**old, "minutes": 0} == {**new, "minutes": 0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "ppo"], "no method named 'ppo': choose from grpo, hicra"),
        (["--variant", "odd"], "--variant 'odd': 'odd' has no setting"),
        (["--variant", "grpo=hicra.alpha=0.9"], "'grpo' is there already"),
        (["--seeds", "0"], "--seeds (0)"),
        (["--set", "hicra.alpha=2"], "hicra.alpha"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(tmp_path, capsys, arguments, said):
    assert main(["lab", *SHORT_LAB, "--out", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_run_that_fails_stops_the_lab_and_names_its_output(tmp_path, capsys):
    broken = ["--set", "data.max_refused_share=0.0", "--set", "data.max_prompt_tokens=5"]
    assert main(["lab", *SHORT_LAB, "--seeds", "1", "--out", str(tmp_path), *broken]) == 2
    assert "seed 0 failed (2): see" in capsys.readouterr().err


def test_another_configuration_in_the_same_folder_is_refused(lab, capsys):
    assert main(["lab", *SHORT_LAB, "--out", str(lab), "--set", "rollout.temperature=0.9"]) == 2
    assert "holds a run with another configuration" in capsys.readouterr().err


DAMAGE = {
    "summary.json": {
        "half": (lambda text: text[: len(text) // 2], "line "),
        "a list": (lambda text: "[]", "it is []"),
        "no UTF-8": (lambda text: b"\xff\xfe{", "codec"),
        "another type": (lambda text: json.dumps({**json.loads(text), "held_out": 7}), "held_out is 7"),
        "no number": (lambda text: re.sub(r'"mean": [^,]*', '"mean": NaN', text), "held_out.before.mean is nan"),
        "no times": (lambda text: json.dumps({**json.loads(text), "seconds_by_phase": {}}), "has no step"),
    },
    "metrics.jsonl": {
        "a cut line": (lambda text: text[:-40], "line 6: not JSON"),
        "a lost line": (lambda text: "".join(text.splitlines(True)[:-1]), "does not tell of the steps 1 to 5"),
        "null": (
            lambda text: re.sub(r'"accuracy/mean": [^,]*', '"accuracy/mean": null', text),
            "accuracy/mean is None",
        ),
        "empty": (lambda text: "", "does not tell of the steps 1 to 5"),
    },
    "rollouts/step_000005.jsonl.zst": {
        "cut off": (lambda data: data[:-40], "damaged: cut off"),
        "another bit": (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "damaged: "),
        "another object": (lambda data: data + zstd_frame(b"{}\n"), "no prompt"),
    },
}


@pytest.mark.parametrize("file", DAMAGE)
def test_a_damaged_run_is_named_and_not_compared(lab, tmp_path, file):
    folder = tmp_path / "lab/runs/grpo/seed_0"
    shutil.copytree(lab / "runs/grpo/seed_0", folder)
    run = LabRun("grpo", 0, 5, RunFolder(str(folder)), tmp_path / "config.yaml")
    whole, data = read_outcome(run), (folder / file).read_bytes()
    content = data if file.endswith(".zst") else data.decode()
    for kind, (spoil, said) in DAMAGE[file].items():
        spoilt = spoil(content)
        (folder / file).write_bytes(spoilt if isinstance(spoilt, bytes) else spoilt.encode())
        with pytest.raises(LabError, match=f"grpo, seed 0: .*{file} is damaged ") as refusal:
            read_outcome(run)
        assert said in str(refusal.value), kind
        assert "\n" not in str(refusal.value), kind
    (folder / file).write_bytes(data)
    assert read_outcome(run) == whole
