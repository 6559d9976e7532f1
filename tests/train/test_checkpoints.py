"""Checkpoints that any number of ranks writes and reads, while training goes on."""

import threading

import pytest
import torch
from fake_trainer import FakeAccelerator
from on_ranks import on_ranks
from safetensors.torch import load_file, save_file
from train.rank_checkpoints import STATE, go_on, make, take_steps
from transformers import AutoModelForImageTextToText

from mmhicra.config import ModelConfig
from mmhicra.core import tensor_parts
from mmhicra.core.errors import RunFolderError
from mmhicra.core.manifest import damage, refuse_damaged_model
from mmhicra.core.run_folder import RunFolder, bytes_in
from mmhicra.core.tensor_parts import load_parts, parts_in, save_parts, whole_tensors
from mmhicra.train.distributed.sharding import whole_optimizer_state
from mmhicra.train.loop import checkpoint_writer
from mmhicra.train.loop.checkpoint import restore_old
from mmhicra.train.loop.checkpoint_writer import CheckpointWriter
from mmhicra.train.loop.staging import stage, stage_weights, trained_of
from mmhicra.vlm import saving
from mmhicra.vlm.loading import load_policy, put_trained


def stored(folder, step):
    """All tensors of a checkpoint, made whole, and the weights of its model folder."""
    path = RunFolder(folder).checkpoint(step)
    assert damage(path, step) is None
    model = {k: v for file in sorted(path.glob("model*.safetensors")) for k, v in load_file(file).items()}
    state = path / "trainer_state"
    return {**whole_tensors(state / "trainable"), **whole_tensors(state / "optimizer"), **model}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Six updates in one process without a stop."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    go_on(FakeAccelerator(), "copied", folder, None, 1, 6)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("layouts", [("sharded", "twice"), ("copied", "sharded"), ("sharded", "copied")])
def test_two_ranks_then_four_then_one_are_one_process(alone, tmp_path, layouts):
    folder = tmp_path / "run"
    about = {"place": str(folder), "background": True}
    first = on_ranks(
        2, "train.rank_checkpoints:go_on", tmp_path / "2", layout=layouts[0], reads=None, first=1, last=2, **about
    )
    second = on_ranks(
        4, "train.rank_checkpoints:go_on", tmp_path / "4", layout=layouts[1], reads=2, first=3, last=4, **about
    )
    third = go_on(FakeAccelerator(), "copied", folder, 4, 5, 6)
    assert_equal(stored(folder, 6), stored(alone, 6))
    for ranks, step in ((first, 2), (second, 4)):  # every rank wrote, and none had the whole
        assert sum(each["values"] for each in ranks) == third["values"]
        assert max(each["values"] for each in ranks) < 1.5 * third["values"] / len(ranks)
        parts = list((RunFolder(folder).checkpoint(step) / "trainer_state" / "trainable").iterdir())
        assert len(parts) == len(ranks)


def test_a_checkpoint_is_the_same_bytes_however_it_is_written(alone, tmp_path):
    go_on(FakeAccelerator(), "copied", tmp_path / "run", None, 1, 6, background=True)
    one, other = (RunFolder(folder).checkpoint(6) / "manifest.json" for folder in (alone, tmp_path / "run"))
    assert one.read_bytes() == other.read_bytes()


def test_the_model_folder_in_many_files_is_what_transformers_loads(alone, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "SHARD_BYTES", 10**6)
    go_on(FakeAccelerator(), "copied", tmp_path / "run", None, 1, 6)
    path = RunFolder(tmp_path / "run").checkpoint(6)
    assert len(list(path.glob("model-*-of-*.safetensors"))) > 3
    models = [
        AutoModelForImageTextToText.from_pretrained(place, dtype="auto").state_dict()
        for place in (path, RunFolder(alone).checkpoint(6))
    ]
    assert_equal(*models)
    assert_equal(stored(tmp_path / "run", 6), stored(alone, 6))


