"""What the user can mend gives one clear line and exit status 2, never a traceback."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image
from short_runs import SHORT, TINY, metrics

from mmhicra.cli import main
from mmhicra.config import LogConfig
from mmhicra.core.errors import ConfigError, RunFolderError
from mmhicra.core.run_folder import RunFolder
from mmhicra.train.loop.trackers import refuse_missing_trackers

ROWS = 40


def make_data(folder, change=lambda index, row: None):
    """A small data folder in the Geometry3K layout; `change` spoils rows."""
    (folder / "images").mkdir(parents=True)
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        for index in range(ROWS):
            Image.new("RGB", (84, 84), (index, 80, 120)).save(folder / "images" / f"{index}.jpg")
            row = {"images": [f"images/{index}.jpg"], "problem": f"<image>How many, {index}?", "answer": str(index)}
            change(index, row)
            file.write(json.dumps(row) + "\n")
    return folder


def command(folder, *overrides):
    """Run `mmhicra train` in this process; returns its exit status."""
    sets = [*SHORT, "train.steps=1", f"run_folder={folder}", *overrides]
    return main(["train", "--config", str(TINY), *(part for override in sets for part in ("--set", override))])


def one_line(capsys):
    """The single line on standard error."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("mmhicra: ")
    return lines[0]


def refused(run_folder):
    return [json.loads(line) for line in (run_folder / "refused.jsonl").read_text(encoding="utf-8").splitlines()]


def spoil(kind, folder):
    """Spoils row 7 in one of the ways data gets spoilt."""

    def change(index, row):
        if index != 7:
            return
        image = folder / "images" / "7.jpg"
        if kind == "corrupt JPEG":
            image.write_bytes(image.read_bytes()[:300])
        elif kind == "missing file":
            image.unlink()
        elif kind == "empty answer":
            row["answer"] = ""
        elif kind == "two placeholders":
            row["problem"] = "<image><image>How many?"
        elif kind == "unparsable gold":
            row["answer"] = "\\frac{1}{"
        elif kind == "long prompt":
            row["problem"] += " very" * 1000

    return change


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("corrupt JPEG", "images/7.jpg"),
        ("missing file", "images/7.jpg"),
        ("empty answer", "answer"),
        ("two placeholders", "placeholders unlike images"),
        ("unparsable gold", "gold"),
        ("long prompt", "exceed data.max_prompt_tokens"),
    ],
)
def test_a_row_that_cannot_be_used_stops_the_run_and_is_listed(tmp_path, capsys, kind, said):
    data = make_data(tmp_path / "data", spoil(kind, tmp_path / "data"))
    assert command(tmp_path / "run", f"data.source={data}", "eval.problems=0") == 2
    line = one_line(capsys)
    assert said in line
    assert "train.jsonl:8" in line
    assert "data.max_refused_share" in line
    (row,) = refused(tmp_path / "run")
    assert (row["row"], said in row["reason"]) == (8, True)


def test_within_the_allowed_share_the_rest_is_trained_on(tmp_path):
    data = make_data(tmp_path / "data", spoil("corrupt JPEG", tmp_path / "data"))
    assert command(tmp_path / "run", f"data.source={data}", "eval.problems=0", "data.max_refused_share=0.05") == 0
    assert len(refused(tmp_path / "run")) == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["problems"] == {"train": ROWS - 1, "held_out": 0, "refused": 1}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.stepz=1"], "train.stepz is not a known field; did you mean train.steps?"),
        (["data.source=/nowhere/at/all"], "/nowhere/at/all"),
        (["model.path=/nowhere/at/all"], "model.path /nowhere/at/all"),
        (["hicra.grams=/nowhere/grams.json"], "/nowhere/grams.json"),
        (["reward.custom=[{path: 'nowhere.module:f'}]"], "nowhere.module"),
        (["data.count=2"], "set train.prompts_per_step (4) to 2 or less"),
        (["rollout.stop_tokens=[not one token]"], "rollout.stop_tokens"),
        (["data.tasks=[chess]"], "chess"),
    ],
)
def test_mistakes_give_one_line(tmp_path, capsys, overrides, said):
    assert command(tmp_path / "run", *overrides) == 2
    assert said in one_line(capsys)


def test_a_tracker_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "tensorboard" or None)
    said = r"comet_ml is not installed: pip install 'mmhicra\[comet\]', or --set log.trackers=\[tensorboard\]$"
    with pytest.raises(ConfigError, match=said):
        refuse_missing_trackers(LogConfig(trackers=["tensorboard", "comet"]))


def test_a_missing_config_file(capsys):
    assert main(["train", "--config", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in one_line(capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_run_folder(tmp_path, capsys):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert command(tmp_path / "locked" / "run") == 2
    assert "Permission denied" in one_line(capsys)


def test_a_run_folder_that_is_a_file(tmp_path, capsys):
    (tmp_path / "run").write_text("not a folder")
    assert command(tmp_path / "run") == 2
    assert f"cannot write {tmp_path / 'run'}" in one_line(capsys)


def test_a_run_folder_under_proc_cannot_be_written(capsys):
    """Nobody may write there, not even root."""
    assert command("/proc/mmhicra") == 2
    assert "cannot write /proc/mmhicra" in one_line(capsys)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MB: enough for metrics, too small for a checkpoint."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small file system takes root and mount")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"this machine cannot mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk(small_disk, capsys):
    assert command(small_disk / "run") == 2
    line = one_line(capsys)
    assert "No space left on device" in line
    assert str(small_disk) in line
    assert not list((small_disk / "run" / "checkpoints").glob("step_??????"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_metrics_on_a_full_disk(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.symlink_to("/dev/full")
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl: No space left on device"):
        folder.append_metrics({"step": 1})


def test_a_refused_run_leaves_the_folder_free(tmp_path):
    assert command(tmp_path / "run", "data.source=/nowhere/at/all") == 2
    assert command(tmp_path / "run", "eval.problems=0") == 0


def test_a_custom_reward_is_found_where_the_user_stands(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("def brief(problem, completion, record):\n    return 1 / len(completion)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    reward = "reward.custom=[{path: 'my_rewards:brief', weight: 0.5}]"
    assert command(tmp_path / "run", "eval.problems=0", reward) == 0
    assert 0 < metrics(tmp_path / "run")[-1]["reward/part_my_rewards:brief"] <= 1


def test_the_console_script_exits_with_2_and_no_traceback(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "mmhicra", "train", "--config", str(TINY), "--set", "train.steps=x"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert process.returncode == 2
    assert process.stderr == "mmhicra: configuration: train.steps is 'x': input should be a valid integer\n"
    assert process.stdout == ""
