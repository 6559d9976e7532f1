"""Rollouts scored once more by MathVision's official rules: where these and the reward's verifier part.

Of the official scorers it is the one that takes any answer and needs no model and no columns of its own benchmark.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from mmhicra.evaluate.benchmarks.mathvision_rules import LETTERS, extract_official, is_correct

LONGEST = 20_000
"""Characters of a response that are searched, at its end."""
SHOWN = 60
"""Disagreements that are listed."""
ANSWER = 200
"""Characters of an answer that are listed: where the rules find none, it is the whole response."""


class OfficialScoring:
    """Adds up both verdicts over all rollouts of a run, one record at a time."""

    def __init__(self) -> None:
        self.verdicts: Counter[tuple[bool, bool]] = Counter()
        self.hits: Counter[tuple[str, str | None, str]] = Counter()
        self.parted: dict[tuple[str, str | None, str], dict[str, Any]] = {}

    def observe(self, record: dict[str, Any]) -> None:
        """Take one rollout record; one whose gold is unusable has no verdict to compare."""
        reward = record.get("reward") or {}
        if reward.get("verdict") not in ("right", "wrong", "no-answer"):
            return
        gold, robust = str(reward.get("gold")), reward["verdict"] == "right"
        answer = extract_official(record["response"][-LONGEST:])
        official = is_correct(answer, gold, usable_options(gold, record.get("choices", [])))
        self.verdicts[robust, official] += 1
        if robust != official:
            case = (gold, reward.get("extracted"), answer[:ANSWER])
            self.hits[case] += 1
            if case not in self.parted:
                self.parted[case] = {
                    "step": record["step"],
                    "prompt": record["prompt"],
                    "copy": record["copy"],
                    "completion": record["completion"],
                    "gold": gold,
                    "extracted": reward.get("extracted"),
                    "official": answer[:ANSWER],
                    "verdict": reward["verdict"],
                    "official_right": official,
                }

    def result(self) -> dict[str, Any]:
        """Everything, JSON-able; equal answers to equal golds are one case, the most frequent first."""
        return {
            "scored": self.verdicts.total(),
            "robust_right": sum(n for (robust, _), n in self.verdicts.items() if robust),
            "official_right": sum(n for (_, official), n in self.verdicts.items() if official),
            "only_robust": self.verdicts[True, False],
            "only_official": self.verdicts[False, True],
            "cases": len(self.parted),
            "listed": [{**self.parted[case], "count": count} for case, count in self.hits.most_common(SHOWN)],
        }


def usable_options(gold: str, choices: list[str]) -> tuple[str, ...]:
    """The options if the gold is the letter of one, as the official rules expect; else none."""
    return tuple(choices) if gold in tuple(LETTERS[: len(choices)]) else ()
