"""Writes checkpoints, while training goes on if there is a thread to spare for it.

All ranks write into one folder beside the final name, on a disk that they share; when all have, the first one writes
the manifest, puts all on disk and renames it. Neither a kill nor a power cut leaves half a checkpoint under its name.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from mmhicra.core.errors import RunFolderError, UserError, one_line
from mmhicra.core.files import PARTIAL, json_text, sync_tree, writing
from mmhicra.core.manifest import STATE, STATE_FILE, write_manifest
from mmhicra.core.run_folder import RunFolder
from mmhicra.core.tensor_files import Stored, write_tensors
from mmhicra.core.tensor_parts import save_parts
from mmhicra.train.loop.disk import bytes_text
from mmhicra.train.loop.staging import Staged
from mmhicra.train.trainer import Trainer
from mmhicra.vlm.saving import ADAPTER_FOLDER, described
from mmhicra.vlm.trained_weights import TRAINED_WEIGHTS

LOGGER = logging.getLogger(__name__)

OPTIMIZER = f"{STATE}/optimizer"
"""In a checkpoint: the optimizer's tensors, in parts."""
OPTIMIZER_FACTS = f"{STATE}/optimizer.json"
"""The rest of the optimizer's state."""
RANDOM = f"{STATE}/random.safetensors"
"""The states of torch's generators: `cpu`, `cuda.0`, ..."""

T = TypeVar("T")


