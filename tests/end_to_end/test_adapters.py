"""Runs that train adapters: checkpoints that keep these alone, resumed and merged."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from short_runs import metrics, run, state_files
from transformers import AutoModelForImageTextToText

from mmhicra.cli import main
from mmhicra.config import ModelConfig
from mmhicra.core.errors import UserError
from mmhicra.core.tensor_parts import whole_tensors
from mmhicra.evaluate.model import model_facts
from mmhicra.vlm import exporting, saving
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


def export(source, *options):
    return main(["export", str(source), *map(str, options)])


def test_exporting_gives_what_a_whole_checkpoint_has_without_the_model_in_memory(runs, tmp_path, capsys, monkeypatch):
    step = runs / "whole" / "checkpoints" / "step_000002"
    monkeypatch.setattr(saving, "SHARD_BYTES", 2 * 10**6)
    monkeypatch.setattr(exporting, "load_policy", None)
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(runs / "kept", tmp_path / "kept")
    assert export(copy) == 0
    out = tmp_path / "kept-step_000002"
    said = capsys.readouterr()
    assert said.out == f"{out}: {copy / 'checkpoints' / 'step_000002'}\n"
    files = sorted(out.glob("model-*.safetensors"))
    assert len(files) > 2
    assert [line.split()[3].rstrip(",") for line in said.err.splitlines()] == [file.name for file in files]
    written = {name: tensor for file in files for name, tensor in load_file(file).items()}
    whole = load_file(step / "model.safetensors")
    assert written.keys() == whole.keys()
    assert [name for name in whole if not torch.equal(written[name], whole[name])] == []
    same = ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja")
    assert [name for name in same if (out / name).read_bytes() != (step / name).read_bytes()] == []
    models = [AutoModelForImageTextToText.from_pretrained(place, dtype="auto").state_dict() for place in (out, step)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[1])
    assert export(copy, "--out", "apart", "--adapter", "apart") == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "apart").iterdir()} == {
        path.name: path.read_bytes() for path in (step / "adapter").iterdir()
    }
    for options, line in (
        ((copy,), f"--out {out} is already there"),
        ((tmp_path / "none", "--out", "new"), "is neither a run nor a checkpoint of one"),
        ((copy, "--out", "new", "--adapter", "apart", "--dtype", "bf16"), "--dtype is of a model folder"),
    ):
        assert export(*options) == 2
        assert line in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_exporting_in_float32_gives_the_weights_that_were_trained(tmp_path):
    """Held in bfloat16 they are the masters' rounding, in the checkpoint's own model folder, too."""
    rounded = (
        "model.weights=bf16",
        "model.precision=bf16",
        "train.steps=1",
        "eval.problems=0",
        "rollout.guard.every=0",
    )
    run(tmp_path / "run", *rounded, "train.optimizer.learning_rate=0.01", "data.count=16")
    state = tmp_path / "run/checkpoints/step_000001/trainer_state"
    exact = whole_tensors(state / "trainable")
    masters = {name.removeprefix("master."): one for name, one in whole_tensors(state / "optimizer").items()}
    exact |= {name: masters[name] for name in exact if name in masters}
    assert export(tmp_path / "run", "--out", tmp_path / "model", "--dtype", "fp32") == 0
    found = load_policy(ModelConfig(path=str(tmp_path / "model"))).model.state_dict()
    assert [
        name for name, one in exact.items() if not torch.equal(found[name.removeprefix("model.")], one.float())
    ] == []
    assert any(one.dtype == torch.bfloat16 for one in whole_tensors(state / "trainable").values())


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
