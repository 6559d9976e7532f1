"""The reward audit: what verdicts were given and why, and the responses that a person should read."""

from __future__ import annotations

import heapq
import re
import zlib
from collections import Counter
from typing import Any

from mmhicra.report.official import OfficialScoring

SHOWN = 12
"""How many responses of a kind are listed."""
EXCERPT = 400
"""Characters of a response that are listed."""
REPEATED = 0.2
"""A response that packs to a smaller share of its bytes repeats itself."""
LONG_ENOUGH = 200
"""Characters below which packing says nothing."""
WORDY = 30
"""Letters beyond which an answer reads like prose."""


class Audit:
    """Adds up rewards over all rollouts of a run, one record at a time."""

    def __init__(self) -> None:
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.golds: dict[str, dict[str, Any]] = {}
        self.longest: list[tuple[int, int, dict[str, Any]]] = []
        self.shortest: list[tuple[int, int, dict[str, Any]]] = []
        self.patterns: Counter[str] = Counter()
        self.suspicious: dict[str, list[dict[str, Any]]] = {}
        self.official = OfficialScoring()
        self.count = 0

    def observe(self, record: dict[str, Any]) -> None:
        """Take one rollout record."""
        self.count += 1
        reward = record.get("reward") or {}
        verdict, why = reward.get("verdict", "not scored"), reward.get("why") or ""
        self.reasons[verdict, why] += 1
        self.official.observe(record)
        if verdict == "gold-unusable":
            self.golds.setdefault(
                record["prompt"], {"prompt": record["prompt"], "gold": reward.get("gold"), "why": why}
            )
        if verdict == "right":
            length = len(record["ids"])
            for heap, key in ((self.longest, length), (self.shortest, -length)):
                # The count breaks ties: records cannot be compared.
                if len(heap) < SHOWN:
                    heapq.heappush(heap, (key, -self.count, listed(record)))
                elif key > heap[0][0]:
                    heapq.heapreplace(heap, (key, -self.count, listed(record)))
        for pattern in suspicions(record):
            self.patterns[pattern] += 1
            examples = self.suspicious.setdefault(pattern, [])
            if len(examples) < SHOWN:
                examples.append(listed(record))

    def result(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {
            "count": self.count,
            "reasons": [[verdict, why, count] for (verdict, why), count in self.reasons.most_common()],
            "golds": list(self.golds.values()),
            "longest": [entry for *_, entry in sorted(self.longest, key=lambda e: -e[0])],
            "shortest": [entry for *_, entry in sorted(self.shortest, key=lambda e: -e[0])],
            "suspicious": [
                {"pattern": pattern, "count": count, "examples": self.suspicious[pattern]}
                for pattern, count in self.patterns.most_common()
            ],
            "official": self.official.result(),
        }


def listed(record: dict[str, Any]) -> dict[str, Any]:
    """What a list says of a response."""
    reward = record.get("reward") or {}
    return {
        "step": record["step"],
        "prompt": record["prompt"],
        "copy": record["copy"],
        "completion": record["completion"],
        "tokens": len(record["ids"]),
        "extracted": reward.get("extracted"),
        "verdict": reward.get("verdict"),
        "text": record["response"][:EXCERPT],
    }


def suspicions(record: dict[str, Any]) -> list[str]:
    """Names of the patterns that a response shows and an honest solution seldom does."""
    reward, text = record.get("reward") or {}, record["response"]
    found = []
    data = text.encode(errors="surrogatepass")
    if len(text) >= LONG_ENOUGH and len(zlib.compress(data)) < REPEATED * len(data):
        found.append("repeated text")
    if sum(map(str.isalpha, reward.get("extracted") or "")) > WORDY:
        found.append("an answer of many letters")
    boxes = set(re.findall(r"\\boxed\s*\{([^{}]*)\}", text))
    if len(boxes) > 1:
        found.append("several different boxed answers")
    if reward.get("verdict") == "right" and record["finish_reason"] == "length":
        found.append("right, but cut off")
    if reward.get("verdict") == "right" and len(text.split()) <= 2:
        found.append("right without any reasoning")
    return found
