"""Copies of weights give the products of the plain ones, and leave no trace."""

from itertools import chain

import pytest
import torch
from torch import nn

from mmhicra.rollout.hf import packed
from mmhicra.rollout.hf.packed import can_pack, packed_linears

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 80), nn.SiLU(), nn.Linear(80, 24, bias=False))


@pytest.mark.parametrize("shape", [(1, 48), (8, 1, 48), (150, 1, 48), (2, 37, 48)])
def test_products_are_the_same(shape):
    model, rows = small(), torch.randn(shape)
    with torch.no_grad():
        wanted = model(rows)
        with packed_linears([model]):
            assert "forward" in vars(model[0])
            torch.testing.assert_close(model(rows), wanted, atol=1e-6, rtol=1e-5)


def test_layers_are_as_they_were_afterwards_even_after_an_error():
    model, rows = small(), torch.randn(3, 48)
    model[2].forward = hooked = lambda rows: rows[..., :24]
    with pytest.raises(RuntimeError, match="stop"), torch.no_grad(), packed_linears([model, model[0]]):
        raise RuntimeError("stop")
    assert "forward" not in vars(model[0])
    assert model[2].forward is hooked
    del model[2].forward
    model(rows).sum().backward()
    assert model[0].weight.grad is not None


def test_new_weights_are_packed_anew():
    model, rows = small(), torch.randn(3, 48)
    with torch.no_grad():
        for _ in range(2):
            with packed_linears([model]):
                found = model(rows)
            torch.testing.assert_close(found, model(rows), atol=1e-6, rtol=1e-5)
            model[0].weight.mul_(2.0)


class Reader(nn.Module):
    """Three layers of one input, and one of another."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(48, 80), nn.Linear(48, 16), nn.Linear(48, 24)
        self.o_proj = nn.Linear(48, 48, bias=False)

    def forward(self, rows, order):
        layers = {"q": self.q_proj, "k": self.k_proj, "v": self.v_proj}
        return [self.o_proj(rows), *(layers[name](rows) for name in order)]


JOINT = (("q_proj", "k_proj", "v_proj"),)


@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-5), (True, 1e-2)])
@pytest.mark.parametrize("order", ["qkv", "vqk", "qqkvvk", "q"])
def test_layers_of_one_input_are_one_product_in_any_order(monkeypatch, order, half, tolerance):
    torch.manual_seed(0)
    model, rows, other = Reader(), torch.randn(8, 1, 48), torch.randn(8, 1, 48)
    made = []
    product = packed.make_product
    monkeypatch.setattr(packed, "make_product", lambda layers, half: made.append(len(layers)) or product(layers, half))
    with torch.no_grad():
        wanted = [model(each, order) for each in (rows, other)]
        with packed_linears([model], JOINT, half):
            found = [model(each, order) for each in (rows, other)]
    assert sorted(made) == [1, 3]
    for ours, plain in zip(chain(*found), chain(*wanted), strict=True):
        torch.testing.assert_close(ours, plain, atol=tolerance, rtol=tolerance)
    exact = [torch.allclose(ours, plain, atol=1e-5) for ours, plain in zip(found[0], wanted[0], strict=True)]
    assert any(exact) is not half


def test_one_product_serves_all_that_read_an_input_and_is_not_kept():
    calls = []

    def product(rows):
        calls.append(rows)
        return rows.repeat(1, 3)

    shared = packed.SharedProduct(product, [2, 2, 2])
    one, two = torch.ones(1, 2), torch.zeros(1, 2)
    assert [shared.part(n, one).tolist() for n in (0, 1)] == [[[1, 1]], [[1, 1]]]
    assert shared.part(2, two).tolist() == [[0, 0]], "never what another tensor gave"
    assert [shared.part(n, two).tolist() for n in (0, 1)] == [[[0, 0]], [[0, 0]]]
    assert (len(calls), shared.input) == (2, None)
    shared.part(0, two)
    assert len(calls) == 3, "a tensor that was served may have been written to since"


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "mimo_vl"])
def test_every_family_names_what_reads_one_input(tiny_model, family):
    loaded = tiny_model(family)
    decoder = loaded.family.language_model(loaded.model)
    sizes = [len(layers) for layers in packed.linears_of(decoder, loaded.family.joint_linears)]
    layers = decoder.config.num_hidden_layers
    assert sorted(sizes) == [1] * 2 * layers + [2] * layers + [3] * layers


def test_other_weights_are_left_alone():
    model = small().bfloat16()
    assert not can_pack(model[0].weight)
    for half in (False, True):
        with packed_linears([model], half=half):
            assert "forward" not in vars(model[0])
