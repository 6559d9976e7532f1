"""Every field of the configuration is explained, the reference page is the code's, and flags are `--set`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mmhicra
from mmhicra.cli import expand_flags, main
from mmhicra.config import RunConfig
from mmhicra.config.explain import as_markdown, explain, explain_all, list_fields, schema
from mmhicra.config.loading import load_config
from mmhicra.core.errors import ConfigError

ROOT = Path(mmhicra.__file__).resolve().parents[1]


def leaves(tree, before=""):
    """Dotted names of a dumped configuration."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{before}{key}.")
        else:
            yield before + key


def test_every_field_and_section_has_a_docstring_and_every_value_a_type():
    everything = explain_all()
    assert [each.name for each in everything if len(each.about.split()) < 2] == []
    assert [each.name for each in everything if not each.section and not each.values] == []
    names = {each.name for each in everything}
    assert set(leaves(load_config(None, ["model.lora={}", "train.loss.siren={}"]).model_dump())) <= names
    assert {"eval.benchmarks[].subset", "reward.custom[].weight", "hicra.adaptive.target"} <= names


def test_defaults_are_those_of_the_configuration():
    shown = {each.name: each.default for each in explain_all() if not each.section}
    assert shown["hicra.alpha"] == "0.2"
    assert shown["model.attention"] == "auto"
    assert shown["train.optimizer.betas"] == "[0.9, 0.999]"
    assert shown["eval.best_by"] == "null"
    assert shown["hicra.adaptive.target"] == ""


def test_the_reference_page_is_what_the_code_says():
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    assert page == as_markdown(), "run: mmhicra config --markdown > docs/reference/configuration.md"


def test_a_field_and_a_section_are_explained_and_a_wrong_name_is_refused(capsys):
    said = explain("train.loss.clip_high")
    assert said.startswith("train.loss.clip_high  (default 0.28; takes number, > 0.0, <= 10000.0)\n    Ratios above")
    assert explain("train.loss").count("\n\n") > 10
    assert "eval.benchmarks[].name  (must be given; takes mathvista" in explain("eval.benchmarks")
    assert main(["config", "--explain", "clip_hig"]) == 2
    assert "there is no field clip_hig: did you mean train.loss.clip_high" in capsys.readouterr().err
    assert main(["config", "--explain", "steps"]) == 2
    assert "train.steps" in capsys.readouterr().err
    assert main(["config"]) == 0
    assert capsys.readouterr().out == list_fields()


def test_the_schema_names_and_describes_every_field():
    tree = json.loads(schema())
    assert tree["properties"].keys() == RunConfig.model_fields.keys()
    for name, section in tree["$defs"].items():
        assert section["additionalProperties"] is False, name
        assert all("description" in field for field in section["properties"].values()), name


def test_dotted_flags_are_set_in_their_place():
    given = ["train", "--train.steps", "20", "--set", "train.steps=3", "--hicra.alpha=-0.1", "--config", "tiny"]
    sets = ["--set", "train.steps=20", "--set", "train.steps=3", "--set", "hicra.alpha=-0.1"]
    assert expand_flags(given) == ["train", *sets, "--config", "tiny"]
    assert expand_flags(["--data.instruction=a = b\nc"]) == ["--set", "data.instruction=a = b\nc"]


@pytest.mark.parametrize("rest", [["--train.steps"], ["--train.steps", "--resume"]])
def test_a_flag_without_a_value_is_refused(rest):
    with pytest.raises(ConfigError, match="--train.steps has no value"):
        expand_flags(["train", "--config", "tiny", *rest])


def test_a_wrong_flag_gets_the_line_that_set_gets(capsys):
    lines = []
    for given in (["--train.stepps", "3"], ["--set", "train.stepps=3"]):
        assert main(["train", "--config", "tiny", *given]) == 2
        lines.append(capsys.readouterr().err)
    assert lines[0] == lines[1]
    assert "train.steps" in lines[0]
