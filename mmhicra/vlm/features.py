"""A frozen vision tower runs once on an image: the embedded engine, reference and optimizer steps share the features.

Shapes: I merged image tokens of a prompt, H hidden size.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmhicra.core.errors import UserError
from mmhicra.core.records import Prompt
from mmhicra.core.vision_inputs import ImageFeatures, Images, Pixels
from mmhicra.vlm.family import Family

PATCHES_AT_A_TIME = 16_384
"""About three images of a megapixel in one pass of the tower, or one larger than that."""


def images_of(prompts: Sequence[Prompt]) -> Images | None:
    """The images of `prompts`, one after another: their features if they have them, else their pixels.

    Raises:
        ValueError: some prompts have features and others only pixels.
    """
    seen = [prompt.vision.features for prompt in prompts if prompt.vision.features is not None]
    unseen = [prompt for prompt in prompts if prompt.vision.pixels is not None]
    if seen and unseen:
        raise ValueError(f"problem {unseen[0].problem.id} has pixels, but others in its batch have features")
    if seen:
        return ImageFeatures.join(seen)
    return _pixels(unseen) if unseen else None


class FrozenVision:
    """Computes the features of the images of prompts, and keeps them in a folder if there is one.

    Args:
        model: whose vision tower and mergers are frozen.
        family: the model's.
        precision: as the policy computes.
        folder: features are read from and written to it, under a name made of the content of images and tower;
            None keeps none.

    Raises:
        UserError: the folder cannot be made.
    """

    def __init__(
        self, model: nn.Module, family: Family, precision: Literal["fp32", "bf16"], folder: str | Path | None = None
    ) -> None:
        self.model = model
        self.family = family
        self.precision = precision
        self.folder = Path(folder).expanduser() if folder else None
        if self.folder:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"model.vision_cache: {self.folder} is no folder to write to ({error.strerror})"
                ) from None
            self.content = _fingerprint(self.tower, precision)

    def add_features(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """`prompts` with features in place of pixels, on the CPU; the rest of each is as it was.

        Raises:
            UserError: a file in the folder is broken.
        """
        kept = {index: self._read(prompt) for index, prompt in enumerate(prompts) if prompt.vision.pixels is not None}
        missing = [index for index, features in kept.items() if features is None]
        for some in _portions(missing, [prompts[index].patches for index in missing]):
            seen = self._encode([prompts[index] for index in some])
            for index, features in zip(some, seen, strict=True):
                kept[index] = features
                self._write(prompts[index], features)
        return [
            prompt if features is None else replace(prompt, vision=prompt.vision.with_features(features))
            for prompt, features in zip(prompts, map(kept.get, range(len(prompts))), strict=True)
        ]

    @property
    def tower(self) -> nn.Module:
        """The vision tower, its mergers included."""
        return self.family.vision_tower(self.model)

    @torch.no_grad()
    def _encode(self, prompts: Sequence[Prompt]) -> list[ImageFeatures]:
        device = next(self.tower.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            features = self.family.encode_images(self.model, _pixels(prompts).to(device))
        return features.to(torch.device("cpu")).split([int(prompt.image_positions.sum()) for prompt in prompts])

    def _file(self, prompt: Prompt) -> Path:
        assert self.folder is not None
        parts = (self.content, _pixels([prompt]).content())
        return self.folder / f"{hashlib.blake2b(b''.join(parts), digest_size=16).hexdigest()}.safetensors"

    def _read(self, prompt: Prompt) -> ImageFeatures | None:
        if self.folder is None or not (path := self._file(prompt)).exists():
            return None
        try:
            merged, *deep = (tensor for _, tensor in sorted(load_file(path).items()))
        except (SafetensorError, ValueError) as error:
            raise UserError(f"model.vision_cache: {path} is broken ({error}): delete it") from None
        return ImageFeatures(merged, tuple(deep))

    def _write(self, prompt: Prompt, features: ImageFeatures) -> None:
        if self.folder is None:
            return
        path = self._file(prompt)
        tensors = {
            f"layer_{number:02}": t.contiguous() for number, t in enumerate((features.merged, *features.deepstack))
        }
        unfinished = path.with_suffix(f".{uuid.uuid4().hex}.part")  # ranks and runs may share the folder
        try:
            save_file(tensors, unfinished)
            unfinished.replace(path)
        except (OSError, SafetensorError) as error:
            unfinished.unlink(missing_ok=True)
            raise UserError(
                f"model.vision_cache: {path} cannot be written ({error}): free or name another folder"
            ) from None


def _pixels(prompts: Sequence[Prompt]) -> Pixels:
    """The images of `prompts`, all of one family, one after another; at least one prompt has some."""
    parts = [prompt.vision.pixels for prompt in prompts if prompt.vision.pixels is not None]
    return type(parts[0]).join(parts)


def _portions(indices: Sequence[int], patches: Sequence[int]) -> Iterator[list[int]]:
    """`indices` in order, as many at a time as stay within `PATCHES_AT_A_TIME`, at least one."""
    portion: list[int] = []
    room = PATCHES_AT_A_TIME
    for index, count in zip(indices, patches, strict=True):
        if portion and count > room:
            yield portion
            portion, room = [], PATCHES_AT_A_TIME
        portion.append(index)
        room -= count
    if portion:
        yield portion


def _fingerprint(tower: nn.Module, precision: str) -> bytes:
    digest = hashlib.blake2b(precision.encode())
    for name, parameter in sorted(tower.state_dict().items()):
        digest.update(f"{name} {tuple(parameter.shape)}".encode() + _bytes(parameter))
    return digest.digest()


def _bytes(tensor: Tensor) -> bytes:
    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor  # a sharded one: every rank asks for it
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
