"""Benchmarks in the loop: the numbers of `mmhicra eval` on the saved checkpoint, and the best checkpoint stays."""

from __future__ import annotations

import json
import shutil

import pytest
from made_questions import write_questions
from short_runs import metrics, run

from mmhicra.cli import main
from mmhicra.config import EvalConfig
from mmhicra.core.errors import ConfigError, DataError
from mmhicra.train.loop.best import better, value_of

pytestmark = pytest.mark.slow

BENCHMARKS = ["eval.every=1", "eval.temperature=1.0", "eval.n=2", "eval.max_new_tokens=24", "rollout.max_sequences=8"]


def configured(files, *names):
    entries = ", ".join(f"{{name: {name}, source: '{files[name]}', prompt: boxed}}" for name in names)
    return [*BENCHMARKS, f"eval.benchmarks=[{entries}]"]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(live, offline, names):
    """Responses and verdicts of two folders, line by line."""
    for name in names:
        for kind in ("responses.jsonl", "official.samples.jsonl", "robust.samples.jsonl"):
            assert lines(live / f"{name}.{kind}") == lines(offline / f"{name}.{kind}"), (name, kind)


def test_in_the_loop_equals_offline_on_the_saved_checkpoint(tmp_path, capsys):
    files = write_questions(tmp_path, 6)
    folder = tmp_path / "run"
    summary = run(folder, *configured(files, "mathvista", "mathverse", "mathvision"))
    record = metrics(folder)[-1]
    model = ["--model", str(folder / "checkpoints" / "step_000003"), "--config", str(folder / "config.yaml")]
    assert main(["eval", *model, "--out", str(tmp_path / "offline"), "--json"]) == 0
    offline = {(r["benchmark"], r["mode"]): r for r in json.loads(capsys.readouterr().out)}
    assert_same(folder / "evaluations" / "step_000003", tmp_path / "offline", files)
    for name in files:
        assert record[f"eval/{name}"] == offline[name, "robust"]["score"]["accuracy"]
        assert record[f"eval/{name}_official"] == offline[name, "official"]["score"]["accuracy"]
        assert record[f"eval/{name}_pass_at_2"] == offline[name, "robust"]["samples"]["pass"]["2"]["accuracy"]
        assert summary["benchmarks"]["after"][name] == record[f"eval/{name}"]
    texts = [line["response"] for line in lines(tmp_path / "offline" / "mathvision.responses.jsonl")]
    first = folder / "evaluations" / "step_000000" / "mathvision.responses.jsonl"
    assert texts != [line["response"] for line in lines(first)]  # three steps have changed the model


@pytest.mark.parametrize(
    "training",
    [("model.precision=bf16",), ("model.lora={rank: 4, alpha: 64}", "train.optimizer.learning_rate=0.01")],
    ids=["bf16", "lora"],
)
def test_a_run_folder_has_the_very_weights_that_the_loop_evaluated(tmp_path, training):
    files = write_questions(tmp_path, 4)
    folder = tmp_path / "run"
    run(folder, *configured(files, "mathvision"), *training)
    assert main(["eval", "--run-folder", str(folder), "--step", "2", "--out", str(tmp_path / "offline")]) == 0
    assert_same(folder / "evaluations" / "step_000002", tmp_path / "offline", ["mathvision"])
    result = json.loads((tmp_path / "offline" / "mathvision.robust.json").read_text())
    assert result["generation"]["model"]["name"] == "run-step_000002"


def refuse_what_is_damaged(folder, step, capsys):
    """`mmhicra eval --run-folder` with a damaged `best.json`, and with other weights than were written."""
    file = folder / "checkpoints" / "best.json"
    whole = file.read_bytes()
    for content, said in [
        (b'{"step"', "is damaged (Expecting"),
        (b"", "is damaged (Expecting"),
        (b"\xff\xfe", "is damaged ("),
        (b"[]", "is damaged (list indices"),
        (b"{}", "is damaged (it has no checkpoint)"),
        (b'{"checkpoint": 7}', "is damaged (its checkpoint is 7)"),
        (b'{"checkpoint": "../../other"}', "is damaged (its checkpoint is '../../other')"),
        (b'{"checkpoint": "step_000077"}', "step_000077 does not exist"),
    ]:
        file.write_bytes(content)
        assert main(["eval", "--run-folder", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("mmhicra: "), line
        assert said in line
    file.write_bytes(whole)
    weights = folder / "checkpoints" / f"step_{step:06d}" / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-5] + bytes([kept[-5] ^ 1]) + kept[-4:])
    for arguments in (["--run-folder", str(folder)], ["--model", str(weights.parent), "--benchmarks", "mathvision"]):
        assert main(["eval", *arguments]) == 2
        assert "is damaged: model.safetensors has other bytes than were written" in capsys.readouterr().err
    weights.write_bytes(kept)


def test_the_best_checkpoint_stays_and_a_resumed_run_remembers_it(tmp_path, capsys):
    files = write_questions(tmp_path, 2)
    options = [*configured(files, "mathvision"), "log.keep_checkpoints=1", "eval.best_by=eval/length"]
    folder = tmp_path / "run"
    run(folder, *options)
    lengths = {r["step"]: r["eval/length"] for r in metrics(folder) if r["step"]}
    best = max(lengths, key=lambda step: (lengths[step], -step))
    noted = json.loads((folder / "checkpoints" / "best.json").read_text())
    assert (noted["step"], noted["value"], noted["metric"]) == (best, lengths[best], "eval/length")
    kept = {path.name for path in (folder / "checkpoints").glob("step_*")}
    assert kept == {f"step_{best:06d}", "step_000003"}
    refuse_what_is_damaged(folder, best, capsys)
    resumed = run(folder, *options, "train.steps=4", resume=True)
    assert resumed["best"]["value"] == max(r["eval/length"] for r in metrics(folder) if r["step"])


def test_only_a_better_evaluation_is_better():
    first = better(None, 1, "eval/accuracy", 0.5)
    assert first is not None
    assert better(first, 2, "eval/accuracy", 0.5) is None
    assert better(first, 2, "eval/mathvista", 0.1) == {"step": 2, "metric": "eval/mathvista", "value": 0.1}
    options = EvalConfig(benchmarks=[{"name": "mathvista"}, {"name": "aime24"}])
    assert value_of(options, {"eval/mathvista": 0.5, "eval/aime24": 0.1})[1] == pytest.approx(0.3)


def test_mistakes_are_refused_before_training(tmp_path):
    files = write_questions(tmp_path, 2)
    with pytest.raises(ConfigError, match=r"eval\.best_by eval/nothing is no metric .* eval/mathvision"):
        run(tmp_path / "a", *configured(files, "mathvision"), "eval.best_by=eval/nothing")
    shutil.copy(files["mathvista"], files["mathvision"])
    with pytest.raises(DataError, match="has no 'subject'"):
        run(tmp_path / "b", *configured(files, "mathvision"))
    with pytest.raises(ConfigError, match="lists mathvision twice"):
        run(tmp_path / "c", *configured(files, "mathvision", "mathvision"))
