"""A frozen tower looks once: what it saw serves in place of the pixels, in memory and on disk."""

import pytest
import torch
from PIL import Image

from mmhicra.config import DataConfig
from mmhicra.core.errors import UserError
from mmhicra.core.records import Problem, ProblemImage
from mmhicra.vlm import features
from mmhicra.vlm.family import FAMILIES
from mmhicra.vlm.features import FrozenVision, images_of
from mmhicra.vlm.processing import PromptBuilder


@pytest.fixture
def prompts(tiny_model, make_problem):
    """Family -> prompts with one, no and two images."""

    def build(family):
        loaded = tiny_model(family)
        builder = PromptBuilder(loaded.processor, loaded.family, loaded.config, DataConfig())
        problems = [
            make_problem("<image>One?", (60, 90), id="one"),
            make_problem("None?", id="none"),
            make_problem("<image><image>Two of them?", (120, 60), (64, 64), id="two"),
        ]
        return loaded, [builder.build(problem) for problem in problems]

    return build


def embedded(loaded, prompt):
    with torch.no_grad():
        found = loaded.family.embed(
            loaded.model, prompt.expanded_ids[None], images_of([prompt]), prompt.image_positions[None]
        )
    return [found.inputs_embeds, *(found.deepstack or [])]


@pytest.mark.parametrize("at_a_time", [1, 10_000])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_features_stand_for_pixels(family, at_a_time, prompts, monkeypatch):
    monkeypatch.setattr(features, "PATCHES_AT_A_TIME", at_a_time)
    loaded, plain = prompts(family)
    seen = FrozenVision(loaded.model, loaded.family, "fp32").add_features(plain)
    assert [prompt.vision.pixel_values is None for prompt in seen] == [True, True, True]
    assert [prompt.patches for prompt in seen] == [0, 0, 0]
    assert plain[0].patches == len(plain[0].vision.pixel_values)
    for before, after in zip(plain, seen, strict=True):
        for expected, found in zip(embedded(loaded, before), embedded(loaded, after), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_folder_keeps_them_by_content(prompts, tmp_path, monkeypatch):
    loaded, plain = prompts("qwen3_vl")
    first = FrozenVision(loaded.model, loaded.family, "fp32", tmp_path).add_features(plain)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    again = FrozenVision(loaded.model, loaded.family, "fp32", tmp_path)
    monkeypatch.setattr(again, "_encode", None)  # nothing is left to look at
    for one, other in zip(first, again.add_features(plain), strict=True):
        assert (one.vision.features is None) == (other.vision.features is None)
        if one.vision.features:
            assert torch.equal(one.vision.features.merged, other.vision.features.merged)
            assert len(one.vision.features.deepstack) == len(other.vision.features.deepstack) == 2
            assert all(map(torch.equal, one.vision.features.deepstack, other.vision.features.deepstack))
    tower = loaded.family.vision_tower(loaded.model)
    weight = next(tower.parameters())
    weight.data += 1
    try:
        FrozenVision(loaded.model, loaded.family, "fp32", tmp_path).add_features(plain)
    finally:
        weight.data -= 1
    assert len(list(tmp_path.glob("*.safetensors"))) == 4, "another tower sees something else"


def test_the_same_image_may_be_written_twice_at_once(prompts, tmp_path, monkeypatch):
    loaded, plain = prompts("qwen2_vl")
    vision, save, inside = FrozenVision(loaded.model, loaded.family, "fp32", tmp_path), features.save_file, []

    def save_while_another_rank_does(tensors, path):
        save(tensors, path)
        if not inside:
            inside.append(path)
            vision.add_features(plain)

    monkeypatch.setattr(features, "save_file", save_while_another_rank_does)
    vision.add_features(plain)
    assert len(list(tmp_path.iterdir())) == len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_broken_file_is_named(prompts, tmp_path):
    loaded, plain = prompts("qwen2_vl")
    vision = FrozenVision(loaded.model, loaded.family, "fp32", tmp_path)
    vision.add_features(plain)
    broken = next(tmp_path.glob("*.safetensors"))
    broken.write_bytes(b"not a tensor")
    with pytest.raises(UserError, match=f"{broken.name} is broken .*: delete it"):
        vision.add_features(plain)


def test_pixels_and_features_do_not_mix(prompts):
    loaded, plain = prompts("qwen2_vl")
    seen = FrozenVision(loaded.model, loaded.family, "fp32").add_features(plain[:1])
    with pytest.raises(ValueError, match="problem two has pixels"):
        images_of([*seen, plain[2]])
    assert images_of(plain[1:2]) is None


@pytest.mark.parametrize("place", ["/dev/null", "/proc/nothing/here"])
def test_a_folder_that_cannot_be_made_is_named(place, tiny_model):
    loaded = tiny_model("qwen2_vl")
    with pytest.raises(UserError, match=rf"model.vision_cache: {place} is no folder to write to"):
        FrozenVision(loaded.model, loaded.family, "fp32", place)


def test_the_same_pixels_in_another_shape_are_another_image(tmp_path, tiny_model):
    """Two blank pictures of 2x8 and 4x4 patches have the same bytes: the kept features of one are not the other's."""
    loaded = tiny_model("qwen2_5_vl")
    builder = PromptBuilder(loaded.processor, loaded.family, loaded.config, DataConfig(min_pixels=3136))
    prompts = []
    for name, size in (("wide", (112, 28)), ("square", (56, 56))):
        picture = ProblemImage(Image.new("RGB", size, (90, 120, 60)), f"{name}.png")
        prompts.append(builder.build(Problem(id=name, question="<image>?", images=(picture,), answer="1")))
    assert torch.equal(prompts[0].vision.pixel_values, prompts[1].vision.pixel_values)
    assert prompts[0].vision.grid_thw.tolist() != prompts[1].vision.grid_thw.tolist()
    kept = FrozenVision(loaded.model, loaded.family, "fp32", tmp_path)
    wide, square = (kept.add_features([prompt])[0].vision.features.merged for prompt in prompts)
    expected = FrozenVision(loaded.model, loaded.family, "fp32").add_features(prompts[1:])[0].vision.features.merged
    assert torch.equal(square, expected)
    assert not torch.equal(square, wide)
