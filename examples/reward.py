"""A reward of your own: half of its weight for a right answer that the response checked before it gave it."""

from mmhicra.core.records import Completion, Problem, RewardRecord

CHECKS = ("check", "verify", "wait", "again")


def rewards_checking(problem: Problem, completion: Completion, record: RewardRecord) -> float:
    """1 if a right answer was checked, 0.5 if it was not, 0 for any other.

    Args:
        problem: what was asked, with its gold answer.
        completion: one response: `text`, `ids`, `finish_reason`.
        record: what the terms before this one found: `verdict`, `extracted`, `parts`, `total`.
    """
    if record.verdict != "right":
        return 0.0
    return 1.0 if any(word in completion.text.lower() for word in CHECKS) else 0.5
