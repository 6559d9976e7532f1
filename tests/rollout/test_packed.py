"""Packed weights give the products of the plain ones, and leave no trace."""

import pytest
import torch
from torch import nn

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


def test_other_weights_are_left_alone():
    model = small().bfloat16()
    assert not can_pack(model[0].weight)
    with packed_linears([model]):
        assert "forward" not in vars(model[0])