class CheckpointWriter:
    """Writes one checkpoint at a time into a run folder; every rank has one and calls it at the same places.

    Args:
        folder: the run folder.
        trainer: whose checkpoints these are.
        processor: saved beside the model.
    """

    def __init__(self, folder: RunFolder, trainer: Trainer, processor: Any) -> None:
        self.folder = folder
        self.trainer = trainer
        self.processor = processor
        self.ranks = trainer.ranks
        self.log = trainer.config.log
        self.patience = trainer.config.train.rank_timeout
        self.group: Any = None
        if self.ranks.count > 1:  # the trainer's own group is in use meanwhile, and may not know the CPU
            self.group = dist.new_group(backend="gloo", timeout=timedelta(seconds=self.patience))
        self._described: dict[str, bytes] | None = None
        self._place = folder.checkpoints
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether this rank is writing."""
        return self._thread is not None and self._thread.is_alive()

    def write(self, staged: Staged, best: Mapping[str, Any] | None) -> None:
        """Write a checkpoint now.

        Args:
            staged: this rank's part.
            best: what `best.json` is to say; its checkpoint stays.

        Raises:
            RunFolderError: some rank cannot write; nothing has the checkpoint's name.
        """
        self._describe(staged)
        self._write(staged, best)

    def begin(self, staged: Staged, best: Mapping[str, Any] | None) -> None:
        """Like `write`, in a thread; the one before must be finished, and `finish` tells what went wrong."""
        assert self._thread is None
        self._describe(staged)

        def work() -> None:
            try:
                self._write(staged, best)
            except BaseException as error:  # noqa: BLE001 - `finish` raises it, whatever it is
                self._error = error

        # A daemon: whoever wants the run to stop at once does not wait for it.
        self._thread = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for what was begun.

        Raises:
            RunFolderError: some rank could not write.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def settle(self) -> None:
        """Wait for what was begun where the run ends with another error; this one goes to the log."""
        try:
            self.finish()
        except Exception as error:  # noqa: BLE001 - what ended the run is told, and this goes to the log
            LOGGER.warning("%s", error)

    def _describe(self, staged: Staged) -> None:
        """Make the files beside the weights once: they never change, and a tokenizer bears no second thread."""
        if staged.model is not None and self._described is None and self.ranks.is_main:
            half = self.trainer.config.model.precision == "bf16"
            self._described = described(self.trainer.unwrapped.model, self.processor, half=half)

    def _write(self, staged: Staged, best: Mapping[str, Any] | None) -> None:
        started = time.perf_counter()
        final = self.folder.checkpoint(staged.step) if staged.resume else self.folder.weights_of(staged.step)
        partial = self._place = final.with_name(final.name + PARTIAL)
        try:
            size = sum(self._together(lambda: staged.bytes))
            self._on_main(lambda: self._begin_folder(partial, size, best))
            self._fill(partial, staged)
            self._on_main(lambda: self._give_name(partial, final, best))
        except (dist.DistError, RuntimeError) as error:
            if self.group is None:
                raise
            raise RunFolderError(
                f"cannot write {final}: another process has ended, or did not write its part within train.rank_timeout "
                f"({self.patience} s): {one_line(str(error), 160)}"
            ) from error
        LOGGER.debug("%s was written in %.1f s", final, time.perf_counter() - started)

    def _begin_folder(self, partial: Path, size: int, best: Mapping[str, Any] | None) -> None:
        """Make the folder, and room for what comes into it."""
        partial.parent.mkdir(exist_ok=True)
        self.folder.sweep_checkpoints()
        if (gib := self.log.checkpoint_gib) is not None:
            left = self.folder.make_room(size, int(gib * 2**30), best["step"] if best else None)
            if left + size > gib * 2**30:
                raise RunFolderError(
                    f"cannot write {partial}: it takes {bytes_text(size)}, and log.checkpoint_gib ({gib:g} GiB) leaves "
                    f"no room for it beside the newest whole checkpoint and the best one ({bytes_text(left)}): raise "
                    "it, or go on with eval.keep_best: false"
                )
        partial.mkdir()

    def _fill(self, partial: Path, staged: Staged) -> None:
        """Write all files, the manifest last."""
        files: dict[str, Any] = {}
        model, resume = staged.model, staged.resume
        if model is not None:
            for written in self._together(lambda: model.write(partial)):
                files |= written
        if resume is not None:
            self._together(lambda: self._make_folders(partial))
            for name, tensors in ((TRAINED_WEIGHTS, resume.weights), (OPTIMIZER, resume.moments)):
                for written in self._together(self._save(partial / name, tensors)):
                    files |= {f"{name}/{file}": facts for file, facts in written.items()}
        self._on_main(lambda: self._write_rest(partial, staged, files))

    def _save(self, place: Path, tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, Any]]:
        return lambda: save_parts(place, tensors, self.group, alone=self.group is None)

    def _make_folders(self, partial: Path) -> None:
        """On every rank: a network file system may not show one what another has made."""
        for name in ("", STATE, TRAINED_WEIGHTS, OPTIMIZER):
            (partial / name).mkdir(exist_ok=True)

    def _write_rest(self, partial: Path, staged: Staged, files: dict[str, Any]) -> None:
        """What the first rank writes by itself; `files` is what a manifest says of all that is there."""
        if staged.model is not None:
            for name, content in (self._described or {}).items():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).write_bytes(content)
            staged.model.write_index(partial)
        if staged.adapter is not None:
            wrapper: Any = self.trainer.unwrapped.model
            wrapper.save_pretrained(str(partial / ADAPTER_FOLDER), state_dict=staged.adapter)
        if (resume := staged.resume) is not None:
            (partial / OPTIMIZER_FACTS).write_text(json_text(resume.optimizer, indent=1), encoding="utf-8")
            random = resume.progress.random
            states = {"cpu": random["cpu"], **{f"cuda.{n}": state for n, state in enumerate(random["cuda"])}}
            stored = {name: Stored.of(state) for name, state in states.items()}
            files[RANDOM] = write_tensors(partial / RANDOM, stored, {})
            (partial / STATE_FILE).write_text(resume.state, encoding="utf-8")
        write_manifest(partial, files)
        sync_tree(partial)

    def _give_name(self, partial: Path, final: Path, best: Mapping[str, Any] | None) -> None:
        self.folder.keep_checkpoint(partial, final)
        if final.parent == self.folder.weights:
            self.folder.prune_weights(self.log.keep_weights)
            return
        if best is not None:
            self.folder.write_best(best)
        self.folder.prune_checkpoints(self.log.keep_checkpoints, best["step"] if best else None)

    def _on_main(self, work: Callable[[], None]) -> None:
        """Let the first rank work, while the others wait for it."""
        self._together(work if self.ranks.is_main else lambda: None)

    def _together(self, work: Callable[[], T]) -> list[T]:
        """What `work` returned on each rank; if one fails all do, with its line.

        Raises:
            RunFolderError: some rank could not write.
            Exception: what else this rank failed with.
        """
        if self.group is None:
            with writing(self._place):
                return [work()]
        result, error = None, None
        try:
            with writing(self._place):
                result = work()
        except Exception as raised:  # noqa: BLE001 - raised again when the other ranks know
            error = raised
        said = error if error is None or isinstance(error, UserError) else repr(error)
        outcomes: list[Any] = [None] * self.ranks.count
        dist.all_gather_object(outcomes, (result, said), group=self.group)
        if error is not None:
            raise error
        for rank, (_, failure) in enumerate(outcomes):
            if failure is not None:
                unknown = RunFolderError(f"cannot write {self._place}: process {rank} failed: {one_line(str(failure))}")
                raise failure if isinstance(failure, UserError) else unknown
        return [each for each, _ in outcomes]
