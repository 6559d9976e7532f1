"""Which Strategic Grams fire how often, when, in right and in wrong responses, with an example each."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

BINS = 40
"""The most points of a curve over time."""
CONTEXT = 60
"""Characters shown on either side of an example."""


class GramTable:
    """Adds up grams over all rollouts of a run."""

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.outcomes: dict[str, Counter[bool]] = defaultdict(Counter)
        self.times: dict[str, Counter[int]] = defaultdict(Counter)
        self.functions: dict[str, str] = {}
        self.examples: dict[str, dict[str, Any]] = {}
        self.responses: Counter[tuple[int, bool]] = Counter()
        self.unrecorded = 0

    def observe(self, record: dict[str, Any]) -> None:
        """Take one rollout record."""
        step, right = record["step"], (record.get("reward") or {}).get("verdict") == "right"
        self.responses[step, right] += 1
        if "grams" not in record:
            self.unrecorded += 1
            return
        for text, function, start, end in record["grams"]:
            self.hits[text] += 1
            self.times[text][step] += 1
            self.functions[text] = function
            if text not in self.examples:
                self.examples[text] = in_context(record, start, end)
        for text in {gram[0] for gram in record["grams"]}:
            self.outcomes[text][right] += 1

    def result(self, last_step: int) -> dict[str, Any]:
        """Everything, JSON-able. Times are occurrences per response of a bin; `last_step` is how far the run came."""
        width = max(1, -(-last_step // BINS))
        bins = max(((step - 1) // width for step, _ in self.responses), default=-1) + 1
        totals = binned(self.steps(), width, bins)
        times = {text: binned(hits, width, bins) for text, hits in self.times.items()}
        return {
            "width": width,
            "unrecorded": self.unrecorded,
            "right": sum(count for (_, right), count in self.responses.items() if right),
            "wrong": sum(count for (_, right), count in self.responses.items() if not right),
            "rows": [
                {
                    "text": text,
                    "function": self.functions[text],
                    "hits": hits,
                    "right": self.outcomes[text][True],
                    "wrong": self.outcomes[text][False],
                    "times": [
                        round(hit / total, 4) if total else None for hit, total in zip(times[text], totals, strict=True)
                    ],
                    "example": self.examples[text],
                }
                for text, hits in self.hits.most_common()
            ],
        }

    def steps(self) -> Counter[int]:
        """How many responses each step had."""
        counts: Counter[int] = Counter()
        for (step, _), count in self.responses.items():
            counts[step] += count
        return counts


def binned(counts: Counter[int], width: int, bins: int) -> list[int]:
    """Sums of counts by step over `width` steps each."""
    sums = [0] * bins
    for step, count in counts.items():
        sums[(step - 1) // width] += count
    return sums


def in_context(record: dict[str, Any], start: int, end: int) -> dict[str, Any]:
    """An occurrence over the tokens from `start` to `end`, with the text around it."""
    text, spans = record["decoded"], record["token_spans"]
    first, last = spans[start][0], spans[end - 1][1]
    return {
        "step": record["step"],
        "prompt": record["prompt"],
        "copy": record["copy"],
        "completion": record["completion"],
        "before": text[max(0, first - CONTEXT) : first],
        "hit": text[first:last],
        "after": text[last : last + CONTEXT],
    }
