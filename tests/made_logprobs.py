"""Log-probs, entropies and their gradients of made-up states; run with TRITON_INTERPRET=1, Triton's beside the chunks.

It prints a JSON list of cases with the largest error of each, relative to the largest value of what is compared.
"""

import json

import torch

from mmhicra.train.update import logprob
from mmhicra.train.update.logprob import token_stats


def all_of_it(kernel, dtype=torch.float32, head_trained=True, **options):
    """Statistics and gradients of 23 positions, each output with weights of its own."""
    generator = torch.Generator().manual_seed(5)
    hidden, head = (torch.randn(n, 16, generator=generator) for n in (23, 150))
    hidden, head = (2 * hidden).to(dtype).requires_grad_(), head.to(dtype).requires_grad_(head_trained)
    weights, banned = torch.randn(3, 23, generator=generator), torch.tensor([2, 149])
    targets = torch.randint(3, 149, (23,), generator=generator)
    options = {"temperature": 0.7, "banned": banned, "chunk": 5, **options}
    stats = token_stats(hidden, head, targets, kernel=kernel, **options)
    loss = (weights * torch.stack(list(stats))).sum()
    inputs = [hidden, head] if head_trained else [hidden]
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    return [*stats, *first], torch.autograd.grad(loss, inputs)


def interpret() -> None:
    """Compare: banned ids, a temperature, a vocabulary that does not divide into blocks."""
    from mmhicra.train.update import logprob_kernel

    logprob_kernel.BLOCK = 64
    options = logprob._Options
    errors = []
    for dtype in (torch.float32, torch.bfloat16):
        wanted, _ = all_of_it("chunks", dtype)
        for kept, name in ((1, "again"), (2**30, "kept")):
            logprob.KEPT_BYTES = kept
            logprob._Options = lambda *given: options(*given[:-1], True)  # as on CUDA
            found, second = all_of_it("fused", dtype)
            logprob._Options = options
            pairs = [*zip(found, wanted, strict=True), *zip(second, wanted[3:], strict=True)]
            del pairs[2]  # the entropy of a nucleus, which the kernels do not compute
            worst = max(((own - other).abs().max() / other.abs().max()).item() for own, other in pairs)
            errors.append((f"{str(dtype).removeprefix('torch.')} {name}", worst))
    print(json.dumps(errors))


if __name__ == "__main__":
    interpret()
