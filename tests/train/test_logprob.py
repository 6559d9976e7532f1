"""Chunked log-probs, entropies and their gradients against one plain softmax."""

import pytest
import torch
from torch import nn

from mmhicra.train.logprob import token_stats


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_chunks_equal_one_softmax_with_gradients(chunk):
    torch.manual_seed(0)
    head, banned = nn.Linear(8, 20, bias=False), torch.tensor([3, 7])
    hidden, targets = torch.randn(11, 8, requires_grad=True), torch.arange(11) + 8
    stats = token_stats(hidden, head, targets, temperature=0.7, banned=banned, chunk=chunk)
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
            head,
            torch.tensor([0, 1, 2]),
            temperature=1.0,
            banned=torch.tensor([], dtype=torch.int64),
            chunk=2,
        )
    assert not stats.logprobs.requires_grad
