"""The `parallel` section."""

from __future__ import annotations

from typing import Literal

from mmhicra.config.base import Processes, Section


class ParallelConfig(Section):
    """How the processes of a run share a model that is split over them (`model.shard`; see docs/guides/sharding.md),
    and the rows of its update."""

    replicate: Processes = 1
    """Copies of the split model (HSDP): with 16 processes and 2 copies each model is split over 8, which should be
    those of one node. Divides the number of processes."""
    reshard: Literal["auto", "always", "never"] = "auto"
    """Whether a block's parameters are given back after its forward pass, and gathered again for its backward pass.
    `auto`: those of the blocks, not what lies outside of them. `always`: all, the least memory. `never`: none, the
    least communication, and every process holds the whole model between forward and backward."""
    sequence: Processes = 1
    """Neighbouring processes that compute each row of the update together (Ulysses): of a row of
    `train.tokens_per_micro_batch` tokens each holds its part, and in attention its part of the heads. For rows that
    exceed a card. Divides the number of processes and that of the model's query heads; see docs/guides/long_rows.md."""

    def problem(self, shard: bool) -> str | None:
        """A line if the section says something of a model that is not split; None if it does not."""
        for name in ("replicate", "reshard"):
            if not shard and getattr(self, name) != type(self).model_fields[name].default:
                return (
                    f"parallel.{name} is for a model that is split over the processes, and model.shard is false: "
                    f"set model.shard to true, or drop parallel.{name}"
                )
        return None
