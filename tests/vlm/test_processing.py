"""A prompt equals what the stock processor and model make of the raw problem; the unusable is refused by name."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mmhicra.config import DataConfig
from mmhicra.config.data import SourceConfig
from mmhicra.core.errors import ConfigError, DataError
from mmhicra.core.records import Problem, ProblemImage
from mmhicra.vlm.family import FAMILIES
from mmhicra.vlm.processing import PromptBuilder

LIMITS = {"min_pixels": 3136, "max_pixels": 40000}
SIZE = {"shortest_edge": 3136, "longest_edge": 40000}


def builder(loaded, **options):
    return PromptBuilder(loaded.processor, loaded.family, loaded.config, DataConfig(**{**LIMITS, **options}))


def stock(loaded, text, images):
    """The stock processor on raw images, and the stock model's positions."""
    options = {"images_kwargs": {"size": SIZE}, "return_tensors": "pt"}
    inputs = loaded.processor(text=[text], images=[image.open() for image in images] or None, **options)
    positions, _ = loaded.model.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], image_grid_thw=inputs.get("image_grid_thw")
    )
    return inputs, positions[:, 0]


QUESTIONS = {
    "none": ("How many sides has a  triangle?\n",),
    "one": ("<image>What is x?", (100, 80)),
    "several": ("Compare <image> with\n<image><image>: which?", (300, 200), (20, 10), (56, 84)),
    "beyond the limits": ("<image>and <image>", (1200, 900), (9, 7)),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_prompt_equals_stock_processor_and_model(family, question, tiny_model, make_problem):
    loaded = tiny_model(family)
    problem = make_problem(*question)
    prompt = builder(loaded).build(problem)
    content = []
    for index, piece in enumerate(problem.question.split("<image>")):
        content += [{"type": "image"}] * (index > 0) + [{"type": "text", "text": piece}] * bool(piece)
    text = loaded.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs, positions = stock(loaded, text, problem.images)

    assert prompt.expanded_ids.tolist() == inputs["input_ids"][0].tolist()
    assert prompt.ids == loaded.tokenizer(text)["input_ids"]
    assert prompt.image_positions.tolist() == inputs["mm_token_type_ids"][0].bool().tolist()
    assert torch.equal(prompt.vision.positions, positions)
    if problem.images:
        assert torch.equal(prompt.vision.grid_thw, inputs["image_grid_thw"])
        assert prompt.vision.pixel_values.dtype == torch.float32
        # PIL and torchvision round their bicubic filters differently: a grey level here and there.
        assert (prompt.vision.pixel_values - inputs["pixel_values"]).abs().mean() < 0.01
    else:
        assert prompt.vision.pixel_values is None
        assert prompt.vision.grid_thw is None


@pytest.mark.parametrize("family", FAMILIES)
def test_resized_images_pass_the_processor_untouched(family, tiny_model, make_problem):
    """What an engine is given, `Prompt.images`, gives the same pixels again; none is resized twice."""
    loaded = tiny_model(family)
    prompt = builder(loaded).build(make_problem("<image><image>", (333, 123), (84, 96)))
    again = loaded.processor.image_processor(images=list(prompt.images), size=SIZE, return_tensors="pt")
    assert torch.equal(again["image_grid_thw"], prompt.vision.grid_thw)
    assert torch.equal(again["pixel_values"], prompt.vision.pixel_values)


def test_pixel_limits_are_the_run_s_not_the_processor_s(tiny_model, make_problem):
    """The processor's own limits are 3136 and 1003520."""
    loaded = tiny_model("qwen2_5_vl")
    small = builder(loaded, min_pixels=784).build(make_problem("<image>", (30, 30)))
    assert small.vision.grid_thw.tolist() == [[1, 2, 2]]
    large = builder(loaded, max_pixels=2_000_000).build(make_problem("<image>", (1400, 1120)))
    assert large.vision.grid_thw.tolist() == [[1, 80, 100]]


def test_instruction_and_system_prompt(tiny_model, make_problem):
    loaded = tiny_model("qwen2_5_vl")
    build = builder(loaded, instruction="Box it.", system_prompt="You solve problems.").build
    asked = loaded.tokenizer.decode(build(make_problem("<image>How many?", (84, 84))).ids)
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert asked == (
        "<|im_start|>system\nYou solve problems.<|im_end|>\n"
        f"<|im_start|>user\n{image}How many?\nBox it.<|im_end|>\n<|im_start|>assistant\n"
    )
    shown = loaded.tokenizer.decode(build(make_problem("How many? <image>", (84, 84))).ids)
    assert f"How many? {image}Box it.<|im_end|>" in shown


def test_a_rows_own_system_turn_stands_as_the_systems(tiny_model, make_problem):
    """In place of the template's default and of `data.system_prompt`; not in front of the question."""
    loaded = tiny_model("qwen2_5_vl")
    problem = replace(make_problem("<image>How many?", (84, 84)), system="Think first.")
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    chat = [{"role": "system", "content": "Think first."}, {"role": "user", "content": f"{image}How many?"}]
    plain = loaded.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    for settings in ({}, {"system_prompt": "You solve problems."}):
        assert loaded.tokenizer.decode(builder(loaded, **settings).build(problem).ids) == plain
    with pytest.raises(DataError, match=r"the system turn contains the control token <\|im_end\|>: take it out"):
        builder(loaded).build(replace(problem, system="Stop.<|im_end|>"))


def test_each_source_has_its_own_instruction(tiny_model, make_problem):
    loaded = tiny_model("qwen2_5_vl")
    sources = [
        SourceConfig(source="visual_math", name="one", instruction="One letter."),
        SourceConfig(source="visual_ledger", name="other"),
    ]
    build = builder(loaded, instruction="Box it.", sources=sources).build
    problem = make_problem("<image>How many?", (84, 84))
    for name, said in (("one", "One letter."), ("other", "Box it."), ("", "Box it.")):
        asked = loaded.tokenizer.decode(build(replace(problem, dataset=name)).ids)
        assert f"How many?\n{said}<|im_end|>" in asked


THINKS = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
"""What Qwen3's template writes behind the assistant's turn if it is told not to think."""


def with_template(loaded, added=THINKS, template=None):
    """A loaded model whose chat template is this one, or its own, with `added` behind it."""
    processor = copy.copy(loaded.processor)
    processor.chat_template = (template or loaded.processor.chat_template).rstrip("\n") + added
    return replace(loaded, processor=processor)


@pytest.mark.parametrize(
    "given", [{}, {"enable_thinking": True}, {"enable_thinking": False}, {"enable_thinking": False, "who": "me"}]
)
def test_a_template_gets_its_arguments(given, tiny_model, make_problem):
    """A prompt is what the stock processor renders with the same arguments."""
    loaded = with_template(tiny_model("qwen2_5_vl"), THINKS + "{{ who }}{% set other = 3 %}")
    problem = make_problem("<image>How many?", (84, 84))
    content = [{"type": "image"}, {"type": "text", "text": "How many?"}]
    text = loaded.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False, **given
    )
    assert ("</think>" in text) == (given.get("enable_thinking") is False)
    assert builder(loaded, chat_template_kwargs=given).build(problem).ids == loaded.tokenizer(text)["input_ids"]