@pytest.fixture
def writing(tmp_path):
    """(trainer, writer, run folder) of a run with two checkpoints on disk."""
    trainer, processor = make(FakeAccelerator(), "copied", "log.keep_checkpoints=3")
    folder = RunFolder(tmp_path / "run")
    folder.make()
    writer = CheckpointWriter(folder, trainer, processor)
    for step in (1, 2):
        take_steps(trainer, step, step)
        writer.write(stage(trainer, STATE, copied=False), None)
    return trainer, writer, folder


def test_training_goes_on_while_a_slow_disk_writes_and_a_kill_leaves_the_one_before(writing, monkeypatch):
    trainer, writer, folder = writing
    entered, released = threading.Event(), threading.Event()
    write = tensor_parts.write_tensors

    def slow(*about):
        entered.set()
        assert released.wait(60)
        return write(*about)

    monkeypatch.setattr(tensor_parts, "write_tensors", slow)
    take_steps(trainer, 3, 3)
    now = {name: one.detach().clone() for name, one in trained_of(trainer.policy).items()}
    writer.begin(stage(trainer, STATE), {"step": 1, "metric": "m", "value": 1.0})
    assert entered.wait(60)
    take_steps(trainer, 4, 6)
    assert writer.busy
    assert folder.latest_checkpoint() == folder.checkpoint(2)  # all that a kill now would leave
    assert damage(folder.checkpoint(2), 2) is None
    released.set()
    writer.finish()
    assert not writer.busy
    assert damage(folder.checkpoint(3), 3) is None
    assert_equal(whole_tensors(folder.checkpoint(3) / "trainer_state" / "trainable"), now)
    writer.write(stage(trainer, STATE, copied=False), {"step": 1, "metric": "m", "value": 1.0})
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == [
        *("best.json", "step_000001", "step_000002", "step_000003", "step_000006"),  # the newest three, and the best
    ]
    take_steps(trainer, 7, 7)
    writer.write(stage(trainer, STATE, copied=False), None)
    assert sorted(path.name for path in folder.checkpoints.glob("step*")) == [
        *("step_000003", "step_000006", "step_000007"),
    ]


def test_what_goes_wrong_while_it_is_written_is_told_by_finish(writing, monkeypatch):
    trainer, writer, folder = writing

    def full(*about):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_writer, "write_tensors", full)
        take_steps(trainer, 3, 3)
        writer.begin(stage(trainer, STATE), None)
        with pytest.raises(RunFolderError, match=r"cannot write .*step_000003.partial: No space left on device"):
            writer.finish()
    assert folder.latest_checkpoint() == folder.checkpoint(2)
    writer.finish()  # told once
    writer.write(stage(trainer, STATE, copied=False), None)
    assert damage(folder.checkpoint(3), 3) is None
    assert not list(folder.checkpoints.glob("*.partial"))


@pytest.mark.slow
def test_a_rank_that_cannot_write_and_one_that_stays_away_end_the_save_on_the_others(tmp_path):
    main, other = on_ranks(2, "train.rank_checkpoints:fail", tmp_path / "ranks", place=str(tmp_path / "run"))
    partial = RunFolder(tmp_path / "run").checkpoint(1).with_name("step_000001.partial")
    assert (
        main[0]
        == main[1]
        == other[0]
        == other[1]
        == f"cannot write {partial}: No space left on device; free or choose another run_folder"
    )
    assert "did not write its part within train.rank_timeout (4 s)" in main[2]
    assert "\n" not in main[2]
    assert main[3:] == other[2:] == [partial.name]


