"""Model folders: copies of the tiny VLM with files changed, removed or damaged.

Nonsense is a policy that holds a weight which is not finite, or another one than its folder; and a folder whose problem
only shows as a traceback when a prompt is made.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from faults import mutate
from faults.fuzz import Nonsense, Target
from PIL import Image
from safetensors.torch import load_file, save_file

from mmhicra.config import DataConfig, ModelConfig
from mmhicra.core.records import Problem, ProblemImage
from mmhicra.core.resources import asset_path
from mmhicra.vlm.loading import load_policy
from mmhicra.vlm.processing import PromptBuilder

JSON_FILES = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "generation_config.json",
    "tokenizer.json",
)
WEIGHTS = "model.safetensors"
TEMPLATES = (
    "",
    "{{",
    "{{ raise_exception('no') }}",
    "{{ 1/0 }}",
    "{% for a in range(10**9) %}{% endfor %}",
    "{{ messages }}",
    "x",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ messages[7].content }}",
    "{{ ''.__class__.__mro__ }}",
    "\x00",
    "{% include 'x' %}",
    "{{ 'x' * 100000000 }}",
)


@cache
def tensors() -> dict[str, torch.Tensor]:
    """The weights that ship."""
    return load_file(asset_path("tiny_vlm") / WEIGHTS)


def write(rng: random.Random, folder: Path) -> None:
    """`model/`, in which what is not changed is a link to the shipped file."""
    shipped, model = asset_path("tiny_vlm"), folder / "model"
    model.mkdir()
    for path in shipped.iterdir():
        os.link(path, model / path.name) if os.stat(path).st_dev == os.stat(model).st_dev else shutil.copy(path, model)
    for _ in range(rng.randint(1, 2)):
        rng.choice(CHANGES)(rng, model)


def put(path: Path, content: bytes) -> None:
    """Write beside the link, never through it."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def change_json(rng: random.Random, model: Path) -> None:
    name = rng.choice(JSON_FILES[:4]) if rng.random() < 0.9 else JSON_FILES[4]
    try:
        tree = json.loads((model / name).read_bytes())
    except (FileNotFoundError, ValueError):
        return
    put(model / name, json.dumps(mutate.change(tree, rng, rng.randint(1, 2))).encode())


def replace_json(rng: random.Random, model: Path) -> None:
    put(
        model / rng.choice(JSON_FILES),
        rng.choice([b"[]", b"7", b'"x"', b"null", b"{}", b"", b"{", b"[" * 5000, b"\xff\xfe"]),
    )


def spoil_file(rng: random.Random, model: Path) -> None:
    path = rng.choice(sorted(model.iterdir()))
    if path.name != "tokenizer.json" or rng.random() < 0.3:
        put(path, mutate.spoil_bytes(path.read_bytes(), rng))


def remove_file(rng: random.Random, model: Path) -> None:
    path = rng.choice(sorted(model.iterdir()))
    path.unlink()
    if rng.random() < 0.2:
        path.mkdir()


def change_template(rng: random.Random, model: Path) -> None:
    put(model / "chat_template.jinja", rng.choice(TEMPLATES).encode())


def change_weights(rng: random.Random, model: Path) -> None:
    weights = dict(tensors())
    name = rng.choice(sorted(weights))
    kind = rng.randrange(7)
    if kind < 2:
        damaged = weights[name].clone()
        damaged.view(-1)[rng.randrange(damaged.numel())] = rng.choice([float("nan"), float("inf"), float("-inf")])
        weights[name] = damaged
    elif kind == 2:
        del weights[name]
    elif kind == 3:
        prefix = rng.choice(["base_model.model.", "module.", "_orig_mod.", "language_model."])
        weights = {prefix + key: value for key, value in weights.items()}
    elif kind == 4:
        weights[f"{name.removesuffix('.weight')}.lora_A.default.weight"] = torch.zeros(4, 8)
    elif kind == 5:
        weights[name] = torch.zeros(*(size + 1 for size in weights[name].shape))
    else:
        weights[name] = weights[name].to(rng.choice([torch.int8, torch.float16, torch.bfloat16]))
    (model / WEIGHTS).unlink(missing_ok=True)
    save_file(weights, model / WEIGHTS, {"format": "pt"})


def quantise(rng: random.Random, model: Path) -> None:
    method = rng.choice(
        [
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            {"quant_method": "awq", "bits": 4},
            {"quant_method": "fp8"},
            {"quant_method": "gptq", "bits": 4},
            {},
            {"quant_method": "x"},
        ]
    )
    try:
        tree = json.loads((model / "config.json").read_bytes())
    except (OSError, ValueError):
        return
    if isinstance(tree, dict):
        put(model / "config.json", json.dumps({**tree, "quantization_config": method}).encode())


def add_pickle(rng: random.Random, model: Path) -> None:
    (model / WEIGHTS).unlink(missing_ok=True)
    if rng.random() < 0.5:
        put(model / "pytorch_model.bin", b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    else:
        torch.save(tensors(), model / "pytorch_model.bin")


CHANGES: tuple[Callable[[random.Random, Path], None], ...] = (
    change_json,
    change_json,
    change_json,
    replace_json,
    spoil_file,
    spoil_file,
    remove_file,
    change_template,
    change_weights,
    change_weights,
    quantise,
    add_pickle,
)


def attempt(folder: Path) -> None:
    """Load the policy, compare its weights with the folder's, and make two prompts."""
    loaded = load_policy(ModelConfig(path=str(folder / "model")))
    for name, weight in loaded.model.named_parameters():
        if not torch.isfinite(weight).all():
            raise Nonsense(f"{name} of the loaded policy is not finite")
    compare_weights(loaded.model, folder / "model" / WEIGHTS)
    data = DataConfig(min_pixels=3136, max_pixels=7056, max_prompt_tokens=512)
    builder = PromptBuilder(loaded.processor, loaded.family, loaded.config, data)
    picture = ProblemImage(Image.new("RGB", (84, 84), "red"), "red.png")
    for problem in (Problem("p", "<image>How many?", (picture,), "1"), Problem("q", "1 + 1?", (), "2")):
        builder.check(problem)
        builder.build(problem)


def compare_weights(model: torch.nn.Module, path: Path) -> None:
    """Raises Nonsense if the policy's language model is not what the file says."""
    if not path.is_file():
        return
    wanted = load_file(path)
    odd = sorted(name for name in wanted if "lora_" in name)
    if odd:
        raise Nonsense(f"{odd[0]} is in the folder and left out")
    state = model.state_dict()
    for name, tensor in wanted.items():
        mine = next(
            (state[key] for key in (name, name.replace("model.", "model.language_model.", 1)) if key in state), None
        )
        if mine is not None and (mine.shape != tensor.shape or not torch.equal(mine.float(), tensor.float())):
            raise Nonsense(f"{name} of the loaded policy differs from the folder's")


TARGET = Target("models", write, attempt, tensors)
