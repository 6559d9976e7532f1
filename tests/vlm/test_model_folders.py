"""Model folders as people have them: quantised, wrapped, adapted, cut off. Each gives one line with advice."""

from __future__ import annotations

import json
import os
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from short_runs import run

from mmhicra.cli import main
from mmhicra.config import DataConfig, ModelConfig
from mmhicra.core.errors import UserError
from mmhicra.vlm.chat import MOST_STEPS, ChatTemplateError, render_chat
from mmhicra.vlm.loading import load_policy, load_processor
from mmhicra.vlm.processing import PromptBuilder

FP8 = torch.float8_e4m3fn
NESTED = (
    "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}"
)


def edit(file, **changes):
    """Set fields of a JSON file; `a__b` is field b of object a."""

    def change(folder):
        tree = json.loads((folder / file).read_text())
        for name, value in changes.items():
            *parents, last = name.split("__")
            place = tree
            for parent in parents:
                place = place[parent]
            place[last] = value
        (folder / file).write_text(json.dumps(tree))

    return change


def write(file, content):
    def change(folder):
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def weights(change):
    """Change the weights; `change` gets a dict and returns one."""

    def apply(folder):
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return apply


def renamed(prefix):
    return weights(lambda held: {prefix + name: value for name, value in held.items()})


def with_more(name, dtype=torch.float32):
    return weights(lambda held: {**held, name: torch.zeros(3).to(dtype)})


def weights_folder(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def sharded(lost=None, **index):
    """Split the weights in two; `lost` is not there, `index` changes the index."""

    def change(folder):
        held = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = sorted(held)
        tree = {"metadata": {}, "weight_map": {}}
        for number, part in enumerate((names[::2], names[1::2]), start=1):
            file = f"model-0000{number}-of-00002.safetensors"
            save_file({name: held[name] for name in part}, folder / file, metadata={"format": "pt"})
            tree["weight_map"] |= dict.fromkeys(part, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps(tree | index))
        if lost:
            (folder / lost).unlink()

    return change


def adapter_beside(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "tiny_vlm"}))


