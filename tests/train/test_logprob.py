"""Chunked log-probs, entropies and their gradients against one plain softmax, and `fused` ones against chunked ones."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from made_logprobs import all_of_it
from torch import Tensor, nn

from mmhicra.core.errors import ConfigError
from mmhicra.train.update import logprob
from mmhicra.train.update.logprob import BANNED_LOGIT, choose_kernel, nucleus_mask, token_stats


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_chunks_equal_one_softmax_with_gradients(chunk):
    torch.manual_seed(0)
    head, banned = nn.Linear(8, 20, bias=False), torch.tensor([3, 7])
    hidden, targets = torch.randn(11, 8, requires_grad=True), torch.arange(11) + 8
    stats = token_stats(hidden, head.weight, targets, temperature=0.7, banned=banned, chunk=chunk)
    gradients = torch.autograd.grad(stats.logprobs.sum() + stats.entropy.sum(), [hidden, head.weight])

    logits = head(hidden) / 0.7
    allowed = torch.ones(20, dtype=torch.bool).index_fill(0, banned, False)
    logprobs = logits.masked_fill(~allowed, float("-inf")).log_softmax(-1)
    kept = logprobs[:, allowed]
    expected = logprobs.gather(1, targets[:, None])[:, 0], -(kept.exp() * kept).sum(-1)
    torch.testing.assert_close(stats.logprobs, expected[0])
    torch.testing.assert_close(stats.entropy, expected[1])
    torch.testing.assert_close(
        list(gradients),
        list(torch.autograd.grad(expected[0].sum() + expected[1].sum(), [hidden, head.weight])),
    )


def test_no_gradient_is_kept_without_grad():
    head = nn.Linear(4, 6, bias=False)
    with torch.no_grad():
        stats = token_stats(
            torch.randn(3, 4),
            head.weight,
            torch.tensor([0, 1, 2]),
            temperature=1.0,
            banned=torch.tensor([], dtype=torch.int64),
            chunk=2,
        )
    assert not stats.logprobs.requires_grad


@pytest.mark.parametrize("mass", [0.3, 0.8, 0.999])
def test_nucleus_entropy_equals_a_loop_and_has_no_gradient_outside(mass):
    torch.manual_seed(1)
    states = torch.randn(6, 12, requires_grad=True)
    banned = torch.tensor([0])
    stats = token_stats(
        states, torch.eye(12), torch.ones(6, dtype=torch.int64), temperature=1.0, banned=banned, chunk=4, nucleus=mass
    )
    (gradient,) = torch.autograd.grad(stats.nucleus_entropy.sum(), states)
    for row, entropy, slopes in zip(states.detach(), stats.nucleus_entropy, gradient, strict=True):
        row[0] = float("-inf")
        probabilities = row.softmax(-1)
        nucleus, total = [], 0.0
        for token in probabilities.argsort(descending=True).tolist():
            if total >= mass:
                break
            nucleus.append(token)
            total += float(probabilities[token])
        kept = row[nucleus].softmax(-1)
        assert float(entropy) == pytest.approx(-float((kept * kept.log()).sum()), abs=1e-5)
        assert 0 <= float(entropy) <= torch.tensor(float(len(nucleus))).log() + 1e-5
        outside = [token for token in range(12) if token not in nucleus]
        assert (slopes[outside] == 0).all()


def test_the_gradients_of_all_three_outputs_equal_autograds():
    """Of log-prob, entropy and nucleus entropy together, each position with weights of its own, in float64."""
    torch.manual_seed(2)
    hidden, head = (torch.randn(5, 4, dtype=torch.float64) for _ in range(2))
    head = torch.cat([head, torch.randn(4, 4, dtype=torch.float64)]).requires_grad_()
    targets, weights = torch.tensor([1, 2, 3, 4, 5]), torch.randn(3, 5, dtype=torch.float64)

    def weighted(hidden: Tensor, head: Tensor) -> Tensor:
        logprobs = (hidden @ head.T / 0.7).index_fill(-1, torch.tensor([0]), BANNED_LOGIT).log_softmax(-1)
        inside = logprobs.masked_fill(~nucleus_mask(logprobs, 0.8), BANNED_LOGIT).log_softmax(-1)
        picked = logprobs.gather(-1, targets[:, None])[:, 0]
        return (weights * torch.stack([picked, *(-(each.exp() * each).sum(-1) for each in (logprobs, inside))])).sum()

    wanted = torch.autograd.grad(weighted(hidden.requires_grad_(), head), [hidden, head])
    stats = token_stats(
        hidden.float(), head.float(), targets, temperature=0.7, banned=torch.tensor([0]), chunk=2, nucleus=0.8
    )
    found = torch.autograd.grad((weights.float() * torch.stack(list(stats))).sum(), [hidden, head])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_a_confident_position_has_a_nucleus_of_one_and_no_entropy():
    assert nucleus_mask(torch.tensor([[0.9, 0.06, 0.04]]).log(), 0.8).tolist() == [[True, False, False]]
    assert nucleus_mask(torch.tensor([[0.5, 0.4, 0.1]]).log(), 0.8).tolist() == [[True, True, False]]
    stats = token_stats(
        torch.tensor([[9.0, 0.0, 0.0]]),
        torch.eye(3),
        torch.tensor([0]),
        temperature=1.0,
        banned=torch.tensor([], dtype=torch.int64),
        chunk=1,
        nucleus=0.8,
    )
    assert float(stats.nucleus_entropy) == 0.0
    assert float(stats.entropy) > 0.0


def test_a_frozen_head_costs_no_weight_gradient():
    head, hidden = torch.randn(6, 4), torch.randn(3, 4, requires_grad=True)
    options = {"temperature": 1.0, "banned": torch.tensor([5]), "chunk": 2}
    frozen = token_stats(hidden, head, torch.tensor([0, 1, 2]), **options).logprobs.sum()
    (gradient,) = torch.autograd.grad(frozen, hidden)
    head.requires_grad_()
    trained = token_stats(hidden, head, torch.tensor([0, 1, 2]), **options).logprobs.sum()
    assert torch.equal(gradient, torch.autograd.grad(trained, [hidden, head])[0])


def test_under_autocast_gradients_keep_their_precision():
    """bfloat16 factors, float32 sums: near the float32 result, and of the parameters' own dtype."""
    torch.manual_seed(0)
    head, hidden = torch.randn(50, 16, requires_grad=True), torch.randn(40, 16, requires_grad=True)
    options = {"temperature": 1.0, "banned": torch.tensor([5]), "chunk": 8}
    targets = torch.arange(40) % 5
    exact = torch.autograd.grad(token_stats(hidden, head, targets, **options).logprobs.sum(), [hidden, head])
    with torch.autocast("cpu", torch.bfloat16):
        stats = token_stats(hidden, head, targets, **options)
    assert stats.logprobs.dtype == torch.float32
    for found, wanted in zip(torch.autograd.grad(stats.logprobs.sum(), [hidden, head]), exact, strict=True):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize("kept", [0, 5 * 150 * 4 * 2, 2**30])
