"""What a family knows about its architecture equals what transformers does with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlavaConfig, PreTrainedConfig, Qwen2_5_VLConfig, Qwen3VLConfig

from mmhicra.config import DataConfig, FreezeConfig, ModelConfig
from mmhicra.core.errors import ConfigError
from mmhicra.vlm.family import FAMILIES, family_of, find_family, register_family
from mmhicra.vlm.features import images_of
from mmhicra.vlm.loading import load_policy
from mmhicra.vlm.patch_grid import mrope_positions
from mmhicra.vlm.processing import PromptBuilder


@pytest.fixture
def scene(tiny_model, make_problem):
    """Family -> model and a prompt with two images."""

    def make(family):
        loaded = tiny_model(family)
        build = PromptBuilder(loaded.processor, loaded.family, loaded.config, DataConfig()).build
        return loaded, build(make_problem("Is <image> like <image>?", (100, 80), (56, 140)))

    return make


def stock_hidden(model, prompt):
    """(P, H) by the stock model."""
    with torch.no_grad():
        output = model.model(
            input_ids=prompt.expanded_ids[None],
            pixel_values=prompt.vision.pixel_values,
            image_grid_thw=prompt.vision.grid_thw,
            mm_token_type_ids=prompt.image_positions.int()[None],
        )
    return output.last_hidden_state[0]


def embed(loaded, model, prompt, ids=None):
    return loaded.family.embed(
        model,
        prompt.expanded_ids[None] if ids is None else ids,
        images_of([prompt]),
        prompt.image_positions[None],
    )


LAYOUT = st.lists(st.one_of(st.integers(1, 5), st.tuples(st.integers(1, 6), st.integers(1, 6))), min_size=1, max_size=8)


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=LAYOUT)
def test_positions_equal_get_rope_index(family, layout, tiny_model):
    """Any sequence of text (a number of tokens) and images (rows and columns of image tokens) behind a first token."""
    loaded = tiny_model(family)
    kinds, grids = [0], []
    for part in layout:
        if isinstance(part, int):
            kinds += [0] * part
        else:
            # The stock model finds images by runs of tokens, so two of them need text between.
            kinds += [0] * (kinds[-1] == 1) + [1] * (part[0] * part[1])
            grids.append([1, 2 * part[0], 2 * part[1]])
    ids, image = torch.zeros(len(kinds), dtype=torch.int64), torch.tensor(kinds)
    grid = torch.tensor(grids) if grids else None
    expected, _ = loaded.model.model.get_rope_index(ids[None], image[None].int(), image_grid_thw=grid)
    assert torch.equal(mrope_positions(image.bool(), grid, 2), expected[:, 0])


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_equal_the_stock_model(family, scene):
    loaded, prompt = scene(family)
    with torch.no_grad():
        embedded = embed(loaded, loaded.model, prompt)
        hidden, cache = loaded.family.hidden_states(loaded.model, embedded, prompt.vision.positions[:, None], None)
    assert cache is None
    torch.testing.assert_close(hidden[0], stock_hidden(loaded.model, prompt), atol=1e-5, rtol=0)
    assert (embedded.deepstack is not None) == (family == "qwen3_vl")


@pytest.mark.parametrize("family", FAMILIES)
def test_explicit_masks_are_obeyed(family, scene):
    """One row [prompt][answer a][answer b] in which b does not see a equals [prompt][a] and [prompt][b]."""
    loaded, prompt = scene(family)
    first, second = torch.tensor([11, 12, 13]), torch.tensor([21, 22, 23, 24])
    ids = torch.cat([prompt.expanded_ids, first, second])
    at = prompt.vision.next_position
    starts = [at + torch.arange(3), at + torch.arange(4)]
    positions = torch.cat([prompt.vision.positions, torch.cat(starts).expand(3, -1)], dim=1)
    mask = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    mask[len(prompt) + 3 :, len(prompt) : len(prompt) + 3] = False
    images = torch.cat([prompt.image_positions, torch.zeros(7, dtype=torch.bool)])
    with torch.no_grad():
        embedded = loaded.family.embed(loaded.model, ids[None], images_of([prompt]), images[None])
        hidden, _ = loaded.family.hidden_states(loaded.model, embedded, positions[:, None], mask[None, None])
    for answer, found in ((first, hidden[0, len(prompt) : -4]), (second, hidden[0, -4:])):
        alone = torch.cat([prompt.expanded_ids, answer])
        kinds = torch.cat([prompt.image_positions.int(), torch.zeros(len(answer), dtype=torch.int32)])
        with torch.no_grad():
            output = loaded.model.model(
                input_ids=alone[None],
                pixel_values=prompt.vision.pixel_values,
                image_grid_thw=prompt.vision.grid_thw,
                mm_token_type_ids=kinds[None],
            )
        expected = output.last_hidden_state[0, len(prompt) :]
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_images_stand_where_the_prompt_says(scene):
    """An image token that the policy itself wrote is text: it neither takes a feature nor moves one."""
    loaded, prompt = scene("qwen2_5_vl")
    image = loaded.config.image_token_id
    ids = torch.cat([prompt.expanded_ids, torch.tensor([image])])
    places = torch.cat([prompt.image_positions, torch.tensor([False])])
    embedded = loaded.family.embed(loaded.model, ids[None], images_of([prompt]), places[None])
    table = loaded.family.language_model(loaded.model).embed_tokens.weight
    assert torch.equal(embedded.inputs_embeds[0, -1], table[image])
    features = loaded.family.encode_images(loaded.model, prompt.vision.pixels)
    assert torch.equal(embedded.inputs_embeds[0, places], features.merged)


@pytest.mark.parametrize("family", FAMILIES)
def test_unequal_counts_are_reported_with_the_grid(family, scene):
    loaded, prompt = scene(family)
    places = prompt.image_positions.clone()
    places[places.nonzero()[-1]] = False
    count = int(prompt.image_positions.sum())
    with pytest.raises(ValueError, match=rf"{count - 1} image positions but {count} image features: .*\[\[1, "):
        loaded.family.embed(loaded.model, prompt.expanded_ids[None], images_of([prompt]), places[None])
    with pytest.raises(ValueError, match=f"{count} image positions but no image"):
        loaded.family.embed(loaded.model, prompt.expanded_ids[None], None, prompt.image_positions[None])


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_gradients_equal_plain_ones(family, scene, tiny_model_folder):
    """Through vision tower, mergers and decoder; the model in train mode, as the trainer has it."""
    loaded, prompt = scene(family)
    gradients = []
    for checkpointing in ("none", "full"):
        everything = FreezeConfig(vision_tower=False, merger=False)
        path = str(tiny_model_folder(family))
        model = load_policy(ModelConfig(path=path, freeze=everything, checkpointing=checkpointing)).model
        assert model.training
        hidden, _ = loaded.family.hidden_states(
            model, embed(loaded, model, prompt), prompt.vision.positions[:, None], None
        )
        torch.testing.assert_close(hidden[0].detach(), stock_hidden(loaded.model, prompt), atol=1e-5, rtol=0)
        loaded.family.lm_head(model)(hidden[0, -1]).logsumexp(0).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, checkpointed = gradients
    assert set(plain) == set(checkpointed) == {name for name, _ in loaded.model.named_parameters()}
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-4)


PARTS = {
    "merger": ("model.visual.merger.", "model.visual.deepstack_merger_list."),
    "vision_tower": ("model.visual.",),
    "language_model": ("model.language_model.", "lm_head."),
}


@pytest.mark.parametrize("trained", [{"language_model"}, {"merger"}, {"vision_tower"}, {"merger", "language_model"}])
@pytest.mark.parametrize("family", FAMILIES)
def test_freezing_leaves_the_named_parts(family, trained, tiny_model_folder):
    options = FreezeConfig(**{part: part not in trained for part in PARTS})
    model = load_policy(ModelConfig(path=str(tiny_model_folder(family)), freeze=options)).model
    for name, parameter in model.named_parameters():
        part = next(part for part, prefixes in PARTS.items() if name.startswith(prefixes))
        assert parameter.requires_grad == (part in trained), name


@pytest.mark.parametrize("family", FAMILIES)
def test_banned_tokens(family, tiny_model):
    loaded = tiny_model(family)
    names = loaded.tokenizer.convert_ids_to_tokens(loaded.banned_token_ids)
    expected = {"<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"}
    assert set(names) == expected
    # Ids beyond the vocabulary, the defaults of a configuration that names none, cannot be sampled.
    stranger = Qwen2_5_VLConfig(text_config={"vocab_size": len(loaded.tokenizer)})
    assert loaded.family.banned_token_ids(loaded.tokenizer, stranger) == loaded.banned_token_ids


def declared(kind, *architectures):
    return kind(architectures=list(architectures))


QWEN25 = declared(Qwen2_5_VLConfig, "Qwen2_5_VLForConditionalGeneration")


@pytest.mark.parametrize(
    ("config", "path", "requested", "template", "expected"),
    [
        (QWEN25, "Qwen/Qwen2.5-VL-7B-Instruct", "auto", "{{ messages }}", "qwen2_5_vl"),
        (QWEN25, "XiaomiMiMo/MiMo-VL-7B-RL", "auto", None, "mimo_vl"),
        (QWEN25, "mimo/step_000050/", "auto", None, "qwen2_5_vl"),
        (QWEN25, "runs/a/step_000050", "auto", "{{ '<think>' }}", "mimo_vl"),
        (QWEN25, "runs/a/step_000050", "mimo_vl", None, "mimo_vl"),
        (QWEN25, "XiaomiMiMo/MiMo-VL-7B-RL", "qwen2_5_vl", None, "qwen2_5_vl"),
        (declared(Qwen3VLConfig, "Qwen3VLForConditionalGeneration"), "mimo", "auto", "<think>", "qwen3_vl"),
        (Qwen3VLConfig(), "x", "auto", None, "qwen3_vl"),
    ],
)
def test_family_of(config, path, requested, template, expected):
    assert family_of(config, path, requested, template).name == expected


@pytest.mark.parametrize(
    ("config", "requested", "says"),
    [
        (
            declared(LlavaConfig, "LlavaForConditionalGeneration"),
            "auto",
            "a LlavaForConditionalGeneration.*use qwen2_vl",
        ),
        (declared(Qwen2_5_VLConfig, "ColQwen"), "qwen2_5_vl", "a ColQwen, which mmhicra does not support"),
        (PreTrainedConfig(), "auto", "a model without a type, which"),
        (QWEN25, "qwen3_vl", "model.family is qwen3_vl, but .*set model.family to auto or qwen2_5_vl or mimo_vl"),
    ],
)
def test_family_of_refuses(config, requested, says):
    with pytest.raises(ConfigError, match=says):
        family_of(config, "some/model", requested)


def test_a_family_from_outside_is_found_by_its_name_and_its_architecture(monkeypatch):
    monkeypatch.setattr("mmhicra.vlm.family.FAMILIES", dict(FAMILIES))
    outside = replace(find_family("qwen2_vl"), name="strange_vl", model_type="strange", architecture="StrangeForVision")
    assert register_family(outside) is register_family(outside) is find_family("strange_vl")
    strange = PreTrainedConfig(architectures=["StrangeForVision"])
    strange.model_type = "strange"
    assert family_of(strange, "some/model") is family_of(strange, "some/model", "strange_vl") is outside
    with pytest.raises(ConfigError, match=r"model\.family qwen2_vl is registered twice"):
        register_family(replace(outside, name="qwen2_vl"))
    with pytest.raises(ConfigError, match=r"model\.family odd is not known: choose from auto, qwen2_vl, .*strange_vl"):
        find_family("odd")


@pytest.mark.parametrize("family", FAMILIES)
def test_vision_inputs_are_carried_without_a_look_inside(family, scene):
    """What packing, engines and error lines ask of them."""
    _, prompt = scene(family)
    vision = prompt.vision
    assert vision.describe().startswith("image of 100x80 pixels resized to ")
    assert [size[2:4] for size in vision.sizes] == [image.size for image in prompt.images]
    assert sum(size.tokens for size in vision.sizes) == int(prompt.image_positions.sum())
    light = vision.without_pixels()
    assert (light.patches, light.pixels, light.describe()) == (0, None, vision.describe())
    assert light.same_images(vision)
    assert not replace(light, grid_thw=light.grid_thw.flip(1)).same_images(vision)
    row = vision.positions_with([2, 3])
    assert torch.equal(row[:, : len(prompt)], vision.positions)
    assert (row[:, len(prompt) :] - vision.next_position).tolist() == [[0, 1, 0, 1, 2]] * len(row)


def test_text_needs_no_image(tiny_model):
    loaded = tiny_model("qwen3_vl")
    ids = torch.tensor([[5, 6, 7]])
    embedded = loaded.family.embed(loaded.model, ids, None, torch.zeros_like(ids, dtype=torch.bool))
    assert (embedded.deepstack, embedded.visual_pos_masks) == (None, None)
    assert torch.equal(embedded.inputs_embeds, loaded.family.embed_ids(loaded.model, ids))