JSON = ("config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json")
QUANTISED = "is quantised .{}.: weights are trained in full precision, so name the model that it was made from"
KINDS = {
    "bitsandbytes": (
        edit("config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        QUANTISED.format("bitsandbytes"),
    ),
    "AWQ": (
        edit("config.json", quantization_config={"quant_method": "awq", "bits": 4}),
        QUANTISED.format("awq"),
    ),
    "fp8 in a part": (
        edit("config.json", text_config__quantization_config={"quant_method": "fp8"}),
        QUANTISED.format("fp8"),
    ),
    "quantised somehow": (edit("config.json", quantization_config=7), "is quantised .quantization_config in"),
    "GPTQ": (write("quantize_config.json", '{"bits": 4}'), QUANTISED.format("quantize_config.json")),
    "fp8 weights": (
        with_more("model.norm.weight", FP8),
        QUANTISED.format("model.norm.weight in model.safetensors is of type F8_E4M3"),
    ),
    "packed integers": (
        with_more("model.norm.weight", torch.int32),
        "model.norm.weight in model.safetensors is of type I32, no floating-point weight",
    ),
    "complex weights": (with_more("model.norm.weight", torch.complex64), "is of type C64, no floating-point weight"),
    "no text_config": (edit("config.json", text_config=None), "describes [0-9]{11} weights or more, but its"),
    "no vision_config": (edit("config.json", vision_config={}), "describes [0-9]{9} weights or more, but its files"),
    "no rope": (edit("config.json", text_config__rope_parameters={}), "mrope_section is .16, 24, 24., but its heads"),
    "pixels to 255": (
        edit("processor_config.json", image_processor__do_rescale=False),
        "fails on a white image, .*: white is [0-9]+, not about 1 to 3: do_rescale must be true",
    ),
    "weights that are a folder": (weights_folder, "has no weights .model.safetensors."),
    "packed weights": (with_more("model.norm.weight.absmax", torch.uint8), "is quantised"),
    "peft": (renamed("base_model.model."), "its weights as peft does .e.g. base_model.model.*: merge the adapters"),
    "data parallel": (renamed("module."), "as DistributedDataParallel or DeepSpeed does .*save_pretrained the model"),
    "torch.compile": (renamed("_orig_mod."), "as torch.compile does"),
    "FSDP": (renamed("_fsdp_wrapped_module."), "as FSDP does"),
    "FSDP inside": (
        weights(lambda held: {f"model._fsdp_wrapped_module.{name}": value for name, value in held.items()}),
        "as FSDP does",
    ),
    "unmerged LoRA": (
        with_more("model.language_model.layers.0.self_attn.q_proj.lora_A.weight"),
        "holds LoRA weights that are not merged .e.g. .*lora_A.weight.: merge them",
    ),
    "unmerged LoRA beside its base": (
        with_more("model.language_model.layers.0.self_attn.q_proj.base_layer.weight"),
        "holds LoRA weights that are not merged",
    ),
    "weights of something else": (
        with_more("reward_head.weight"),
        "1 of its weights have no place in a Qwen2_5_VLForConditionalGeneration, e.g. reward_head.weight: merge or",
    ),
    "adapter beside a model": (adapter_beside, "holds a model and an adapter .*: merge the adapter, or move"),
    "pickles": (pickled, "has pickled weights only .pytorch_model.bin., and reading those can run any code"),
    "cut off": (
        lambda folder: os.truncate(folder / "model.safetensors", 100_000),
        "model.safetensors is not whole .*: fetch the file again",
    ),
    "empty": (lambda folder: os.truncate(folder / "model.safetensors", 0), "model.safetensors is not whole"),
    "a shard lost": (
        sharded(lost="model-00002-of-00002.safetensors"),
        "index.json names model-00002-of-00002.safetensors, which is not there",
    ),
    "an index lost": (
        sharded(lost="model.safetensors.index.json"),
        "has model-00001-of-00002.safetensors, but neither model.safetensors nor model.safetensors.index.json",
    ),
    "an index without files": (sharded(weight_map={"a": 7}), "weight_map in .* does not say which file has which"),
    "hidden size 0": (edit("config.json", text_config__hidden_size=0), "text_config.hidden_size in its .* is 0, not a"),
    "vocabulary of text": (edit("config.json", text_config__vocab_size="x"), "text_config.vocab_size .* is 'x', not a"),
    "a vast vocabulary": (edit("config.json", text_config__vocab_size=10**8), "describes .* weights or more, but its"),
    "many layers": (edit("config.json", text_config__num_hidden_layers=10**7), "must be equal to the number of"),
    "a small vocabulary": (edit("config.json", text_config__vocab_size=100), "its tokenizer has .* tokens, its config"),
    "patch size": (
        edit("processor_config.json", image_processor__patch_size=7),
        "patch_size of its image processor is 7, but its vision tower has 14",
    ),
    "rotary sections": (
        edit("config.json", text_config__rope_parameters__mrope_section=[4, 0, 6]),
        "text_config.rope_parameters.mrope_section in its config.json is .4, 0, 6., not three parts of 16",
    ),
    "architectures": (edit("config.json", architectures=[None]), "architectures in its config.json is .None."),
    "pixels divided by zero": (
        edit("processor_config.json", image_processor__image_std=[0.0, 0.3, 0.3]),
        "its processor fails on a white image, check processor_config.json",
    ),
    "means of text": (edit("processor_config.json", image_processor__image_mean=["", 0, 0]), "fails on a white image"),
    "length of text": (edit("tokenizer_config.json", model_max_length="x"), "fails on a white image"),
    "parts no object": (edit("config.json", vision_config=[1]), "vision_config in its .* is .1., not an object"),
    "end token of text": (edit("generation_config.json", eos_token_id="x"), "eos_token_id in .* is 'x', not ids"),
    "end token far out": (edit("generation_config.json", eos_token_id=[2, 10**9]), "eos_token_id in .* not ids"),
    "a GGUF file": (
        lambda folder: (folder / "model.safetensors").rename(folder / "model.gguf"),
        "holds a GGUF file, which is for inference",
    ),
    **{f"{file} a list": (write(file, "[1]"), "not an object|cannot be loaded") for file in JSON},
    **{f"{file} a number": (write(file, "7"), "not an object|cannot be loaded") for file in JSON},
    **{f"{file} no UTF-8": (write(file, b"{\"a\": \"\xff\"}"), "is not JSON|cannot be loaded") for file in JSON},
    **{f"{file} deep": (write(file, "[" * 100_000), "is not JSON|cannot be loaded") for file in JSON},
    "preprocessor_config.json a text": (write("preprocessor_config.json", '"x"'), "preprocessor_config.json holds 'x'"),
    "chat_template.json a list": (write("chat_template.json", "[]"), "chat_template.json holds .., not an object"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_cannot_be_trained_is_refused_in_a_line(kind, tiny_model_folder, tmp_path):
    damage, says = KINDS[kind]
    folder = shutil.copytree(tiny_model_folder("qwen2_5_vl"), tmp_path / "model")
    damage(folder)
    with pytest.raises(UserError, match=says) as refusal:
        load_policy(ModelConfig(path=str(folder)))
    assert str(refusal.value).startswith(f"model.path {folder}")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 700


HARMLESS = [
    *(sharded(), with_more("model.language_model.rotary_emb.inv_freq"), with_more("mtp.0.w")),
    weights(lambda held: {name: value.double() for name, value in held.items()}),
    with_more("model.visual.position_ids", torch.int64),
]


@pytest.mark.parametrize("change", HARMLESS)
def test_what_is_harmless_loads(change, tiny_model_folder, tmp_path):
    folder = shutil.copytree(tiny_model_folder("qwen2_5_vl"), tmp_path / "model")
    change(folder)
    loaded = load_policy(ModelConfig(path=str(folder)))
    whole = load_policy(ModelConfig(path=str(tiny_model_folder("qwen2_5_vl"))))
    assert all(map(torch.equal, loaded.model.parameters(), whole.model.parameters()))


def test_adapters_say_where_the_model_is(tiny_model_folder, tmp_path):
    """An adapter of peft's, one of our checkpoints, and the run that it belongs to."""
    loaded = load_policy(ModelConfig(path=str(tiny_model_folder("qwen2_5_vl"))))
    peft.get_peft_model(loaded.model, peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "sft")
    with pytest.raises(UserError, match=r"sft is a LoRA adapter .*: set model.path to .* and model.adapter to"):
        load_policy(ModelConfig(path=str(tmp_path / "sft")))

    run(tmp_path / "run", "train.steps=1", "eval.problems=0", "model.lora={rank: 2, alpha: 4}")
    step = tmp_path / "run" / "checkpoints" / "step_000001"
    with pytest.raises(UserError, match=r"set model.path to .*tiny_vlm and model.adapter to this folder, or write"):
        load_policy(ModelConfig(path=str(step / "adapter")))
    with pytest.raises(UserError, match=rf"run is a run: name one of its checkpoints, e.g. {step}$"):
        load_policy(ModelConfig(path=str(tmp_path / "run")))
    load_policy(ModelConfig(path=str(step)))


TEMPLATES = {
    "raises": ("{{ raise_exception('roles must alternate') }}", "TemplateError: roles must alternate"),
    "undefined": ("{{ messages.foo.bar }}", "UndefinedError"),
    "wrong type": ("{{ messages + 7 }}", "TypeError"),
    "no template": ("{% for", "TemplateSyntaxError"),
    "divides by zero": ("{{ 1 // 0 }}", "ZeroDivisionError"),
    "calls itself": ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
    "endless": (NESTED, "it does not end"),
    "endless in a filter": (NESTED.replace("range(9999)", "range(99999)|list"), "it does not end"),
    "reaches out": ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_template_that_cannot_be_rendered_is_refused_at_load(kind, tiny_model_folder, tmp_path, capsys):
    template, says = TEMPLATES[kind]
    folder = shutil.copytree(tiny_model_folder("qwen2_5_vl"), tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    loaded = load_processor(ModelConfig(path=str(folder)))
    with pytest.raises(
        UserError, match=rf"^model.path {folder}: its chat template cannot be rendered \({says}"
    ) as refusal:
        PromptBuilder(loaded.processor, loaded.family, loaded.config, DataConfig())
    assert str(refusal.value).endswith("fetch chat_template.jinja of this very model again")
    if kind == "raises":
        options = ["--set", f"model.path={folder}", "--set", f"run_folder={tmp_path / 'run'}"]
        assert main(["train", "--config", "configs/tiny.yaml", *options]) == 2
        assert capsys.readouterr().err == f"mmhicra: {refusal.value}\n"


def test_a_system_prompt_that_the_template_refuses(tiny_model_folder, tmp_path):
    folder = shutil.copytree(tiny_model_folder("qwen2_5_vl"), tmp_path / "model")
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}<|image_pad|>"
    (folder / "chat_template.jinja").write_text(template)
    loaded = load_processor(ModelConfig(path=str(folder)))
    PromptBuilder(loaded.processor, loaded.family, loaded.config, DataConfig())
    with pytest.raises(UserError, match=r"data.system_prompt: .* refuses it \(TemplateError: no system\): drop it"):
        PromptBuilder(loaded.processor, loaded.family, loaded.config, DataConfig(system_prompt="Think."))


def test_counting_steps_changes_no_chat(tiny_model):
    """Of the real templates none comes near the limit, and tracing is off afterwards."""
    loaded = tiny_model("qwen2_5_vl")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x" * 9999}]}] * 200
    plain = loaded.processor.apply_chat_template(messages, tokenize=False)
    assert render_chat(loaded.processor, messages) == plain
    with pytest.raises(ChatTemplateError, match=rf"it does not end \({MOST_STEPS + 1} steps\)"):
        render_chat(loaded.processor, messages, chat_template=NESTED)
    assert render_chat(loaded.processor, messages[:1]) != plain