@pytest.mark.parametrize("options", [{}, {"nucleus": 0.8}, {"head_trained": False}], ids=str)
def test_what_is_kept_has_the_bits_of_what_is_computed_again(options, kept, monkeypatch):
    """All, two chunks of five, and none; the second backward pass through a graph finds nothing kept."""
    monkeypatch.setattr(logprob, "KEPT_BYTES", kept)
    products = []
    again = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *args, **more: products.append(1) or again(*args, **more))
    wanted, _ = all_of_it("chunks", **options)
    reference = len(products)
    found, second = all_of_it("fused", **options)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(second, wanted[3:], strict=True))
    assert reference - (len(products) - reference) == {0: 0, 2**30: 5}.get(kept, 2), "products that were saved"


def test_tritons_kernels_equal_the_chunks():
    """Run by Triton's interpreter, which has to be asked for before Triton is imported: in a process of its own."""
    pytest.importorskip("triton")
    script = Path(__file__).parents[1] / "made_logprobs.py"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    errors = json.loads(done.stdout)
    assert {case for case, _ in errors} == {"float32 again", "float32 kept", "bfloat16 again", "bfloat16 kept"}
    for case, error in errors:
        assert error < (1e-5 if "float32" in case else 1e-2), case


@pytest.mark.parametrize(
    ("requested", "device", "nucleus", "chosen"),
    [
        ("auto", "cpu", True, "fused"),
        ("auto", "cuda", False, "chunks"),
        ("chunks", "cpu", False, "chunks"),
        ("fused", "cuda", False, "fused"),
        ("fused", "cuda", True, "train.loss.siren asks for: set it to chunks"),
    ],
)
def test_the_kernel_is_what_was_asked_for_or_refused(requested, device, nucleus, chosen):
    where = SimpleNamespace(type=device)
    if " " not in chosen:
        assert choose_kernel(requested, where, nucleus) == chosen
        return
    with pytest.raises(ConfigError, match=chosen):
        choose_kernel(requested, where, nucleus)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("kept", [1, 2**30])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_tritons_kernels_equal_the_chunks_on_a_gpu(dtype, tolerance, kept, monkeypatch):
    monkeypatch.setattr(logprob, "KEPT_BYTES", kept)
    torch.manual_seed(0)
    hidden, head = torch.randn(300, 256, device="cuda", dtype=dtype), torch.randn(151_936, 256, device="cuda") / 16
    hidden, head = hidden.requires_grad_(), head.to(dtype).requires_grad_()
    targets, banned = torch.arange(300, device="cuda") + 5, torch.tensor([3], device="cuda")
    results = []
    for kernel in ("chunks", "fused"):
        stats = token_stats(hidden, head, targets, temperature=0.7, banned=banned, chunk=128, kernel=kernel)
        loss = (stats.logprobs - 0.1 * stats.entropy).sum()
        results.append([*stats[:2], *torch.autograd.grad(loss, [hidden, head])])
    for own, reference in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(own, reference, atol=tolerance * reference.abs().max().item(), rtol=0)
