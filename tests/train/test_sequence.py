"""Rows that ranks compute together (`parallel.sequence`) equal those of one process, and a rank holds its part."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from on_ranks import on_ranks

from mmhicra.config.loading import load_config
from mmhicra.core.errors import ConfigError
from mmhicra.train.update.load import Device, LargestData, load_of
from mmhicra.train.update.rows import refuse_unfit_sequence
from mmhicra.vlm.family import FAMILIES
from mmhicra.vlm.qwen3_vl import QWEN3_VL

KINDS = ("whole", "lora full", "plain", "dense")
CASES = {
    2: [
        *((family, 2, kind) for family in ("qwen2_5_vl", "qwen3_vl") for kind in KINDS),
        *((family, 2, "whole") for family in sorted({*FAMILIES} - {"qwen2_5_vl", "qwen3_vl"})),
    ],
    4: [("qwen3_vl", 2, "whole"), ("qwen3_vl", 2, "whole shard selective"), ("qwen2_5_vl", 4, "whole")],
}
"""By ranks: family, ranks that compute a row together, and kind of policy in the words of rank_sequence.py. Tiny models
have two key-value heads: for four ranks they are repeated."""


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_row_of_several_ranks_equals_that_of_one(tiny_model_folder, tmp_path, ranks):
    folders = {family: str(tiny_model_folder(family)) for family, _, _ in CASES[ranks]}
    assert_equal(on_ranks(ranks, "train.rank_sequence:compare", tmp_path, folders=folders, cases=CASES[ranks]))


def assert_equal(results):
    for result in results:
        for name, found in result.items():
            assert found["stats"] < 1e-5, (name, found)
            assert found["gradient"] < 1e-5, (name, found)
            assert found["held"] == 1.0, (name, "an MLP has more of the row than its part", found)


def heads(count, shared) -> Any:
    return SimpleNamespace(
        get_text_config=lambda: SimpleNamespace(num_attention_heads=count, num_key_value_heads=shared)
    )


@pytest.mark.parametrize(
    ("size", "processes", "said"),
    [
        (3, 4, r"parallel.sequence \(3\) has to divide the number of processes, which is 4: set it to 1, 2 or 4,"),
        (2, 1, r"parallel.sequence \(2\) has to divide the number of processes, which is 1: set it to 1, or start"),
        (8, 8, r"as many query heads, but the model has 28 of them \(4 key-value heads, .*set it to 1, 2 or 4$"),
    ],
)
def test_what_does_not_divide_is_refused_with_what_does(size, processes, said):
    with pytest.raises(ConfigError, match=said):
        refuse_unfit_sequence(size, processes, QWEN3_VL, heads(28, 4))


@pytest.mark.parametrize(("size", "processes"), [(1, 1), (2, 4), (4, 4), (7, 14), (28, 28)])
def test_key_value_heads_need_not_divide(size, processes):
    refuse_unfit_sequence(size, processes, QWEN3_VL, heads(28, 4))


def test_a_family_whose_attention_is_its_own_is_refused():
    with pytest.raises(ConfigError, match="splits attention by heads, which models of the family alone cannot do"):
        refuse_unfit_sequence(2, 2, replace(QWEN3_VL, name="alone", shares_prompts=False), heads(28, 4))


def test_the_memory_plan_has_a_part_of_a_row_and_all_of_its_images():
    """A trained vision tower runs over every image of the row on each process; tokens are divided."""
    sizes = ["data.max_prompt_tokens=100", "rollout.max_new_tokens=200", "train.tokens_per_micro_batch=1001"]
    trained = "model.freeze={vision_tower: false, merger: false}"
    shape: Any = SimpleNamespace(merged=4)

    def load(*more):
        config = load_config(None, [*sizes, *more])
        return load_of(config, shape, LargestData(100, 50, 0), Device("cpu", "", 0, 0), 8)

    assert (load().micro_batch, load().micro_tokens) == (1001, 1001)
    assert (load("parallel.sequence=4").micro_batch, load("parallel.sequence=4").micro_tokens) == (1001, 251)
    assert load(trained).micro_patches == load(trained, "parallel.sequence=4").micro_patches == 400
    assert load(trained, "parallel.sequence=4").micro_tokens == -(-601 // 4)
