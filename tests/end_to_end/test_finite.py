"""What is not finite is skipped or refused by name; what was trained before it stays."""

import math

import pytest
import torch
from rollout_lines import read_rollouts
from short_runs import TINY, assert_same_run, metrics, run, short_config, state_files
from spoiling import spoilt_gradients, spoilt_weights

from mmhicra.cli import main
from mmhicra.config import ModelConfig
from mmhicra.core.errors import UserError
from mmhicra.data.generated.visual_math import generate
from mmhicra.rollout.engine import NoDistribution, sampling_of
from mmhicra.rollout.hf.engine import HFEngine
from mmhicra.train.loop.run import train
from mmhicra.train.loop.terminal import Terminal
from mmhicra.train.update.updates import NotFinite
from mmhicra.vlm.loading import load_policy
from mmhicra.vlm.processing import PromptBuilder

pytestmark = pytest.mark.slow

OPTIONS = ("eval.problems=0", "data.max_prompt_tokens=100", "train.tokens_per_micro_batch=200")
"""One group in a micro-batch."""


SHORTER = [
    *("train.steps=5", "train.prompts_per_step=4", "train.optimizer.warmup_steps=0", "rollout.n=4", "data.count=64"),
    *("log.tensorboard=false", "log.checkpoint_every=0", "threads=1"),
]


def finite(folder, step):
    return all(bool(value.isfinite().all()) for value in state_files(folder, step).values())


class Heard(Terminal):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__(quiet=True)
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """A run whose second update is spoilt, and what it said."""
    folder, terminal = tmp_path_factory.mktemp("spoilt") / "run", Heard()
    with spoilt_gradients(2):
        summary = train(short_config(folder, *OPTIONS), terminal=terminal)
    return folder, terminal.said, summary


def test_a_spoilt_update_is_skipped_named_and_counted(spoilt):
    folder, said, summary = spoilt
    (line,) = [text for text in said if "skipped, because" in text]
    assert "warning: step 2: an optimizer update is skipped, because the gradient of a micro-batch is not" in line
    rolled_out = {record["prompt"] for record in read_rollouts(folder, 2) if record["kept"]}
    named = line.rpartition("problem ")[2].rstrip(")")
    assert named in rolled_out, "the one micro-batch that was spoilt holds one problem"
    assert [record["optimizer/skipped"] for record in metrics(folder)] == [0.0, 1.0, 0.0]
    assert "optimizer/grad_norm" not in metrics(folder)[1]
    assert summary["updates"] == {"made": 2, "skipped": 1, "steps_without_signal": 0}
    assert any("1 optimizer updates were skipped" in text for text in summary["advice"])


def test_a_spoilt_update_changes_nothing(spoilt):
    folder, *_ = spoilt
    before, after, later = (state_files(folder, step) for step in (1, 2, 3))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(not torch.equal(after[name], later[name]) for name in after)
    assert all(finite(folder, step) for step in (1, 2, 3))


def test_a_run_resumes_behind_a_spoilt_update(spoilt, tmp_path, monkeypatch):
    """Stopped after the skipped update and resumed equals never stopped."""
    folder, _, whole = spoilt
    with spoilt_gradients(2):
        run(tmp_path / "run", *OPTIONS, "train.steps=2")
    told = []
    for name in ("sync", "generate"):
        method = getattr(HFEngine, name)
        monkeypatch.setattr(
            HFEngine, name, lambda *about, name=name, method=method, **more: told.append(name) or method(*about, **more)
        )
    summary = run(tmp_path / "run", *OPTIONS, resume=True)
    assert_same_run(folder, tmp_path / "run", 3)
    assert summary["updates"] == whole["updates"], "those before the resume count too"
    assert told[0] == "sync", "the engine has the weights of the checkpoint before it samples"


