"""What the processes of a run tell each other; with one process every function returns what it was given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from mmhicra.core.errors import UserError, tell


class Ranks:
    """The processes of a run, seen from one of them. Whatever gathers or sums must be called by all."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator

    @property
    def count(self) -> int:
        """How many there are."""
        return self.accelerator.num_processes

    @property
    def index(self) -> int:
        """Which of them this is, from 0."""
        return self.accelerator.process_index

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes files and decides for all."""
        return self.accelerator.is_main_process

    def share(self, items: Sequence[Any]) -> list[Any]:
        """This rank's part of `items`."""
        return list(items[self.index :: self.count])

    def gather(self, items: list[Any]) -> list[Any]:
        """The `items` of all ranks."""
        return gather_object(items) if self.count > 1 else items

    def gather_shares(self, items: Sequence[Any]) -> list[Any]:
        """Every rank's `items` back in the order that `share` took them from."""
        if self.count == 1:
            return list(items)
        shares = gather_object([list(items)])
        return [shares[i % self.count][i // self.count] for i in range(sum(len(part) for part in shares))]

    def broadcast(self, item: Any, source: int = 0) -> Any:
        """The `item` of rank `source`, on every rank; what the others give is not used."""
        return broadcast_object_list([item], from_process=source)[0] if self.count > 1 else item

    @contextmanager
    def refusing_together(self) -> Iterator[None]:
        """If any rank refuses in the `with` block all do, at its end: none waits for one that has left.

        Each reason is told once, by the first rank that has it, and at once: a launcher ends all processes as soon as
        one has left. What is in the block must not wait for other ranks, or must refuse on all of them alike.
        """
        refusal: UserError | None = None
        try:
            yield
        except UserError as raised:
            refusal = raised
        rank = self.index
        said = self.gather([] if refusal is None else [(rank, str(refusal))])
        if refusal is not None:
            refusal.told = refusal.told or any(text == str(refusal) for other, text in said if other < rank)
            if self.count > 1:
                tell(refusal)
            raise refusal
        if said:
            refusal = UserError(said[0][1])
            refusal.told = True
            raise refusal

    def sum(self, value: float) -> float:
        """Sum of `value` over all ranks."""
        return float(self._all(value).sum())

    def max(self, value: float) -> float:
        """Maximum of `value` over all ranks."""
        return float(self._all(value).max())

    def _all(self, value: float) -> Tensor:
        return torch.as_tensor(
            self.accelerator.gather(torch.tensor([value], dtype=torch.float64, device=self.accelerator.device))
        )
