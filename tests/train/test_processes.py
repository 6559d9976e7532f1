"""What `accelerate` finds in the environment changes neither the mathematics nor the layout of a run in silence."""

import os
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DynamoBackend
from short_runs import short_config

from mmhicra.core.errors import ConfigError
from mmhicra.train.distributed.launch import processes_of, speaks
from mmhicra.train.distributed.mesh import refuse_layout
from mmhicra.train.distributed.processes import describe, make_accelerator, overridden
from mmhicra.train.loop.terminal import Terminal


@pytest.fixture(autouse=True)
def fresh():
    """Accelerate keeps one state for a process, and adds to the environment even where it fails."""
    before = dict(os.environ)

    def reset():
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()

    reset()
    yield
    reset()
    os.environ.clear()
    os.environ.update(before)


def test_settings_of_accelerate_are_overridden_and_said(monkeypatch, tmp_path):
    given = {
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    accelerator = make_accelerator()
    assert accelerator.gradient_accumulation_steps == 1
    assert accelerator.mixed_precision == "no"
    assert accelerator.state.dynamo_plugin.backend == DynamoBackend.NO
    lines = describe(short_config(tmp_path), accelerator)
    assert [line.partition("=")[0] for line in lines[1:]] == list(given)
    assert lines[1].endswith("STEPS=4 is not used: gradients are summed as train.tokens_per_micro_batch says")


def test_what_changes_nothing_is_not_said():
    neutral = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_USE_CPU": "true"}
    assert overridden(neutral, "fp32") == []
    assert overridden({"ACCELERATE_MIXED_PRECISION": "bf16"}, "bf16") == []


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_another_layout_is_refused(monkeypatch, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ConfigError, match=rf"ACCELERATE_USE_{name}\).*set model\.shard to true"):
        make_accelerator()
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "false")
    make_accelerator()


def test_a_run_says_where_it_runs_and_how_much_a_step_is(tmp_path):
    config = short_config(tmp_path, "model.shard=true", "rollout.max_new_tokens=100")
    lines = describe(config, make_accelerator())
    assert lines[0].startswith("processes: 1 on ")
    assert lines[0].endswith(
        "one whole model; engine hf, precision fp32; a step is 4 prompts x 4 responses, up to 1,600 tokens"
    )
    assert lines[1] == "model.shard has no effect: there is one process, and nothing to split the model over"


HEADERS = {
    "one host": (
        2, {"LOCAL_WORLD_SIZE": "2"}, ["H100", "H100", "H100"], ["model.shard=true"],
        "processes: 2 on cuda (2 x H100), the model is split over them; engine hf, precision fp32; ",
    ),
    "two hosts": (
        4, {"LOCAL_WORLD_SIZE": "2"}, ["H100", "H200"], ["rollout.engine=vllm", "rollout.vllm.tensor_parallel=2"],
        "processes: 4 on cuda (H100 and H200, on 2 hosts), copied; engine vllm (its weights over 2 processes each), "
        "precision fp32; ",
    ),
    "copies of a split model": (
        4, {"LOCAL_WORLD_SIZE": "2"}, ["H100", "H100"], ["model.shard=true", "parallel.replicate=2"],
        "processes: 4 on cuda (2 x H100, on 2 hosts), 2 copies of the model, each split over 2; engine hf, precision ",
    ),
    "no launcher": (1, {}, ["H100"], [], "processes: 1 on cuda (H100), one whole model; engine hf, precision fp32; "),
}  # fmt: skip
"""Scene -> processes, environment, GPUs of this host, overrides, and how the first line of a run begins."""


@pytest.mark.parametrize("scene", HEADERS)
def test_a_run_says_its_processes_devices_layout_engine_and_precision(scene, monkeypatch, tmp_path):
    count, environment, names, overrides, begins = HEADERS[scene]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda number: names[number])
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(names))
    accelerator = SimpleNamespace(device=torch.device("cuda", 0), num_processes=count)
    line, *more = describe(short_config(tmp_path, *overrides), accelerator)
    assert line.startswith(begins)
    gathers = [text for text in more if "gathers the whole model on every process" in text]
    assert len(gathers) == ("model.shard=true" in overrides)  # those that do not sample with vLLM
    more = [text for text in more if text not in gathers]
    assert [text for text in more if "GPUs are here" in text] == ([] if count >= len(names) else [more[0]])


@pytest.mark.parametrize(
    ("processes", "said"),
    [
        (1, r"\(2\) does not divide the number of processes \(1\)"),
        (3, "does not divide"),
        (2, "nothing to split"),
        (4, ""),
    ],
)
def test_copies_must_divide_the_processes_and_leave_something_to_split(processes, said, tmp_path):
    config = short_config(tmp_path, "model.shard=true", "parallel.replicate=2")
    with pytest.raises(ConfigError, match=said) if said else nullcontext():
        refuse_layout(config, processes)


ENVIRONMENTS = {
    "not a truth": ({"ACCELERATE_USE_CPU": "junk"}, "cannot be set up .*ACCELERATE_USE_CPU=junk"),
    "fp8": ({"ACCELERATE_FP8_BACKEND": "TE"}, "unset ACCELERATE_FP8_BACKEND .TE.: model.precision decides"),
    "a device": ({"ACCELERATE_TORCH_DEVICE": "meta"}, "unset ACCELERATE_TORCH_DEVICE .meta.: a process takes the GPU"),
    "a count alone": ({"WORLD_SIZE": "2"}, "cannot be set up .*start them with torchrun.*WORLD_SIZE=2"),
    "a local rank alone": ({"LOCAL_RANK": "0"}, "cannot be set up .*MASTER_ADDR.*LOCAL_RANK=0"),
    "MPI": ({"PMI_SIZE": "2"}, "cannot be set up .*PMI_SIZE=2"),
    "Open MPI": ({"OMPI_COMM_WORLD_SIZE": "2"}, "cannot be set up .*OMPI_COMM_WORLD_SIZE=2"),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_what_a_launcher_has_left_is_named(monkeypatch, name):
    variables, said = ENVIRONMENTS[name]
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=said) as refusal:
        make_accelerator()
    assert "\n" not in str(refusal.value)


def test_processes_that_do_not_know_each_other_are_no_run(monkeypatch):
    """As job scripts start them that set ranks, but no local rank: each would be a run of its own."""
    monkeypatch.setattr("mmhicra.train.distributed.processes.processes_of", lambda environment: 2)
    with pytest.raises(ConfigError, match="speaks of 2 processes, but this one is alone"):
        make_accelerator()


@pytest.mark.parametrize(
    ("environment", "count", "speaking"),
    [
        ({}, 1, True),
        ({"RANK": "1"}, 1, True),
        ({"RANK": "abc", "WORLD_SIZE": "abc"}, 1, True),
        ({"RANK": "0", "WORLD_SIZE": "2"}, 2, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, 2, False),
        ({"RANK": "1", "WORLD_SIZE": "0"}, 1, True),
        ({"RANK": "1", "WORLD_SIZE": "9" * 5000}, 1, True),
    ],
)
def test_one_of_several_processes_speaks(environment, count, speaking):
    assert (processes_of(environment), speaks(environment)) == (count, speaking)


def test_what_is_said_does_not_depend_on_odd_variables(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "abc")
    monkeypatch.setenv("COLUMNS", "0")
    (line, *_) = describe(short_config(tmp_path), make_accelerator())
    Terminal().say(line)
    assert line in capsys.readouterr().out
