"""What the calls of the own reward terms came to, as metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

Counts = Mapping[str, Mapping[str, float]]
"""By the name of a term, what it counts: `calls`, `failures`, `retries`, `seconds`, of a judge its requests and tokens
too."""


def count_metrics(counts: Iterable[Counts]) -> dict[str, float]:
    """The sums over all ranks: `reward/NAME/calls` and so on, and seconds a call as `speed/reward_NAME_seconds`.

    Seconds stand among the speeds because no two runs share them.
    """
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for rank in counts:
        for name, own in rank.items():
            for what, value in own.items():
                sums[name, what] += value
    numbers = {f"reward/{name}/{what}": value for (name, what), value in sums.items() if what != "seconds"}
    seconds = {name: value for (name, what), value in sums.items() if what == "seconds"}
    called = {name: sums[name, "calls"] for name in seconds if sums[name, "calls"]}
    return numbers | {f"speed/reward_{name}_seconds": seconds[name] / calls for name, calls in called.items()}
