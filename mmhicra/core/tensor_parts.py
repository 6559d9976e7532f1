"""Tensors of which every rank writes its own part, and any number of ranks reads the parts that it needs.

`torch.distributed.checkpoint` plans who writes and reads which part. The files are safetensors, one a rank, as torch's
`HuggingFaceStorageReader` reads them: where a part lies in its tensor stands in the header, so that no pickle is needed
and equal states give equal bytes. (torch's own writers pickle their metadata with a random name in it, or hold a second
copy of a rank's part.)

    part_00001.safetensors   of the first rank: `DCP_SHARDING_INFO` in its header has offsets and whole shape by name
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.distributed.tensor import DTensor, Replicate
from torch.futures import Future

from mmhicra.core.tensor_files import DTYPES, Stored, read_header, write_tensors

PLACES = "DCP_SHARDING_INFO"
"""What torch's reader calls the part of a header that says where parts lie."""
ALONE = "torch.distributed is disabled, unavailable or uninitialized"
"""What torch warns of whenever one process saves or loads by itself, which is meant."""
warnings.filterwarnings("ignore", message=ALONE)


@dataclass(frozen=True)
class Whole:
    """A tensor of which parts are stored: its type and its whole shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]


class PartWriter(StorageWriter):
    """Writes this rank's parts as one safetensors file; `written` is then what a manifest says of it, by file name."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder = folder
        self.rank = rank
        self.written: dict[str, dict[str, Any]] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between two."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing is to be set up."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """As they are."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the parts of `plan`; a rank without any writes no file."""
        tensors: dict[str, Stored] = {}
        places: dict[str, dict[str, list[int]]] = {}
        results: list[WriteResult] = []
        for item in plan.items:
            name, about = item.index.fqn, item.tensor_data
            part = planner.resolve_data(item)
            assert about is not None
            assert isinstance(part, Tensor)
            assert name not in tensors
            results.append(WriteResult(index=item.index, size_in_bytes=part.nbytes, storage_data=None))
            if part.numel():  # of a tensor with fewer rows than ranks some have none
                tensors[name] = Stored.of(part)
                places[name] = {"saved_offsets": list(about.chunk.offsets), "shape": list(about.size)}
        if tensors:
            file = self.folder / f"part_{self.rank + 1:05d}.safetensors"
            places = dict(sorted(places.items()))
            header = {PLACES: json.dumps(places), "DCP_VERSION": "1.0", "format": "pt"}
            self.written[file.name] = write_tensors(file, tensors, header)
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """All that is to be known stands in the files."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Folders only."""
        return True


def save_parts(
    folder: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None = None, *, alone: bool = False
) -> dict[str, dict[str, Any]]:
    """Write this rank's parts of tensors into `folder`. Every rank of `group` must call it.

    Args:
        folder: is there already, on a disk that all ranks share.
        tensors: by name; of a DTensor its local part is written, another one by the rank that gives it.
        group: of the ranks that write; None is all of them.
        alone: this process writes by itself.

    Returns:
        What a manifest says of this rank's file, by its name.

    Raises:
        OSError: some rank cannot write its part.
    """
    writer = PartWriter(folder, 0 if alone else dist.get_rank(group))
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        save(dict(tensors), storage_writer=writer, planner=planner, process_group=group, no_dist=alone)
    except CheckpointException as failed:
        raise first_cause(failed) from None
    return writer.written


def load_parts(folder: Path, targets: Mapping[str, Tensor]) -> None:
    """Fill `targets` in place: of a DTensor this rank's part. Ranks need not call it together.

    Args:
        folder: what any number of ranks wrote with `save_parts`.
        targets: by name, in their whole shapes; what else is stored is left out.

    Raises:
        OSError: a file cannot be read.
        ValueError: a name is not there, or has another shape.
    """
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        load(dict(targets), storage_reader=HuggingFaceStorageReader(str(folder)), planner=planner, no_dist=True)
    except CheckpointException as failed:
        raise ValueError(str(first_cause(failed))) from failed


def first_cause(failed: CheckpointException) -> BaseException:
    """What went wrong first in a collective of torch's."""
    error, _ = next(iter(failed.failures.values()))
    return error


def parts_in(folder: Path) -> dict[str, Whole]:
    """What is stored in a folder of parts, by name.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged, or parts of a tensor are missing.
    """
    found: dict[str, Whole] = {}
    values: dict[str, int] = {}
    for file in sorted(folder.glob("part_*.safetensors")):
        header = read_header(file)
        try:
            places = json.loads(header.pop("__metadata__")[PLACES])
            for name, about in header.items():
                found[name] = Whole(DTYPES[about["dtype"]], tuple(places[name]["shape"]))
                values[name] = values.get(name, 0) + math.prod(about["shape"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file.name} does not say where its parts lie ({error})") from None
    short = sorted(name for name, whole in found.items() if values[name] != math.prod(whole.shape))
    if short:
        raise ValueError(f"{len(short)} tensors are not whole, e.g. {short[0]}: a part file is missing")
    return dict(sorted(found.items()))


def whole_tensors(folder: Path) -> dict[str, Tensor]:
    """All that is stored in a folder of parts, made whole on the CPU; errors as of `parts_in`."""
    tensors = {name: torch.empty(one.shape, dtype=one.dtype) for name, one in parts_in(folder).items()}
    load_parts(folder, tensors)
    return tensors


def own_parts(tensors: Mapping[str, Tensor], rank: int, ranks: int) -> dict[str, Tensor]:
    """Those of `tensors` that this rank writes, so that each part is written once and all ranks write about as much.

    Args:
        tensors: the same names in the same order on every rank; DTensors, and what every rank has a copy of.
        rank: this one.
        ranks: how many there are.
    """
    loads, own = [0] * ranks, {}
    for number, (name, tensor) in enumerate(tensors.items()):
        if isinstance(tensor, DTensor):
            if _writes(tensor, number):
                own[name] = tensor
            continue
        writer = loads.index(min(loads))
        loads[writer] += tensor.nbytes
        if writer == rank:
            own[name] = tensor
    return own


def _writes(tensor: DTensor, number: int) -> bool:
    """Whether this rank's copy of its part is the one that is written."""
    mesh, here = tensor.device_mesh, tensor.device_mesh.get_coordinate()
    if here is None:
        return False
    copies = [dim for dim, placement in enumerate(tensor.placements) if isinstance(placement, Replicate)]
    return all(here[dim] == number % mesh.size(dim) for dim in copies)