def test_updates_spoilt_in_a_row_end_the_run(tmp_path, capsys):
    sets = [part for override in (*OPTIONS, "train.max_skipped_updates=2") for part in ("--set", override)]
    config = tmp_path / "short.yaml"
    config.write_text(TINY.read_text())
    arguments = ["train", "--config", str(config), *sets, "--set", f"run_folder={tmp_path / 'run'}"]
    arguments += [part for override in SHORTER for part in ("--set", override)]
    with spoilt_gradients(2, 3, 4):
        assert main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mmhicra:")]
    assert "2 optimizer updates in a row were skipped (train.max_skipped_updates), the last because the grad" in line
    assert [record["optimizer/skipped"] for record in metrics(tmp_path / "run")] == [0.0, 1.0, 1.0]
    assert finite(tmp_path / "run", 3), "the last good weights are saved"


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    with (
        spoilt_weights(2),
        pytest.raises(NotFinite, match="hold NaN or infinity, e.g. model.*no checkpoint is written"),
    ):
        run(tmp_path / "run", *OPTIONS)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_000001"]
    assert finite(tmp_path / "run", 1)


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("part", ["language_model.layers.1.mlp", "visual.blocks.0"])
def test_a_model_that_is_not_finite_is_refused_by_name(tmp_path, part, number):
    loaded = load_policy(ModelConfig(path="tiny_vlm"))
    name, parameter = next((n, p) for n, p in loaded.model.named_parameters() if part in n and p.ndim == 2)
    parameter.data[1, 1] = number
    loaded.model.save_pretrained(tmp_path / "model")
    loaded.processor.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=rf"1 weights hold NaN or infinity, e\.g\. {name}"):
        load_policy(ModelConfig(path=str(tmp_path / "model")))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampling_from_nothing_is_refused_by_problem_and_token(tmp_path, temperature):
    """The middle prompt of three has a token whose embedding is NaN."""
    config = short_config(tmp_path)
    model = load_policy(config.model)
    builder = PromptBuilder(model.processor, model.family, model.config, config.data)
    prompts = [builder.build(problem) for problem in generate("train", 3, 0)]
    embeddings = model.model.get_input_embeddings().weight
    only = set(prompts[1].ids) - set(prompts[0].ids) - set(prompts[2].ids)
    embeddings.data[min(only)] = torch.nan
    engine = HFEngine(model.model, model.family, model.tokenizer, model.pad_token_id, 64)
    sampling = sampling_of(config.rollout, model, n=2, temperature=temperature)
    with pytest.raises(NoDistribution, match=f"problem {prompts[1].problem.id}: the log-prob of token 0 of response 0"):
        engine.generate(prompts, sampling, seed=0, step=1)


def test_a_step_holds_no_problem_twice(tmp_path):
    """Ten problems, eight at a time, and refills: at the ends of epochs and within a step."""
    run(
        tmp_path / "run",
        *("data.count=10", "train.prompts_per_step=8", "train.dynamic_sampling.max_rounds=3", "eval.problems=0"),
        *("train.steps=4", "rollout.max_new_tokens=24"),
    )
    refilled = 0
    for step in range(1, 5):
        records = read_rollouts(tmp_path / "run", step)
        keys = [(record["step"], record["prompt"], record["completion"]) for record in records]
        assert len(set(keys)) == len(keys)
        assert len(keys) in (4 * 8, 4 * 10)
        refilled += len(keys) == 40
    assert refilled, "no step had all problems"


def test_nothing_was_trained_is_said(tmp_path, monkeypatch):
    """A constant reward: one line after some idle steps, and one at the end, with what to do."""
    monkeypatch.setattr("mmhicra.train.update.updates.IDLE_STEPS", 2)
    terminal = Heard()
    overrides = ("reward.accuracy_weight=0", "reward.format_weight=1", "rollout.max_new_tokens=1", "eval.problems=0")
    summary = train(short_config(tmp_path / "run", *overrides), terminal=terminal)
    terminal.show_summary(summary)
    assert [record["group/kept"] for record in metrics(tmp_path / "run")] == [0.0] * 3
    said = [text for text in terminal.said if "nothing was trained: every group of 4" in text]
    assert len(said) == 2
    assert said[1] == f"warning: {summary['advice'][0]}"
    assert summary["updates"] == {"made": 0, "skipped": 0, "steps_without_signal": 3}