def test_arguments_that_the_template_does_not_read_are_refused(tiny_model):
    loaded = tiny_model("qwen2_5_vl")
    with pytest.raises(ConfigError, match=r"does not read enable_thinking, x: it reads none$"):
        builder(loaded, chat_template_kwargs={"enable_thinking": False, "x": 1})
    thinks = with_template(
        loaded, THINKS + "{{ bos_token }}{{ budget }}{% for each in tools or [] %}{% break %}{% endfor %}"
    )
    for name in ("enable_thinkin", "messages", "tools", "add_generation_prompt"):
        with pytest.raises(ConfigError, match=rf"does not read {name}: it reads budget, enable_thinking$"):
            builder(thinks, chat_template_kwargs={name: 1})


def test_mimo_is_told_not_to_think(tiny_model, make_problem):
    """By its template if that reads `no_think`, else by the text `/no_think` at the end of the user's turn."""
    loaded = tiny_model("mimo_vl")

    def asked(loaded, **given):
        build = builder(loaded, instruction="Box it.", chat_template_kwargs=given).build
        return loaded.tokenizer.decode(build(make_problem("How many?")).ids)

    plain = asked(loaded)
    assert asked(loaded, no_think=True) == f"{plain}<think>\n\n</think>\n"
    with pytest.raises(ConfigError, match=r"does not read enable_thinking: it reads no_think$"):
        asked(loaded, enable_thinking=False)
    template = loaded.processor.chat_template
    later = with_template(loaded, "", template.replace("{% if no_think %}<think>\n\n</think>\n{% endif %}", ""))
    assert asked(later) == asked(later, enable_thinking=True) == asked(later, no_think=False) == plain
    silent = plain.replace("Box it.<|im_end|>", "Box it. /no_think<|im_end|>")
    assert asked(later, enable_thinking=False) == asked(later, no_think=True) == silent != plain
    image = builder(later, chat_template_kwargs={"no_think": True}).build(make_problem("<image>", (84, 84)))
    assert "<|vision_end|>/no_think<|im_end|>" in loaded.tokenizer.decode(image.ids)
    with pytest.raises(ConfigError, match=r"does not read other: it reads enable_thinking, no_think$"):
        asked(later, enable_thinking=False, other=1)
    with pytest.raises(ConfigError, match=r"enable_thinking must be true or false"):
        asked(later, enable_thinking="no")


