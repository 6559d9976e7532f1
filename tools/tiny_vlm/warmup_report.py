"""What the warmed-up tiny VLM can do, and what is left for RL: measured on held-out problems, by task and by plan."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from mmhicra.core.records import Problem
from mmhicra.data.generated.visual_math import PHRASES, check_steps, read_plan
from tools.tiny_vlm.tiny import chat_text

MAX_NEW_TOKENS = 96
BATCH = 96
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def respond(
    model: Any,
    processor: Any,
    problems: Sequence[Problem],
    seed: int,
    openings: Sequence[str] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[str]:
    """Sample a response to every problem at temperature 1, each after its opening words if `openings` are given."""
    openings = [""] * len(problems) if openings is None else openings
    responses: list[str] = []
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        for start in range(0, len(problems), BATCH):
            some, begun = problems[start : start + BATCH], openings[start : start + BATCH]
            texts = [chat_text(processor, p.question) + opening for p, opening in zip(some, begun, strict=True)]
            images = [image.open() for p in some for image in p.images]
            inputs = processor(text=texts, images=images, return_tensors="pt", padding=True, padding_side="left")
            rows = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=True, top_k=0, top_p=1.0)
            written = processor.batch_decode(rows[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            responses += [opening + text for opening, text in zip(begun, written, strict=True)]
    return responses


def boxed(response: str) -> str | None:
    """The content of the last box."""
    found = _BOXED.findall(response)
    return found[-1] if found else None


def measure(
    model: Any,
    processor: Any,
    problems: Sequence[Problem],
    seed: int,
) -> dict[str, Any]:
    """Accuracy by task and by chosen plan, shares of plans, boxed answers, lengths; and every plan when forced."""
    responses = respond(model, processor, problems, seed)
    right = [boxed(response) == p.answer for response, p in zip(responses, problems, strict=True)]
    chosen = ["+".join(read_plan(r, p)) or "none" for r, p in zip(responses, problems, strict=True)]
    lengths = [len(ids) for ids in processor.tokenizer(responses).input_ids]
    return {
        "problems": len(problems),
        "accuracy": mean(right),
        "accuracy_by_task": mean_by([p.task for p in problems], right),
        "accuracy_by_plan": mean_by(chosen, right),
        "share_by_plan": {plan: count / len(problems) for plan, count in sorted(Counter(chosen).items())},
        "boxed": mean([boxed(response) is not None for response in responses]),
        "tokens_mean": mean(lengths),
        "tokens_max": max(lengths),
        "forced_plans": {plan: _forced(model, processor, problems, plan, seed) for plan in PHRASES if plan != "check"},
    }


def _forced(
    model: Any,
    processor: Any,
    problems: Sequence[Problem],
    plan: str,
    seed: int,
) -> dict[str, Any]:
    """Accuracy, and the share without a wrong step, of responses that must open with the plan's phrase."""
    openings = [PHRASES[plan][number % len(PHRASES[plan])] for number in range(len(problems))]
    responses = respond(model, processor, problems, seed, openings)
    right = [boxed(response) == p.answer for response, p in zip(responses, problems, strict=True)]
    sound = [check_steps(response, p) is None for response, p in zip(responses, problems, strict=True)]
    tasks = [p.task for p in problems]
    return {
        "accuracy": mean(right),
        "accuracy_by_task": mean_by(tasks, right),
        "sound_by_task": mean_by(tasks, sound),
    }


def mean(values: Sequence[float]) -> float:
    """The mean of at least one value, to four places."""
    return round(sum(values) / len(values), 4)


def mean_by(keys: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """The mean of the values that share a key."""
    grouped: defaultdict[str, list[float]] = defaultdict(list)
    for key, value in zip(keys, values, strict=True):
        grouped[key].append(value)
    return {key: mean(grouped[key]) for key in sorted(grouped)}
