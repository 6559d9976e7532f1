"""Several responses to a question: avg@k, pass@k and maj@k."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

from mmhicra.core.intervals import clustered_interval
from mmhicra.evaluate.scoring.records import Item, SampleRecord
from mmhicra.evaluate.scoring.robust import named_options
from mmhicra.rewards.notation import LONGEST_ANSWER, compact
from mmhicra.rewards.values import read_value


def vote_of(item: Item, record: SampleRecord) -> str | None:
    """What a response votes for: an option, a number or a writing; None if it has no answer."""
    answer = record.extracted
    if answer is None or len(answer) > LONGEST_ANSWER or not compact(answer):
        return None
    if item.kind == "choice" and (named := named_options(answer, item)):
        return "option " + "".join(map(str, sorted(named)))
    value = read_value(answer)
    return compact(answer).lower() if value is None else f"number {value.amount}"


def pass_at(k: int, samples: int, right: int) -> float:
    """Unbiased estimate of at least one right among `k` responses, from `samples` of which `right` are right.

    1 - C(samples - right, k) / C(samples, k), as in arXiv 2107.03374.
    """
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def majority(records: Sequence[SampleRecord]) -> float:
    """Whether the most frequent answer to one question is right; of equally frequent ones the mean. No answer, no vote.

    Records with the same vote may differ in their verdict where the official rules go by the writing: the share of
    right ones among them counts.
    """
    votes = Counter(record.vote for record in records if record.vote is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    winning = [record.correct for record in records if record.vote is not None and votes[record.vote] == most]
    return sum(winning) / len(winning)


def sample_scores(records: Sequence[SampleRecord]) -> dict[str, Any] | None:
    """avg@k, pass@1, 2, 4, ..., k and maj@k with 95 % intervals over questions; None with one response to each.

    Args:
        records: of all samples; k is the smallest number of responses that a question has.
    """
    by_item: dict[str, list[SampleRecord]] = {}
    for record in records:
        by_item.setdefault(record.id, []).append(record)
    k = min(map(len, by_item.values()), default=0)
    if k < 2:
        return None
    groups = [group[:k] for group in by_item.values()]
    clusters = [group[0].cluster for group in groups]
    right = [sum(record.correct for record in group) for group in groups]
    powers = sorted({k, *(2**power for power in range(k.bit_length()) if 2**power <= k)})
    return {
        "k": k,
        "avg": _interval([count / k for count in right], clusters),
        "pass": {str(n): _interval([pass_at(n, k, count) for count in right], clusters) for n in powers},
        "maj": _interval([majority(group) for group in groups], clusters),
    }


def _interval(scores: Sequence[float], clusters: Sequence[str]) -> Mapping[str, float]:
    return clustered_interval(scores, clusters).as_dict("accuracy")
