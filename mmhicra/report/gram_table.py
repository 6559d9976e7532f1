"""Which Strategic Grams fire how often, when, in right and in wrong responses, with an example each."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

BINS = 40
"""The most points of a curve over time."""
CONTEXT = 60
"""Characters shown on either side of an example."""


class GramTable:
    """Adds up grams over all rollouts of a run.

    Args:
        last_step: how far the run came.
    """

    def __init__(self, last_step: int) -> None:
        self.width = max(1, -(-last_step // BINS))
        self.hits: Counter[str] = Counter()
        self.outcomes: dict[str, Counter[bool]] = defaultdict(Counter)
        self.times: dict[str, Counter[int]] = defaultdict(Counter)
        self.functions: dict[str, str] = {}
        self.examples: dict[str, dict[str, Any]] = {}
        self.responses: Counter[tuple[int, bool]] = Counter()
        self.unrecorded = 0

    def observe(self, record: dict[str, Any]) -> None:
        """Take one rollout record."""
        at, right = (record["step"] - 1) // self.width, (record.get("reward") or {}).get("verdict") == "right"
        self.responses[at, right] += 1
        if "grams" not in record:
            self.unrecorded += 1
            return
        for text, function, start, end in record["grams"]:
            self.hits[text] += 1
            self.times[text][at] += 1
            self.functions[text] = function
            if text not in self.examples:
                self.examples[text] = in_context(record, start, end)
        for text in {gram[0] for gram in record["grams"]}:
            self.outcomes[text][right] += 1

    def result(self) -> dict[str, Any]:
        """Everything, JSON-able. Times are occurrences per response of the bin."""
        bins = max((at for at, _ in self.responses), default=-1) + 1
        totals = [self.responses[at, True] + self.responses[at, False] for at in range(bins)]
        return {
            "width": self.width,
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
                        round(self.times[text][at] / totals[at], 4) if totals[at] else None for at in range(bins)
                    ],
                    "example": self.examples[text],
                }
                for text, hits in self.hits.most_common()
            ],
        }


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
