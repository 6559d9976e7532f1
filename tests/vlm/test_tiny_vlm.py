import json
from functools import cache
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from mmhicra.core.resources import asset_path
from mmhicra.data.generated.visual_math import PHRASES, generate, solve
from mmhicra.hicra.grams import GramLibrary
from mmhicra.hicra.planning import planning_mask
from tools.tiny_vlm.tiny import SPECIAL_TOKENS, build_model, build_processor, chat_text, save, train_tokenizer
from tools.tiny_vlm.warmup_report import boxed, respond

FOLDER = asset_path("tiny_vlm")
MEBIBYTE = 1 << 20


@cache
def load_tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32)


def test_the_asset_is_small_and_stored_in_bfloat16():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 12 * MEBIBYTE
    stored = Qwen2_5_VLForConditionalGeneration.from_pretrained(FOLDER, dtype="auto")
    assert {parameter.dtype for parameter in stored.parameters()} == {torch.bfloat16}


def test_the_processor_is_the_familys_own_and_the_special_tokens_are_single_ids(processor, model):
    assert type(processor) is Qwen2_5_VLProcessor
    ids = {token: processor.tokenizer(token).input_ids for token in SPECIAL_TOKENS}
    assert all(len(found) == 1 for found in ids.values())
    assert len({found[0] for found in ids.values()}) == len(SPECIAL_TOKENS)
    assert model.config.image_token_id == ids["<|image_pad|>"][0]
    assert model.generation_config.eos_token_id == ids["<|im_end|>"][0]
    assert model.generation_config.pad_token_id == ids["<|endoftext|>"][0]
    assert model.config.text_config.vocab_size == len(processor.tokenizer)
    assert model.config.text_config.max_position_embeddings >= 2048


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_unicode_text_survives_the_tokenizer(text):
    tokenizer = load_tokenizer()
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_numbers_of_the_tasks_are_single_tokens(processor):
    for number in (*range(46), *range(50, 370, 10)):
        assert len(processor.tokenizer(f" {number}").input_ids) == 1


def test_the_chat_template_takes_several_images_and_none(processor):
    parts = [{"type": "image"}, {"type": "text", "text": " and "}, {"type": "image"}]
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    opening = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    for content, shown in ((parts, f"{image} and {image}"), ("Why?", "Why?")):
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        assert text == opening.format(shown)


def test_an_image_of_the_default_task_is_nine_tokens(processor):
    problem = generate("held_out", 1, seed=0)[0]
    inputs = processor(
        text=[chat_text(processor, problem.question)], images=[problem.images[0].open()], return_tensors="pt"
    )
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 9
    assert inputs["image_grid_thw"].tolist() == [[1, 6, 6]]


def test_building_is_a_function_of_the_seed_and_saving_keeps_the_model(tmp_path):
    tokenizer = train_tokenizer(["Let me verify: 1 + 2 = 3"] * 9)
    state = torch.random.get_rng_state()
    one, same, other = (build_model(tokenizer, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [model.state_dict() for model in (one, same, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["lm_head.weight"], weights[2]["lm_head.weight"])
    save(one, build_processor(tokenizer), tmp_path)
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], value.to(torch.bfloat16)) for name, value in weights[0].items())
    assert one.lm_head.weight.dtype == torch.float32


@pytest.mark.slow
def test_careful_plans_beat_guesses(model, processor):
    problems = generate("held_out", 42, seed=3)

    def accuracy(plan: str) -> float:
        responses = respond(model, processor, problems, seed=0, openings=[PHRASES[plan][0]] * len(problems))
        return sum(boxed(r) == p.answer for r, p in zip(responses, problems, strict=True)) / len(problems)

    assert accuracy("careful") >= 0.75
    assert accuracy("guess") <= 0.45


def test_the_planning_mask_of_a_solution_is_its_plan_phrases(processor):
    library = GramLibrary.load("published_249")
    for number, problem in enumerate(generate("train", 24, seed=0)):
        text = solve(problem, "check", Random(number)).text
        encoded = processor.tokenizer(text, return_offsets_mapping=True)
        mask = planning_mask(encoded.input_ids, processor.tokenizer, library).tolist()
        begun = [phrase.rstrip(":") for plan in ("guess", "check") for phrase in PHRASES[plan] if phrase in text]
        spans = [(text.index(phrase), text.index(phrase) + len(phrase)) for phrase in begun]
        assert len(spans) == 2
        assert mask == [
            any(start < last and first < end for first, last in spans) for start, end in encoded.offset_mapping
        ]


def test_the_report_says_how_the_asset_was_made():
    report = json.loads((FOLDER / "warmup.json").read_text())
    assert report["seed"] == 0
    assert "tools.tiny_vlm.warmup" in report["command"]
    assert 0.3 <= report["accuracy"] <= 0.5
    assert report["boxed"] >= 0.97
    assert report["tokens_mean"] <= 45
    assert report["tokens_max"] <= 96
