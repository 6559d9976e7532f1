"""Every shared-prefix attention against the dense reference, and what each machine can run."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from mmhicra.core.errors import ConfigError
from mmhicra.train.update.attention import ATTENTIONS, choose, dense, flex_by, segments, varlen
from mmhicra.train.update.layout import Layout
from mmhicra.train.update.segments import joined_attention

HEADS, KEY_HEADS, SIZE, SCALE = 6, 2, 16, 0.3
lengths = st.lists(
    st.tuples(st.integers(1, 12), st.lists(st.integers(1, 9), min_size=1, max_size=5)), min_size=1, max_size=4
)


def plain_varlen(query, key, value, borders, longest, scale):
    """What the flash kernel computes, one sequence at a time."""
    outputs = []
    for rows, columns in zip(*(pairwise(ends) for ends in borders), strict=True):
        q, k, v = (t[slice(*at)].transpose(0, 1)[None] for t, at in ((query, rows), (key, columns), (value, columns)))
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        found = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
        outputs.append(found[0].transpose(0, 1))
    assert longest == tuple(int(ends.diff().max()) for ends in borders)
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
    assert choose("auto", cpu, "bf16") == "segments"
    for name in ("flex", "flash"):
        with pytest.raises(ConfigError, match=f"model.attention {name} needs a CUDA GPU, this is cpu"):
            choose(name, cpu, "bf16")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 0))
    assert [choose(name, cuda, "bf16") for name in ("auto", *ATTENTIONS)] == ["flash", *ATTENTIONS]
    assert choose("auto", cuda, "fp32") == "flex"
    with pytest.raises(ConfigError, match="model.precision is fp32"):
        choose("flash", cuda, "fp32")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    assert choose("auto", cuda, "bf16") == "flex"
    with pytest.raises(ConfigError, match=r"compute capability 8\.0"):
        choose("flash", cuda, "bf16")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(
    ("name", "dtype", "most"),
    [
        ("flex", torch.float32, 2e-3),  # its products are tf32 or nearly
        ("segments", torch.float32, 1e-4),
        ("flex", torch.bfloat16, 1e-2),
        ("segments", torch.bfloat16, 1e-2),
        ("flash", torch.bfloat16, 1e-2),
    ],
)
@pytest.mark.parametrize(
    "lengths",
    [[(423, [40, 53, 65, 78, 128])], [(300, [200, 31, 1]), (1, [1]), (77, [130, 130])], [(1480, [400] * 8)]],
)
def test_on_a_gpu_all_equal_the_dense_one_with_gradients(name, dtype, most, lengths):
    """Relative to the dense one in float64, of outputs and of every gradient."""
    cuda = torch.device("cuda")
    layout = Layout.of(lengths, cuda)
    torch.manual_seed(0)
    row = [torch.randn(len(layout), heads, 128, device=cuda, dtype=dtype) for heads in (28, 4, 4)]
    slope = torch.randn(len(layout), 28, 128, device=cuda, dtype=dtype)

    def outcome(attention, row, slope):
        row = [tensor.clone().requires_grad_() for tensor in row]
        found = attention(*row, layout, 0.09)
        return [found, *torch.autograd.grad(found, row, slope)]

    expected = outcome(dense, [tensor.double() for tensor in row], slope.double())
    for found, wanted in zip(outcome(ATTENTIONS[name], row, slope), expected, strict=True):
        assert (found.double() - wanted).norm() < most * wanted.norm()
