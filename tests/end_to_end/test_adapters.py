"""Runs that train adapters: checkpoints that keep these alone, resumed and merged."""

import shutil

import pytest
from short_runs import metrics, run, state_files

from mmhicra.cli import main
from mmhicra.config import ModelConfig
from mmhicra.core.errors import UserError
from mmhicra.evaluate.model import model_facts
from mmhicra.vlm.loading import load_policy

pytestmark = pytest.mark.slow

ADAPTERS = (
    *("eval.problems=0", "train.steps=2", "train.optimizer.learning_rate=0.01", "model.precision=bf16"),
    *("model.lora={rank: 2, targets: all-linear, dora: true}", "model.freeze={vision_tower: false, merger: false}"),
    *("train.tokens_per_micro_batch=4096", "rollout.guard.every=0"),
)
KEPT = "log.checkpoint_model=adapter"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run with whole checkpoints, and with adapters alone. Not to be written to."""
    folder = tmp_path_factory.mktemp("runs")
    run(folder / "whole", *ADAPTERS)
    run(folder / "kept", *ADAPTERS, KEPT)
    return folder


def merge(source, out, *options):
    return main(["merge", str(source), "--out", str(out), *options])


def test_a_checkpoint_of_adapters_alone_resumes_to_the_bit(runs, tmp_path):
    step = runs / "kept" / "checkpoints" / "step_000001"
    assert sorted(path.name for path in step.iterdir()) == ["adapter", "manifest.json", "trainer_state"]
    run(tmp_path / "run", *ADAPTERS, KEPT, "train.steps=1")
    run(tmp_path / "run", *ADAPTERS, KEPT, resume=True)
    assert metrics(tmp_path / "run") == metrics(runs / "kept") == metrics(runs / "whole")
    resumed, whole = (state_files(folder, 2) for folder in (tmp_path / "run", runs / "whole"))
    assert resumed.keys() == whole.keys()
    assert all((resumed[name] == whole[name]).all() for name in whole)


def test_merging_gives_what_a_whole_checkpoint_has(runs, tmp_path, capsys):
    step = runs / "whole" / "checkpoints" / "step_000002"
    assert merge(runs / "kept", tmp_path / "model") == 0
    assert "tiny_vlm with" in capsys.readouterr().out
    files = sorted(path.name for path in (tmp_path / "model").iterdir())
    others = ("adapter", "manifest.json", "trainer_state")
    assert files == sorted(path.name for path in step.iterdir() if path.name not in others)
    assert [name for name in files if (tmp_path / "model" / name).read_bytes() != (step / name).read_bytes()] == []
    loaded = load_policy(ModelConfig(path=str(tmp_path / "model")))
    assert model_facts(str(tmp_path / "model"), loaded)["sha256"]

    # An adapter by itself is merged in the type of its base, which for this one is bfloat16, too.
    alone = shutil.copytree(step / "adapter", tmp_path / "alone")
    assert merge(alone, tmp_path / "of_adapter", "--base", "tiny_vlm") == 0
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "of_adapter", tmp_path / "model")]
    assert weights[0] == weights[1]


def test_what_cannot_be_merged_is_one_line(runs, tmp_path, capsys):
    kept, step = runs / "kept", runs / "kept" / "checkpoints" / "step_000002"
    damaged = shutil.copytree(kept, tmp_path / "damaged") / "checkpoints" / "step_000002"
    (damaged / "trainer_state" / "trainable" / "part_00001.safetensors").write_bytes(b"7")
    for source, options, said in (
        (kept, (), f"--out {tmp_path} is already there"),
        (tmp_path / "none", ("new",), "no such folder, and not a hub id"),
        (damaged, ("new",), "step_000002 cannot be used: trainer_state/trainable/part_00001.safetensors"),
        (step / "adapter", ("new", "--base", "./nope"), "model.path ./nope: no such folder"),
    ):
        place = tmp_path / options[0] if options else tmp_path
        assert merge(source, place, *options[1:]) == 2, said
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert not (tmp_path / "new").exists()
    for path, said in (
        (step, f"write the model with `mmhicra merge {step} --out FOLDER`"),
        (kept, "keeps adapters alone"),
    ):
        with pytest.raises(UserError, match=said):
            load_policy(ModelConfig(path=str(path)))