def test_what_release_candidates_wrote_is_restored(tmp_path):
    trainer, _ = make(FakeAccelerator(), "copied")
    take_steps(trainer, 1, 2)
    state = tmp_path / "trainer_state"
    state.mkdir()
    save_file({name: one.detach() for name, one in trained_of(trainer.policy).items()}, state / "trainable.safetensors")
    torch.save(whole_optimizer_state(trainer.policy, trainer.optimizer), state / "optimizer.pt")
    random = torch.get_rng_state()
    torch.save({"cpu": random, "cuda": []}, state / "random.pt")
    torch.manual_seed(random.sum().item())
    fresh, _ = make(FakeAccelerator(), "copied")
    restore_old(tmp_path, fresh.policy, fresh.optimizer)
    assert torch.equal(torch.get_rng_state(), random)
    for each in (trainer, fresh):
        take_steps(each, 3, 3)
    assert_equal(*(each.policy.state_dict() for each in (trainer, fresh)))
    evaluated = load_policy(ModelConfig(path="tiny_vlm"))
    put_trained(evaluated, tmp_path)
    trained = load_file(state / "trainable.safetensors")
    found = {f"model.{name}": one for name, one in evaluated.model.state_dict().items()}
    assert_equal({name: found[name] for name in trained}, trained)


def test_weights_alone_are_a_model_folder_and_no_checkpoint(writing):
    trainer, writer, folder = writing
    writer.log = trainer.config.log.model_copy(update={"keep_weights": 2})
    for step in (3, 4, 5):
        take_steps(trainer, step, step)
        now = {name: tensor.clone() for name, tensor in trainer.policy.model.state_dict().items()}
        writer.begin(stage_weights(trainer), None)
        take_steps(trainer, 6, 6)  # these are not written
        writer.finish()
        trainer.step_number = step
    assert [path.name for path in sorted(folder.weights.iterdir())] == ["step_000004", "step_000005"]
    assert folder.latest_checkpoint() == folder.checkpoint(2)
    path = folder.weights_of(5)
    assert not (path / "trainer_state").exists()
    refuse_damaged_model(path)
    assert_equal(AutoModelForImageTextToText.from_pretrained(path, dtype="auto").state_dict(), now)
    folder.rewind(4)
    assert [path.name for path in sorted(folder.weights.iterdir())] == ["step_000004"]


def test_checkpoints_stay_within_their_part_of_the_disk(writing):
    """Of three that are allowed by count two fit; the best stays, and weights alone go before newer checkpoints."""
    trainer, writer, folder = writing
    limit = 2.3 * bytes_in(folder.checkpoint(2))
    writer.log = trainer.config.log.model_copy(update={"checkpoint_gib": limit / 2**30})

    def write(step, best, *, alone=False):
        trainer.step_number = step
        staged = stage_weights(trainer, copied=False) if alone else stage(trainer, STATE, copied=False)
        writer.write(staged, {"step": best, "metric": "m", "value": 1.0})
        assert bytes_in(folder.checkpoints) + bytes_in(folder.weights) <= limit
        return [f"{path.parent.name} {path.name[-1]}" for path in sorted(folder.path.glob("*/step_*"))]

    assert write(3, best=2, alone=True) == ["checkpoints 2", "weights 3"]
    assert write(4, best=2) == ["checkpoints 2", "checkpoints 4"]
    with pytest.raises(RunFolderError, match=r"log.checkpoint_gib .* leaves no room for it beside the newest") as said:
        write(5, best=2)
    assert "\n" not in str(said.value)
    assert [path.name for path in sorted(folder.checkpoints.glob("step_*"))] == ["step_000002", "step_000004"]
    assert write(5, best=4) == ["checkpoints 4", "checkpoints 5"]


def test_a_damaged_part_is_named(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    save_parts(tmp_path, tensors, alone=True)
    assert_equal(whole_tensors(tmp_path), tensors)
    for targets, said in (({"c": torch.zeros(1)}, "c"), ({"a": torch.zeros(3, 3)}, "Size mismatch")):
        with pytest.raises(ValueError, match=said):
            load_parts(tmp_path, targets)
    (file,) = tmp_path.iterdir()
    for content in (b"", b"\x07" * 20, file.read_bytes().replace(b"DCP_SHARDING_INFO", b"DCP_SHARDING_IMFO")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="part_00001.safetensors"):
            parts_in(tmp_path)
