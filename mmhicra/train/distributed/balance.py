"""Whole groups change ranks until the ranks have about as much to compute; a group is never torn apart for it.

Shapes: P prompt tokens, R tokens of a response, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import nn

from mmhicra.core.records import Group
from mmhicra.train.distributed.ranks import Ranks
from mmhicra.vlm.family import Family, VisionWork
from mmhicra.vlm.shape import head_size
from mmhicra.vlm.vision_work import count_linear

WORTH = 0.02
"""A move that takes less than this share of the mean load off the heavier rank is not worth sending the group."""


@dataclass(frozen=True)
class Work:
    """What the forward pass of a flat row costs, in FLOP: linear in tokens, quadratic in what attention sees.

    Attributes:
        token: the linear layers of the decoder, a token.
        pair: attention of all layers, a query and a key that it sees.
        scored: the head, a response token.
        vision: images that are still to be encoded.
    """

    token: float
    pair: float
    scored: float
    vision: VisionWork

    @classmethod
    def of(cls, model: nn.Module, family: Family) -> Work:
        """Of a model that is still whole (not sharded)."""
        decoder = family.language_model(model)
        config: Any = decoder.config
        return cls(
            token=2.0 * count_linear(decoder),
            pair=4.0 * config.num_hidden_layers * config.num_attention_heads * head_size(config),
            scored=2.0 * family.lm_head(model).weight.numel(),
            vision=family.vision_work(model),
        )

    def forward(self, group: Group) -> float:
        """FLOP of one forward pass over the group in one row, masked completions left out."""
        prompt, responses = len(group.prompt), [len(completion) for completion in group.trained]
        pairs = prompt**2 / 2 + sum(prompt * length + length**2 / 2 for length in responses)
        decoding = (prompt + sum(responses)) * self.token + pairs * self.pair + sum(responses) * self.scored
        return decoding + self.vision.forward(group.prompt.vision)


class Move(NamedTuple):
    """Group `number` of rank `source` goes to rank `target`."""

    source: int
    number: int
    target: int


def plan_moves(costs: Sequence[Sequence[float]]) -> list[Move]:
    """Moves that bring the loads of the ranks together; the same on every rank.

    From the heaviest rank to the lightest goes the group that leaves the two most alike, as long as that is worth it.

    Args:
        costs: of the groups of each rank, all above 0.
    """
    held, arrived = [dict(enumerate(own)) for own in costs], [0.0] * len(costs)
    mean = sum(map(sum, costs)) / len(costs)
    moves: list[Move] = []
    while True:
        loads = [sum(own.values()) + more for own, more in zip(held, arrived, strict=True)]
        source, target = loads.index(max(loads)), loads.index(min(loads))
        gap = loads[source] - loads[target]
        own = held[source]
        best = min(own, key=lambda index: abs(gap / 2 - own[index]), default=None)
        if best is None or gap / 2 - abs(gap / 2 - own[best]) <= WORTH * mean:
            return moves
        moves.append(Move(source, best, target))
        arrived[target] += own.pop(best)  # it stays there: a group is sent once


def balance(parts: Sequence[list[Group]], work: Work, ranks: Ranks, together: int = 1) -> tuple[list[Group], float]:
    """Exchange groups among ranks until each part, what is trained at a time, is even; every rank must call it.

    Args:
        parts: this rank's groups of each part; the number of parts is the same on all ranks.
        work: what a group costs.
        ranks: that exchange.
        together: neighbouring ranks that compute their groups together (`parallel.sequence`).

    Returns:
        This rank's groups now, in the order of their places, and the time all parts take over what they would if the
        loads were even (1 is even).
    """
    held: list[Group] = []
    busiest = even = 0.0
    for part in parts:
        own, loads = exchange(part, work, ranks)
        held += own
        loads = [sum(loads[first : first + together]) for first in range(0, len(loads), together)]
        busiest, even = busiest + max(loads), even + sum(loads) / len(loads)
    return sorted(held, key=place_of), busiest / even if even else 1.0


def exchange(groups: list[Group], work: Work, ranks: Ranks) -> tuple[list[Group], list[float]]:
    """Exchange groups among ranks; returns this rank's, and the loads of all ranks afterwards."""
    own = [work.forward(group) for group in groups]
    costs: list[list[float]] = ranks.gather([own])
    stay = dict(enumerate(groups))
    loads = [sum(each) for each in costs]
    arrived: list[Group] = []
    for source, index, target in plan_moves(costs):
        group = ranks.broadcast(_light(stay.pop(index)) if ranks.index == source else None, source)
        if ranks.index == target:
            arrived.append(group)
        loads[source] -= costs[source][index]
        loads[target] += costs[source][index]
    return [*stay.values(), *arrived], loads


def place_of(group: Group) -> int:
    """Its place among the groups that its step keeps."""
    assert group.place is not None
    return group.place


def _light(group: Group) -> Group:
    """Without the pictures, which only an engine needs."""
    return replace(group, prompt=replace(group.prompt, images=()))
