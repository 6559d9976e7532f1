"""`mmhicra bench ablation`: stages build on one another, and what cannot run says why."""

import io

import pytest
from bench.rank_scaling import SMALL
from rich.console import Console

from benchmarks import ablation
from benchmarks.shapes import REGIMES

pytestmark = pytest.mark.slow


def test_stages_add_up_and_one_that_cannot_run_is_passed_over(monkeypatch):
    stages = {
        "again": ("model.checkpointing=full",),
        "one cast": ("model.weights=bf16",),
        "nothing again": ("model.checkpointing=none",),
    }
    monkeypatch.setattr(ablation, "STAGES", stages)
    monkeypatch.setattr(ablation, "CASES", (("small", 1), ("small", 3)))
    monkeypatch.setitem(REGIMES, "small", SMALL)
    result = ablation.run_ablation(ablation.AblationSettings("tiny", "small", pairs=2, precision="fp32"))
    again, cast, nothing = result["stages"]
    assert again["options"] == {"model.checkpointing": "full"}
    assert "precision is fp32" in cast["refused"]
    assert nothing["options"] == {"model.checkpointing": "none"}, "of the stage before last"
    assert [len(row["seconds"]) for row in (again, nothing)] == [2, 2]
    assert [(row["groups"], row["options"]) for row in result["cases"]] == [(n, nothing["options"]) for n in (1, 3)]
    file = io.StringIO()
    ablation.print_ablation(result, Console(file=file, width=160))
    assert "one cast: configuration: model" in file.getvalue()


def test_what_does_not_fit_takes_the_next_policy(monkeypatch):
    tried = []

    def measure(settings, accelerator, regime, groups, options):
        tried.append(options["model.checkpointing"])
        return {"refused": "does not fit the device"} if len(tried) < 2 else {"seconds": [1.0], "options": options}

    monkeypatch.setattr(ablation, "measure", measure)
    row = ablation.measure_what_fits(
        ablation.AblationSettings("tiny"), None, "C", 1, {"train.logprob_kernel": "chunks"}
    )
    assert tried == ["none", "selective"]
    assert row["options"] == {"train.logprob_kernel": "chunks", "model.checkpointing": "selective"}
