"""Call a function in several processes that know each other, as torchrun starts them, and hear what each returns.

    results = on_ranks(2, "train.rank_sharding:compare", tmp_path, precision="bf16")

`compare(accelerator, precision)` runs in both, forked from a process that has imported everything (`faults.spawner`);
what it returns has to be JSON. A launch takes about as long as ten small checks, so check many things in one.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from faults.spawner import fork


def on_ranks(count: int, call: str, folder: Path, **arguments: Any) -> list[Any]:
    """What `call` (module:function, the module as tests import it) returned on each of `count` ranks, in their order.

    Args:
        count: of processes, on the CPU, with gloo.
        call: is given the process's accelerator and `arguments`.
        folder: a fresh one for what is printed and returned.
        arguments: what JSON can hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    said = folder / "said"
    child = fork([call, json.dumps(arguments), str(folder)], said, script=__file__, ranks=count)
    status = child.wait()
    assert status == 0, said.read_text(encoding="utf-8", errors="replace")[-6000:]
    return [json.loads((folder / f"rank_{rank}.json").read_text(encoding="utf-8")) for rank in range(count)]


def _enter(call: str, arguments: str, folder: str) -> None:
    from mmhicra.train.distributed.processes import make_accelerator

    accelerator = make_accelerator()
    module, _, name = call.partition(":")
    result = getattr(importlib.import_module(module), name)(accelerator, **json.loads(arguments))
    (Path(folder) / f"rank_{accelerator.process_index}.json").write_text(json.dumps(result), encoding="utf-8")
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    _enter(*sys.argv[1:])
