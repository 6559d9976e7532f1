"""What the lab's model can do with the ledger, and what is left for RL: measured on held-out problems."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random
from typing import Any

from mmhicra.core.records import Problem
from mmhicra.data.generated.ledger import PHRASES, check_steps, error_kind, read_plan, right_plans, solve
from tools.tiny_vlm.warmup_report import boxed, mean, mean_by, respond

MAX_NEW_TOKENS = 128
LONGEST_ROW = 16
"""Tokens that the work of one row takes at most, and some."""


def measure(model: Any, processor: Any, problems: Sequence[Problem], seed: int) -> dict[str, Any]:
    """Sampled at temperature 1: accuracy, choices, doubts, errors, lengths; and the work of every plan when forced."""
    responses = respond(model, processor, problems, seed, max_new_tokens=MAX_NEW_TOKENS)
    right = [boxed(response) == p.answer for response, p in zip(responses, problems, strict=True)]
    sound = [check_steps(response, p) is None for response, p in zip(responses, problems, strict=True)]
    failed = [(r, p) for r, p, is_right in zip(responses, problems, right, strict=True) if not is_right]
    rows = [str(len(p.facts["rows"])) for p in problems]
    lengths = [len(ids) for ids in processor.tokenizer(responses).input_ids]
    return {
        "problems": len(problems),
        "accuracy": mean(right),
        "accuracy_by_rows": mean_by(rows, right),
        "accuracy_by_task": mean_by([p.task for p in problems], right),
        "boxed": mean([boxed(response) is not None for response in responses]),
        "without_wrong_step": mean(sound),
        "share_of_errors": {
            kind: round(count / len(failed), 4)
            for kind, count in sorted(Counter(error_kind(response, p) for response, p in failed).items())
        },
        **_choices(responses, problems),
        "tokens_mean": mean(lengths),
        "tokens_mean_by_rows": mean_by(rows, lengths),
        "tokens_max": max(lengths),
        "forced_plans": {plan: _forced(model, processor, problems, plan, seed) for plan in PHRASES},
    }


def _choices(responses: Sequence[str], problems: Sequence[Problem]) -> dict[str, Any]:
    """First choices by kind of row and rule, how often the adopted one is right, doubts after right and wrong ones."""
    first: defaultdict[str, Counter[str]] = defaultdict(Counter)
    adopted_right, doubted_right, doubted_wrong = [], [], []
    for response, problem in zip(responses, problems, strict=True):
        rule = problem.task.split("_")[1]
        for announced, row in zip(read_plan(response, problem), problem.facts["rows"], strict=False):
            adopted_right.append(announced[-1:] == (row["right"],))
            first[row["kind"] if row["kind"] == "plain" else f"hidden, {rule}"][(*announced, "none")[0]] += 1
            for place, plan in enumerate(announced):
                (doubted_right if plan == row["right"] else doubted_wrong).append(place < len(announced) - 1)
    return {
        "adopted_plan_right": mean(adopted_right),
        "first_plan_by_kind": {
            kind: {plan: round(count / sum(plans.values()), 4) for plan, count in sorted(plans.items())}
            for kind, plans in sorted(first.items())
        },
        "doubted_when_right": mean(doubted_right),
        "doubted_when_wrong": mean(doubted_wrong),
    }


def _forced(model: Any, processor: Any, problems: Sequence[Problem], plan: str, seed: int) -> dict[str, Any]:
    """How often the work of a row is without error after a phrase of the plan; rows before it are given, and right."""
    openings, wanted, kinds = [], [], []
    for number, problem in enumerate(problems):
        place = number // 3 % len(problem.facts["rows"])
        row = problem.facts["rows"][place]
        choices = [(choice,) for choice in right_plans(problem)]
        choices[place] = (plan,)
        sentences = solve(problem, choices, Random(number)).text.split(". ")
        begun = ". ".join(sentences[: place + 1])
        openings.append(begun.removesuffix(f" {row['plans'][plan]['text']}"))
        wanted.append(f"{begun}.")
        kinds.append(row["kind"])
    responses = respond(model, processor, problems, seed, openings, LONGEST_ROW)
    sound = [response.startswith(begun) for response, begun in zip(responses, wanted, strict=True)]
    return {"accuracy": mean(sound), "accuracy_by_kind": mean_by(kinds, sound)}
