"""Methods over seeds: means, differences to the baseline paired by seed, and what the comparison could have seen.

All intervals are 95 % Student intervals over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from mmhicra.core.intervals import ConfidenceInterval
from mmhicra.lab.outcomes import Outcome

POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """A paired difference to the baseline.

    Attributes:
        estimate: of the difference.
        p: two-sided, of the paired t-test; 1 if the differences do not vary and are zero.
        detectable: the true difference that this comparison, with the spread it saw, finds with power 0.8.
    """

    estimate: ConfidenceInterval
    p: float
    detectable: float


def estimate(values: Sequence[float]) -> ConfidenceInterval:
    """Mean and Student interval of one value per seed; the interval is infinite for one seed.

    Raises:
        ValueError: there is no value.
    """
    count = len(values)
    if not count:
        raise ValueError("an estimate needs at least one seed")
    mean = fmean(values)
    half = float(student.ppf(0.975, count - 1)) * stdev(values) / math.sqrt(count) if count > 1 else math.inf
    return ConfidenceInterval(mean, mean - half, mean + half, count, "student")


def difference(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Paired by position, one pair per seed.

    The detectable difference is (t(0.975) + t(power)) * s / sqrt(n), s the standard deviation of the differences.

    Raises:
        ValueError: the two are not equally long.
    """
    gaps = [value - other for value, other in zip(values, baseline, strict=True)]
    it, freedom = estimate(gaps), len(gaps) - 1
    if freedom == 0:
        return Difference(it, math.nan, math.inf)
    error = stdev(gaps) / math.sqrt(len(gaps))
    p = float(2 * student.sf(abs(it.mean) / error, freedom)) if error else float(it.mean == 0)
    reach = float(student.ppf(0.975, freedom) + student.ppf(POWER, freedom))
    return Difference(it, p, reach * error)


@dataclass(frozen=True)
class Row:
    """One method: every number over seeds, and the paired differences of what is compared."""

    method: str
    seeds: tuple[int, ...]
    numbers: dict[str, ConfidenceInterval]
    differences: dict[str, Difference]


COMPARED = ("after", "learning", "late_accuracy")


def compare(outcomes: Sequence[Outcome], baseline: str) -> list[Row]:
    """One row per method, in the order of `outcomes`; each is paired with the baseline over the seeds both have."""
    by_method: dict[str, dict[int, Outcome]] = {}
    for outcome in outcomes:
        by_method.setdefault(outcome.method, {})[outcome.seed] = outcome
    rows = []
    for method, own in by_method.items():
        names = [name for name in next(iter(own.values())).numbers if all(name in o.numbers for o in own.values())]
        numbers = {name: estimate([o.numbers[name] for o in own.values()]) for name in names}
        other = by_method.get(baseline, {})
        shared = sorted(own.keys() & other.keys()) if method != baseline else []
        differences = {
            name: difference([own[s].numbers[name] for s in shared], [other[s].numbers[name] for s in shared])
            for name in COMPARED
            if shared
        }
        rows.append(Row(method, tuple(sorted(own)), numbers, differences))
    return rows


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as plain data."""
    return [
        {
            "method": row.method,
            "seeds": row.seeds,
            "numbers": {name: number.as_dict(count="count") for name, number in row.numbers.items()},
            "differences": {
                name: {
                    "estimate": gap.estimate.as_dict(count="count"),
                    "p": gap.p,
                    "detectable": gap.detectable,
                }
                for name, gap in row.differences.items()
            },
        }
        for row in rows
    ]
