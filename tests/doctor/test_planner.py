"""Plans for GPUs that are not there: shapes that ship, kinds of GPUs, and whether what is proposed fits."""

import json
import shutil

import pytest
from short_runs import REPOSITORY

from mmhicra.cli import main
from mmhicra.config import ModelConfig
from mmhicra.core.errors import UserError
from mmhicra.core.resources import asset_path
from mmhicra.doctor.gpus import GPUS, parse_gpus
from mmhicra.doctor.known_shapes import known_shapes, shape_by_config
from mmhicra.doctor.planner import Planner
from mmhicra.train.update.memory_plan import plan_memory

BIG = str(REPOSITORY / "configs" / "qwen2.5vl_7b.yaml")


def planned(gpus, *overrides, config=BIG):
    planner = Planner(config, overrides, *parse_gpus(gpus))
    return planner, {check.name: check for check in planner.run().checks}


def test_shapes_that_ship_have_the_parameters_that_their_pages_say():
    counts = {name: shape_by_config(ModelConfig(path=name)).parameters for name in known_shapes()}
    assert counts["Qwen/Qwen2.5-VL-3B-Instruct"] == 3_754_622_976
    assert counts["Qwen/Qwen2.5-VL-7B-Instruct"] == 8_292_166_656
    said = {name: float(f"{count / 1e9:.3g}") for name, count in counts.items()}
    assert said == {name: shape.billions for name, shape in known_shapes().items()}


def test_kinds_of_gpus():
    assert parse_gpus("8xH100-80") == (8, GPUS["H100-80"])
    assert parse_gpus("h200") == (1, GPUS["H200-141"])
    assert parse_gpus("2xa100") == (2, GPUS["A100-80"])
    for text in ("8xK80", "0xH100-80", "H100-81", "x", "", "99999xH100", "8 x H100"):
        with pytest.raises(UserError, match=r"write COUNTxKIND, e\.g\. 8xH100-80, of the kinds A100-40"):
            parse_gpus(text)


@pytest.mark.parametrize(
    ("gpus", "overrides"),
    [
        ("8xH100-80", ()),
        ("1xH200-141", ()),
        ("4xA100-40", ("model.shard=false", "rollout.engine=vllm")),
        ("16xH200", ("model.path=Qwen/Qwen2.5-VL-72B-Instruct",)),
    ],
)
def test_what_is_proposed_fits(gpus, overrides):
    """Every change that is named makes a plan without faults; the largest budget fits, and more does not."""
    planner, checks = planned(gpus, *overrides)
    assert checks["memory"].faults
    changes = checks["fits"].facts["changes"]
    assert changes
    _, mended = planned(gpus, *overrides, *changes[0])
    assert not any(check.faults for check in mended.values())
    assert mended["fits"].facts["changes"] == []
    for change in changes:
        config = planner.changed(change)
        assert planner.peak_with(config) <= planner.room
        assert planner.vllm_fault(config) is None
    if budget := checks["fits"].facts["budget"]:
        for tokens, fits in ((budget, True), (budget + 512, False)):
            load = planner.load_for(planner.shape, planner.changed([f"train.tokens_per_micro_batch={tokens}"]))
            assert (plan_memory(planner.shape, load).total("update") <= planner.room) == fits


def test_a_folder_with_nothing_but_its_configuration(tmp_path, capsys, monkeypatch):
    shutil.copy(asset_path("tiny_vlm") / "config.json", tmp_path / "config.json")
    monkeypatch.chdir(tmp_path)
    arguments = ["doctor", "--config", "tiny", "--gpus", "2xL4-24", "--json"]
    assert main([*arguments, "--set", f"model.path={tmp_path}"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert main(arguments) == 0
    shipped = json.loads(capsys.readouterr().out)
    facts = [{check["name"]: check["facts"] for check in each["checks"]} for each in (plan, shipped)]
    assert facts[0]["memory"] == facts[1]["memory"]
    assert facts[0]["pace"]["estimate"] is True
    assert facts[0]["pace"]["step"] == pytest.approx(
        sum(seconds for name, seconds in facts[0]["pace"]["parts"].items() if name != "checkpoint")
    )


def test_what_cannot_be_planned_is_a_line(capsys):
    two = ["--config", "tiny", "--gpus", "2xL4"]
    copies = ["--set", "model.shard=true", "--set", "parallel.replicate=2"]
    for arguments, said in (
        (
            [*two, "--set", "model.path=./no_such_folder"],
            "no such folder, and not a hub id (owner/name): name a folder",
        ),
        ([*two, "--set", "train.prompts_per_step=1"], "leaves some of the 2 processes idle: set it to 2 or more"),
        (["--config", "tiny", "--gpus", "3xL4", *copies], "does not divide the number of processes (3)"),
    ):
        assert main(["doctor", *arguments]) == 1
        assert said in " ".join(capsys.readouterr().out.replace("│", " ").split())
    for arguments in ([*two, "--processes", "2"], ["--model", "tiny_vlm", "--gpus", "L4"], [*two, "--gpus", "2xK80"]):
        assert main(["doctor", *arguments]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
