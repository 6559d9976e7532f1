"""`mmhicra doctor --model` on a whole model, and on copies with one fault each: every fault says how to mend it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmhicra.cli import main
from mmhicra.config import LoraConfig, ModelConfig
from mmhicra.vlm.loading import load_policy

pytestmark = pytest.mark.slow


@pytest.fixture
def doctor(capsys):
    def examine(model):
        status = main(["doctor", "--model", str(model), "--json"])
        return status, json.loads(capsys.readouterr().out)

    return examine


def edit(file, **changes):
    def change(folder):
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **changes}))

    return change


def weights(change):
    def apply(folder):
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return apply


def without(name):
    return lambda held: {key: value for key, value in held.items() if name not in key}


def remove(file):
    return lambda folder: (folder / file).unlink()


def template(change):
    def apply(folder):
        file = folder / "chat_template.jinja"
        file.write_text(change(file.read_text()))

    return apply


def lost_shard(folder):
    held = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(held, "model-00001-of-00002.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


PEFT, EXTRA = "base_model.model.", {"model.language_model.layers.7.mlp.up_proj.weight": torch.zeros(3)}
BROKEN = {
    "another family": (edit("config.json", model_type="llama", architectures=["LlamaForCausalLM"]), "use qwen2_vl"),
    "no configuration": (remove("config.json"), "name a Hugging Face model folder"),
    "quantised": (edit("config.json", quantization_config={"quant_method": "awq"}), "name the model that it was made"),
    "no tokenizer": (remove("tokenizer.json"), "model.path"),
    "no template": (remove("chat_template.jinja"), "add chat_template.jinja beside the model"),
    "a lost shard": (lost_shard, "fetch the folder again"),
    "peft's names": (weights(lambda held: {PEFT + k: v for k, v in held.items()}), "merge_and_unload"),
    "compiled names": (weights(lambda held: {"_orig_mod." + k: v for k, v in held.items()}), "model._orig_mod"),
    "adapters inside": (weights(lambda held: {**held, "model.q_proj.lora_A.weight": torch.zeros(2, 2)}), "merge"),
    "missing weights": (weights(without("layers.1.mlp.up_proj")), "fetch the folder again, or save the whole model"),
    "unexpected weights": (weights(lambda held: {**held, **EXTRA}), "fetch the folder again, or save the whole model"),
    "another shape": (
        weights(lambda held: {k: v[:, 1:].contiguous() if "o_proj" in k else v for k, v in held.items()}),
        "fetch the folder again, or save the whole model",
    ),
    "template without images": (template(lambda text: "{{ messages[0].role }}<|im_end|>"), "fetch the template"),
    "template of another": (template(lambda text: text.replace("<|im_end|>", "<|eot_id|>")), "fetch the template"),
    "endless": (edit("generation_config.json", eos_token_id=[5]), "rollout"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_every_fault_says_how_to_mend_it(kind, doctor, tiny_model_folder, tmp_path):
    folder = shutil.copytree(tiny_model_folder("qwen2_5_vl"), tmp_path / "model")
    change, mend = BROKEN[kind]
    change(folder)
    if kind == "endless":
        edit("tokenizer_config.json", eos_token="!")(folder)
    status, report = doctor(folder)
    assert (status, report["verdict"]) == (1, "faulty")
    lines = [change["line"] for fault in report["faults"] for change in fault["change"]]
    assert all(fault["change"] and all(change["line"] for change in fault["change"]) for fault in report["faults"])
    assert any(mend in line for line in lines + [fault["what"] for fault in report["faults"]]), report["faults"]


def test_a_whole_model_is_healthy(doctor, tiny_model_folder, capsys):
    for family in ("qwen2_vl", "qwen3_vl"):
        status, report = doctor(tiny_model_folder(family))
        assert (status, report["verdict"], report["faults"]) == (0, "healthy", [])
        states = {check["name"]: check for check in report["checks"]}
        assert list(states) == ["model", "weights", "template", "tokens", "memory"]
        plans = states["memory"]["facts"]
        trained = [plan["trained"] for plan in plans.values()]
        assert trained[0] == trained[1]
        assert trained[4] > trained[2] == trained[3]
        peaks = [plan["peak"] for plan in plans.values()]
        assert peaks[2] > peaks[3] > 0
        held = load_policy(ModelConfig(path=str(tiny_model_folder(family)))).model
        assert f"{sum(p.numel() for p in held.parameters()):,} parameters" in states["memory"]["summary"]
    assert main(["doctor", "--model", str(tiny_model_folder("qwen2_vl"))]) == 0
    shown = capsys.readouterr().out
    assert "<|vision_start|>" in shown
    assert "Start with: mmhicra train" in shown


def test_an_adapter_names_its_base(doctor, tiny_model_folder, tmp_path):
    base = tiny_model_folder("qwen2_5_vl")
    load_policy(ModelConfig(path=str(base), lora=LoraConfig(rank=2))).model.save_pretrained(tmp_path)
    status, report = doctor(tmp_path)
    assert status == 1
    assert f"set model.path to {base} and model.adapter to this folder" in report["faults"][0]["what"]
    assert [check["state"] for check in report["checks"][1:]] == ["not checked"] * 4


def test_a_tag_that_is_a_control_token_is_a_fault(doctor, tiny_model_folder, tmp_path, monkeypatch):
    """Whatever is taken for one, by `control_token_ids`, vanishes from what the reward reads."""
    folder = tiny_model_folder("qwen2_5_vl")
    tokenizer = load_policy(ModelConfig(path=str(folder))).tokenizer
    monkeypatch.setattr("mmhicra.doctor.model_doctor.TAGS", ("<think>", tokenizer.eos_token))
    status, report = doctor(folder)
    assert status == 1
    assert f"{tokenizer.eos_token} are control tokens" in report["faults"][0]["what"]


def test_a_model_or_a_configuration(capsys):
    for arguments, said in (
        ([], "name one of them"),
        (["--model", "tiny_vlm", "--config", "tiny"], "name one of them"),
        (["--model", "tiny_vlm", "--set", "seed=1"], "--set, --processes and --gpus go with --config"),
    ):
        assert main(["doctor", *arguments]) == 2
        assert said in capsys.readouterr().err
