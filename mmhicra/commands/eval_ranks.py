"""`mmhicra eval` in several processes, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING

from mmhicra.train.distributed.launch import processes_of

if TYPE_CHECKING:
    from mmhicra.evaluate.together import Processes


@contextmanager
def evaluating_processes() -> Iterator[Processes | None]:
    """The processes of this evaluation, which part when the `with` block has ended well; None for this one alone.

    Raises:
        ConfigError: they cannot be set up.
    """
    if processes_of(os.environ) == 1:
        yield None  # torch is not imported yet: mistakes in the configuration show at once
        return
    from accelerate.utils import InitProcessGroupKwargs

    from mmhicra.config import TrainConfig
    from mmhicra.train.distributed.processes import make_accelerator
    from mmhicra.train.distributed.ranks import Ranks

    patience = timedelta(seconds=TrainConfig().rank_timeout)  # the first one scores while the others wait
    accelerator = make_accelerator(InitProcessGroupKwargs(timeout=patience))
    yield Ranks(accelerator)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def refusing_together(processes: Processes | None) -> AbstractContextManager[None]:
    """See `Processes.refusing_together`."""
    return nullcontext() if processes is None else processes.refusing_together()
