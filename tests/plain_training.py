"""The objective as the papers write it, one response at a time through the stock transformers model.

Nothing here calls `mmhicra.train` or `mmhicra.hicra`: it is what they are compared with. Shapes: R tokens of a
response, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.func import functional_call
from transformers import AutoModelForImageTextToText

TINY_STD = 1e-6
"""What the standard deviation of a group's rewards is raised by before it divides."""


class PlainModel:
    """A model folder as transformers loads it, with eager attention and no wrapper of ours."""

    def __init__(self, folder, banned):
        self.model = AutoModelForImageTextToText.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32
        ).eval()
        self.banned = torch.tensor(banned)

    def weights(self):
        """Name -> parameter, those of the folder."""
        return {name: value.detach() for name, value in self.model.named_parameters()}

    def logprobs(self, weights, prompt, ids, temperature):
        """(R, V) log-probs of the distribution that each of `ids` is sampled from, under `weights`; banned: -inf."""
        row = torch.cat([prompt.expanded_ids, torch.tensor(ids)]).unsqueeze(0)
        types = torch.cat([prompt.image_positions.int(), torch.zeros(len(ids), dtype=torch.int32)]).unsqueeze(0)
        images = (
            {"pixel_values": prompt.vision.pixel_values, "image_grid_thw": prompt.vision.grid_thw}
            if prompt.images
            else {}
        )
        inputs = {"input_ids": row, "mm_token_type_ids": types, **images}
        logits = functional_call(self.model, weights, kwargs=inputs, args=()).logits[0, len(prompt) - 1 : -1]
        return (logits / temperature).index_fill(-1, self.banned, -math.inf).log_softmax(-1)


def of_tokens(logprobs, ids):
    """(R,) log-prob of each of `ids`."""
    return logprobs.gather(-1, torch.tensor(ids).unsqueeze(-1)).squeeze(-1)


def entropies(logprobs):
    """(R,) nats."""
    finite = logprobs.masked_fill(logprobs.isinf(), 0.0)
    return -(logprobs.exp() * finite).sum(-1)


def nucleus_entropies(logprobs, mass):
    """(R,) nats of the likeliest tokens that together reach `mass`, renormalised (SIREN, arXiv 2509.25133)."""
    values = []
    for row in logprobs:
        order = row.detach().argsort(descending=True)
        known = row.detach()[order].exp().tolist()
        count, held = 0, 0.0
        while held < mass:
            held += known[count]
            count += 1
        kept = row[order[:count]].log_softmax(-1)
        values.append(-(kept.exp() * kept).sum())
    return torch.stack(values)


def peak_mean(values, quantile):
    """The mean of (R,) `values` strictly above their `quantile`; 0 if none is."""
    peaks = values > float(np.quantile(values.detach().double().numpy(), quantile))
    return values[peaks].mean() if peaks.any() else values.sum() * 0.0


@dataclass
class PlainResponse:
    """One response of a kept group, and (R,) each: what the engine said and what is known before the first update."""

    prompt: Any
    ids: list[int]
    planning: torch.Tensor
    engine: torch.Tensor
    old: Any = None
    entropy: Any = None
    reference: Any = None
    advantages: Any = None


def group_advantages(rewards, scale):
    """r - mean(r) (HICRA paper, section 3), divided by the sample standard deviation if `scale` is std."""
    mean = sum(rewards) / len(rewards)
    centred = [reward - mean for reward in rewards]
    if scale == "none":
        return centred
    deviation = math.sqrt(sum(c * c for c in centred) / (len(rewards) - 1))
    return [c / (deviation + TINY_STD) for c in centred]


def token_advantages(advantage, credit, alpha, *, planning, placebo, entropy):
    """(R,) of one response: the credit methods of docs/explanation/credit.md, a token at a time."""
    method = credit.method
    threshold = float(np.quantile(entropy.double().numpy(), 1 - credit.top_share))
    values = []
    for t in range(len(planning)):
        bonus = alpha * abs(advantage)
        amplified = {
            "grpo": 0.0,
            "hicra": bonus * bool(planning[t]),
            "hicra_positive": bonus * bool(planning[t]) * (advantage > 0),
            "placebo": bonus * bool(placebo is not None and placebo[t]),
            "high_entropy": bonus * (float(entropy[t]) > threshold),
            "entropy": min(credit.entropy_weight * float(entropy[t]), abs(advantage) / credit.entropy_divisor),
            "uniform": bonus * float(planning.float().mean()),
        }[method]
        values.append(advantage + amplified)
    return torch.tensor(values)


def correction_weights(response, correction):
    """(R,) what makes up for tokens sampled by another distribution: truncated or masked importance weights."""
    weights = (response.old - response.engine).exp()
    if correction.level == "sequence":
        weights = weights.prod().expand(len(weights))
    if correction.kind == "truncated":
        return torch.tensor([min(float(w), correction.limit) for w in weights])
    return torch.tensor([float(w) if 1 / correction.limit <= w <= correction.limit else 0.0 for w in weights])


def policy_ratio(new, old, level):
    """(R,) pi / pi_old of each token, or on level sequence their geometric mean with each token's own gradient."""
    if level == "token":
        return (new - old).exp()
    return (new.detach() - old).mean().exp() * new.exp() / new.exp().detach()


def per_token_loss(options, response, new, entropy):
    """(R,) PPO's clipped loss (DAPO's clip-higher), times the correction, plus the KL term, minus the entropy bonus."""
    ratio = policy_ratio(new, response.old, options.ratio)
    clipped = ratio.clamp(1 - options.clip_low, 1 + options.clip_high)
    loss = -torch.min(ratio * response.advantages, clipped * response.advantages)
    if options.correction:
        loss = loss * correction_weights(response, options.correction)
    if options.kl_coefficient:
        away = response.reference - new
        loss = loss + options.kl_coefficient * (away.exp() - 1 - away)
    return loss - options.entropy_coefficient * entropy


def aggregate(losses, aggregation, longest):
    """The scalar of several responses' (R,) losses: over tokens, over responses, or by a constant (Dr. GRPO)."""
    if aggregation == "token_mean":
        return torch.cat(losses).mean()
    if aggregation == "sequence_mean":
        return torch.stack([loss.mean() for loss in losses]).mean()
    return sum(loss.sum() for loss in losses) / (len(losses) * longest)


class PlainAdamW:
    """AdamW (arXiv 1711.05101), a tensor at a time; vectors (norms, biases) are not decayed."""

    def __init__(self, options):
        self.options, self.steps, self.first, self.second = options, 0, {}, {}

    def step(self, weights, gradients, rate):
        """Name -> weights after one step at learning rate `rate`."""
        self.steps += 1
        b1, b2 = self.options.betas
        after = {}
        for name, gradient in gradients.items():
            self.first[name] = b1 * self.first.get(name, 0.0) + (1 - b1) * gradient
            self.second[name] = b2 * self.second.get(name, 0.0) + (1 - b2) * gradient**2
            decay = self.options.weight_decay if gradient.ndim >= 2 else 0.0
            first = self.first[name] / (1 - b1**self.steps)
            second = self.second[name] / (1 - b2**self.steps)
            after[name] = weights[name] * (1 - rate * decay) - rate * first / (second.sqrt() + 1e-8)
        return after


def learning_rate(options, update, updates):
    """Of optimizer step `update` of `updates`, from 0: linear warm-up, then constant, linear to 0 or cosine to 0."""
    if update < options.warmup_steps:
        return options.learning_rate * (update + 1) / options.warmup_steps
    done = (update - options.warmup_steps) / (updates - options.warmup_steps)
    factor = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[options.schedule]
    return options.learning_rate * factor
