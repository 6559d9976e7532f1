"""Killed at any moment and at any file operation, a run resumes to the very same end."""

from __future__ import annotations

import random
import shutil

import pytest
import torch
from faults.compare import differences
from faults.kills import kill_at_random
from faults.scenes import limit_files
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow

SEED = 14


@pytest.mark.parametrize("by", ["KILL", "TERM", "HUP"])
def test_a_signal_at_random_moments(reference, place, by):
    tried = kill_at_random(reference, place, random.Random(f"{SEED}{by}"), by, forked=by != "HUP")
    assert not tried.faults, tried


@pytest.mark.parametrize("number", range(6))
def test_death_at_a_file_operation(points, number):
    tried = points.try_point(points.choose(6, random.Random(SEED))[number])
    assert not tried.faults, tried


def test_files_that_cannot_grow_beyond_a_size(reference, place):
    """As a full disk: one line, status 2; with room again, the same end."""
    for tried in limit_files(reference, place, random.Random(SEED)):
        assert not tried.faults, tried


def spoil_weights(path):
    weights = load_file(path)
    name = sorted(weights)[0]
    weights[name].view(-1)[0] = torch.nextafter(weights[name].view(-1)[0], torch.tensor(9.0))
    save_file(weights, path)


CHECKPOINT = "checkpoints/step_000006/"


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        (f"{CHECKPOINT}trainer_state/trainable/part_00001.safetensors", spoil_weights),
        (f"{CHECKPOINT}trainer_state/random.safetensors", lambda path: save_file({"cpu": torch.zeros(3)}, path)),
        ("metrics.jsonl", lambda path: path.write_text("".join(path.open().readlines()[1:]))),
        ("rollouts/step_000003.jsonl.zst", lambda path: path.unlink()),
        ("summary.json", lambda path: path.write_text(path.read_text().replace(": 6", ": 7", 1))),
        ("tensorboard", shutil.rmtree),
        ("notes.txt", lambda path: path.write_text("more")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_comparison_sees_every_kind_of_difference(reference, tmp_path, name, spoil):
    copy = shutil.copytree(reference.folder, tmp_path / "copy")
    assert differences(reference.folder, copy) == []
    spoil(copy / name)
    assert len(differences(reference.folder, copy)) == 1
