"""Every shared-prefix attention against the dense reference, and what each machine can run."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from mmhicra.refusals import ConfigRefusal
from mmhicra.train.attention import ATTENTIONS, choose, dense, flex_by, segments, varlen
from mmhicra.train.layout import Layout
from mmhicra.train.segments import joined_attention

HEADS, KEY_HEADS, SIZE, SCALE = 6, 2, 16, 0.3
lengths = st.lists(
    st.tuples(st.integers(1, 12), st.lists(st.integers(1, 9), min_size=1, max_size=5)), min_size=1, max_size=4
)


def plain_varlen(query, key, value, *, cu_seqlens_q, cu_seqlens_k, softmax_scale, causal, **_):
    """What flash-attention's kernel computes, one sequence at a time."""
    outputs = []
    for rows, columns in zip(zip(cu_seqlens_q, cu_seqlens_q[1:]), zip(cu_seqlens_k, cu_seqlens_k[1:]), strict=True):  # noqa: B905, RUF007
        q, k, v = (t[slice(*at)].transpose(0, 1)[None] for t, at in ((query, rows), (key, columns), (value, columns)))
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        found = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=softmax_scale, enable_gqa=True)
        outputs.append(found[0].transpose(0, 1))
    assert causal
    return torch.cat(outputs)


@settings(deadline=None, max_examples=40)
@given(lengths)
def test_all_equal_the_dense_one_with_gradients(lengths):
    layout = Layout.of(lengths)
    torch.manual_seed(0)
    row = [torch.randn(len(layout), heads, SIZE, requires_grad=True) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    slope = torch.randn(len(layout), HEADS, SIZE)
    expected = dense(*row, layout, SCALE)
    gradients = torch.autograd.grad(expected, row, slope)
    for attention in (segments, joined_attention, lambda *row: varlen(plain_varlen, *row)):
        found = attention(*row, layout, SCALE)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        for own, wanted in zip(torch.autograd.grad(found, row, slope), gradients, strict=True):
            torch.testing.assert_close(own, wanted, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@settings(deadline=None, max_examples=10)
@given(lengths)
def test_the_block_mask_is_the_dense_mask(lengths):
    """FlexAttention has no backward pass on CPU; its forward pass shows that the blocks hide what the mask hides."""
    layout = Layout.of(lengths)
    row = [torch.randn(len(layout), heads, SIZE) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    found = flex_by(flex_attention, *row, layout, SCALE)
    torch.testing.assert_close(found, dense(*row, layout, SCALE), atol=1e-5, rtol=0)


def test_a_response_sees_its_prompt_and_itself():
    expected = [
        "x........",
        "xx.......",
        "xxx......",
        "xxxx.....",
        "xx..x....",
        ".....x...",
        ".....xx..",
        ".....x.x.",
        ".....x.xx",
    ]
    mask = Layout.of([(2, [2, 1]), (1, [1, 2])]).mask
    assert ["".join("x" if seen else "." for seen in row) for row in mask.tolist()] == expected


def test_spans_of_one_length_are_not_copied():
    (prompt, responses) = Layout.of([(40, [9, 9, 9])]).batches[::-1]
    assert prompt.run
    assert responses.run
    row = torch.randn(67, 2, 4)
    assert responses.take(row).data_ptr() == row[40:].data_ptr()


def test_bfloat16_is_near():
    layout = Layout.of([(30, [20, 11]), (5, [7])])
    torch.manual_seed(0)
    row = [torch.randn(len(layout), heads, SIZE) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    found = segments(*(tensor.bfloat16() for tensor in row), layout, SCALE)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), dense(*row, layout, SCALE), atol=3e-2, rtol=0)


def test_what_a_machine_cannot_run_is_refused_by_name(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose("auto", cpu, "fp32") == "segments"
    assert choose("auto", cuda, "fp32") == "flex"
    assert [choose(name, cuda, "bf16") for name in ATTENTIONS if name != "flash"] == ["segments", "dense", "flex"]
    for name in ("flex", "flash"):
        with pytest.raises(ConfigRefusal, match=f"model.attention {name} needs a CUDA GPU, this is cpu"):
            choose(name, cpu, "bf16")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigRefusal, match="needs the package flash-attn"):
        choose("flash", cuda, "bf16")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert choose("flash", cuda, "bf16") == "flash"
    with pytest.raises(ConfigRefusal, match="model.precision is fp32"):
        choose("flash", cuda, "fp32")