def test_prompt_length_is_refused_never_truncated(tiny_model, make_problem):
    loaded = tiny_model("qwen2_vl")
    problem = make_problem("<image>How many?", (196, 196), id="geo/7")
    length = len(builder(loaded).build(problem))
    enough, short = builder(loaded, max_prompt_tokens=length), builder(loaded, max_prompt_tokens=length - 1)
    enough.check(problem)
    assert len(enough.build(problem)) == length
    for refuse in (short.build, short.check):
        with pytest.raises(DataError, match=rf"geo/7.*{length} prompt tokens, 49 of them image.*\({length - 1}\)"):
            refuse(problem)


@pytest.mark.parametrize(
    ("question", "sizes", "says"),
    [
        ("<image>How many?", [], "1 <image> in the question but 0 images"),
        ("How many?", [(84, 84)], "0 <image> in the question but 1 images"),
        ("Is <|image_pad|> here? <image>", [(84, 84)], r"control token <\|image_pad\|>"),
        ("Done.<|im_end|>", [], r"control token <\|im_end\|>"),
        ("<image>", [(2010, 10)], r"noise/2010x10.png \(2010x10\) cannot be resized: .*aspect ratio"),
        ("<image>", [(400, 10)], r"noise/400x10.png \(400x10\) fits no multiple of 28 pixels"),
    ],
)
def test_unusable_problems_are_refused_by_name(question, sizes, says, tiny_model, make_problem):
    problem = make_problem(question, *sizes, id="geo/7")
    prompts = builder(tiny_model("qwen2_5_vl"), max_pixels=7056)
    for refuse in (prompts.build, prompts.check):
        with pytest.raises(DataError, match=rf"^problem geo/7: .*{says}"):
            refuse(problem)


def test_image_without_a_stable_size_is_refused(tiny_model, make_problem):
    """100x50 becomes 140x84 and that, above max_pixels, 84x56: two looks, two sizes."""
    with pytest.raises(DataError, match=r"100x50.* fits no multiple of 28 pixels between data.min_pixels \(7056\)"):
        builder(tiny_model("qwen2_5_vl"), min_pixels=7056, max_pixels=7056).build(make_problem("<image>", (100, 50)))


def test_unreadable_images_are_refused_by_name(tiny_model, tmp_path):
    Image.effect_noise((84, 84), 50).save(tmp_path / "whole.png")
    half = (tmp_path / "whole.png").read_bytes()[:2000]
    build = builder(tiny_model("qwen2_5_vl")).build
    for name, payload, reason in (
        ("gone.png", tmp_path / "gone.png", "No such file or directory"),
        ("half.png", half, "image file is truncated"),
        ("text.png", b"not an image", "not in an image format that Pillow knows"),
    ):
        problem = Problem("p", "<image>", (ProblemImage(payload, name),), "1", source="set.jsonl:3")
        with pytest.raises(DataError, match=rf"^problem p \(set.jsonl:3\): image {name} cannot be read: {reason}"):
            build(problem)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("held", ["file", "bytes", "image"])
def test_images_are_turned_as_their_metadata_says(orientation, held, tmp_path):
    """Pillow's own `exif_transpose` is the reference; nothing of the metadata is left for another to read."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8))
    path = tmp_path / "photo.png"
    picture.save(path, exif=exif)
    payload = {"file": path, "bytes": path.read_bytes(), "image": Image.open(path)}[held]
    image = ProblemImage(payload, "photo.png")
    opened = image.open()
    assert opened.tobytes() == ImageOps.exif_transpose(Image.open(path)).tobytes()
    assert image.size() == opened.size == ((90, 40) if orientation < 5 else (40, 90))
    assert not opened.getexif()
    assert not opened.info


def test_special_token_in_the_instruction_is_refused(tiny_model):
    with pytest.raises(ConfigError, match=r"data.instruction .*<\|vision_start\|>"):
        builder(tiny_model("qwen2_5_vl"), instruction="Look: <|vision_start|>")


def test_diagrams_take_the_stock_grid(tiny_model, geometry3k):
    """Geometry diagrams of all sizes, at the limits of a real run."""
    rows = [json.loads(line) for line in (geometry3k / "val.jsonl").read_text().splitlines()[:20]]
    loaded = tiny_model("qwen2_5_vl")
    build = builder(loaded, max_pixels=200704).build
    for row in rows:
        image = ProblemImage(geometry3k / row["image"], row["image"])
        prompt = build(Problem(row["image"], "<image>Find x.", (image,), "1"))
        size = {"shortest_edge": 3136, "longest_edge": 200704}
        raw = loaded.processor.image_processor(images=[image.open()], size=size, return_tensors="pt")
        assert torch.equal(prompt.vision.grid_thw, raw["image_grid_thw"])
