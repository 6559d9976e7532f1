"""What `accelerate` finds in the environment changes neither the mathematics nor the layout of a run in silence."""

import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DynamoBackend
from short_runs import short_config

from mmhicra.refusals import ConfigRefusal
from mmhicra.train.processes import describe, make_accelerator, overridden


@pytest.fixture(autouse=True)
def fresh():
    """Accelerate keeps one state for a process."""

    def reset():
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()

    reset()
    yield
    reset()


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
    with pytest.raises(ConfigRefusal, match=rf"ACCELERATE_USE_{name}\).*set model\.shard to true"):
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
