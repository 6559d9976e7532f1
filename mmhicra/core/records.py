"""Problem -> Prompt -> Completion -> Group: the records that every phase of a step takes and gives.

Shapes in docstrings: P prompt length (image placeholders expanded), R response length, N images of a prompt.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from mmhicra.core.vision_inputs import VisionInputs
    from mmhicra.hicra.planning import PlanningTags

IMAGE_PLACEHOLDER = "<image>"
"""The text that marks the place of an image in `Problem.question`, once for each image."""

ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""The EXIF tag that says how an image is turned before it is shown, and its values that swap width and height."""

LARGEST_IMAGE = 89_478_485
"""Pixels of an image that is decoded, 268 MB in RGB: where Pillow begins to warn of decompression bombs."""

FinishReason = Literal["stop", "length"]
Verdict = Literal["right", "wrong", "no-answer", "gold-unusable"]
AnswerKind = Literal["math", "choice", "number", "text", "box", "boxes", "point"]


@dataclass(frozen=True)
class ProblemImage:
    """An image held as it came (path, encoded bytes or PIL image) and decoded only when opened.

    Attributes:
        payload: a path, encoded bytes (PNG, JPEG, ...) or a PIL image.
        reference: what logs and rollout files say instead of the pixels, e.g. `images/train/0.png`.
    """

    payload: Path | bytes | Image.Image
    reference: str

    def open(self) -> Image.Image:
        """Decode to RGB, transparent pixels on white, turned as its metadata says, which do not come along.

        Grey of more than 8 bits is scaled (`deep_grey`). Of several pages or frames the first is taken.

        Raises:
            OSError: the file is missing, its bytes are not a whole image, or it has more than `LARGEST_IMAGE` pixels.
        """
        from PIL import Image, ImageOps

        from mmhicra.core.deep_grey import is_deep, is_inverted, to_eight_bits

        loaded = self._load(Image)
        image = ImageOps.exif_transpose(loaded)
        if is_deep(image.mode):
            image = to_eight_bits(image, is_inverted(loaded))
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, rgba)
        image = image.convert("RGB")
        image.info.clear()  # an engine would read it, and see another image than the trainer
        return image

    def size(self) -> tuple[int, int]:
        """(width, height) in pixels as `open` gives it, from the header alone.

        Raises:
            OSError: the file is missing, or is no image.
        """
        from PIL import Image

        if isinstance(self.payload, Image.Image):
            return _turned(self.payload)
        with Image.open(io.BytesIO(self.payload) if isinstance(self.payload, bytes) else self.payload) as image:
            return _turned(image)

    def header(self) -> tuple[str, bool]:
        """The Pillow mode as it is stored, e.g. `I;16`, and whether there are several pages or frames.

        Raises:
            OSError: the file is missing, or is no image.
        """
        from PIL import Image

        if isinstance(self.payload, Image.Image):
            return self.payload.mode, bool(getattr(self.payload, "is_animated", False))
        with Image.open(io.BytesIO(self.payload) if isinstance(self.payload, bytes) else self.payload) as image:
            return image.mode, bool(getattr(image, "is_animated", False))

    def _load(self, pil: Any) -> Image.Image:
        if isinstance(self.payload, bytes):
            return _decoded(pil.open(io.BytesIO(self.payload)))
        if isinstance(self.payload, Path):
            with pil.open(self.payload) as image:
                return _decoded(image)
        return self.payload


def _decoded(image: Image.Image) -> Image.Image:
    """Decode the first page, unless the header says that it is too large or takes another program."""
    if image.format == "EPS":
        raise OSError("EPS, which Ghostscript would run as a program: convert it to PNG")
    width, height = image.size
    if width * height > LARGEST_IMAGE:
        raise OSError(f"{width}x{height} pixels are more than {LARGEST_IMAGE}: make it smaller")
    image.load()
    return image


def _turned(image: Image.Image) -> tuple[int, int]:
    """The size of an image after the turn that its metadata ask for."""
    width, height = image.size
    return (height, width) if image.getexif().get(ORIENTATION, 1) in SIDEWAYS else (width, height)


class ImageSize(NamedTuple):
    """An image as it comes, as the model sees it, and the image tokens it takes."""

    width: int
    height: int
    new_width: int
    new_height: int
    tokens: int

    def __str__(self) -> str:
        resized = f" resized to {self.new_width}x{self.new_height}" if self[:2] != self[2:4] else ""
        return f"image of {self.width}x{self.height} pixels{resized}"


@dataclass(frozen=True)
class Problem:
    """One question with its images and its gold answer.

    Attributes:
        id: stable and unique in a run; seeds, rollout files and reports refer to it.
        question: the text, with one `<image>` where each image stands.
        images: in the order of their placeholders.
        answer: the gold answer.
        kind: how the answer is compared (see `rewards.verify`).
        choices: the options of a multiple-choice problem, in the order A, B, C, ...
        task: what per-task accuracy is grouped by.
        source: where it came from, e.g. `geometry3k/train.jsonl:12`.
        facts: anything else the source knows, e.g. the intermediate values of a generated problem.
        system: the system's turn of a chat; empty leaves it to `data.system_prompt`.
        dataset: which of `data.sources` it is of; empty without them.
    """

    id: str
    question: str
    images: tuple[ProblemImage, ...]
    answer: str
    kind: AnswerKind = "math"
    choices: tuple[str, ...] = ()
    task: str = "all"
    source: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""
    dataset: str = ""


@dataclass(frozen=True, eq=False)
class Prompt:
    """A problem as the model gets it, made by ONE processor call (`vlm.processing`).

    Attributes:
        ids: un-expanded token ids, one placeholder token per image: what vLLM wants.
        expanded_ids: (P,) int64, each placeholder repeated once per merged image token.
        image_positions: (P,) bool, True where an image token stands.
        vision: what the model's family made of the images and of the positions; only the family reads it.
        images: the N resized images, in the order of their placeholders.
    """

    problem: Problem
    ids: list[int]
    expanded_ids: torch.Tensor
    image_positions: torch.Tensor
    vision: VisionInputs
    images: tuple[Image.Image, ...] = ()

    def __len__(self) -> int:
        return int(self.expanded_ids.numel())

    @property
    def patches(self) -> int:
        """Patches that the vision tower still has to encode; 0 without images, or with their features."""
        return self.vision.patches


@dataclass(frozen=True)
class RewardRecord:
    """What a completion earned and why.

    Attributes:
        extracted: the answer read out of the response, None if there is none.
        method: the extraction rule that found it, e.g. `boxed`.
        gold: the answer it was compared with.
        why: one phrase for a person, e.g. `equal as numbers`.
        parts: each reward term before its weight, e.g. `{"accuracy": 1.0, "format": 0.0}`.
        total: the weighted sum, which the advantages are computed from.
    """

    extracted: str | None
    method: str
    gold: str
    verdict: Verdict
    why: str
    parts: Mapping[str, float]
    total: float


@dataclass(eq=False)
class Completion:
    """One response and everything that later phases find out about it.

    Attributes:
        ids: R generated ids, the stop token included if one was sampled.
        logprobs: R log-probs of those ids under the distribution they were sampled from.
        text: the response without its stop token.
        reward: set by `rewards`.
        planning: (R,) bool, the planning tokens, which credit is assigned by.
        planning_tags: all that the search for planning tokens found, set by the trainer together with `planning`.
        placebo: (R,) bool, tokens of random n-grams, set where the method asks for them.
        entropy: (R,) float32 nats under the policy that sampled, set by the trainer: ahead of credit where the method
            asks for it, else by the update's first forward pass.
        masked: whether it is left out of the loss (`train.mask_truncated`), set by the trainer; its reward still counts
            in the advantages of its group.
        base_advantage: A, the response's own advantage before planning tokens are amplified, set by `hicra.credit`.
        advantages: (R,) float32, set by `hicra.credit`; zeros if it is masked.
        old_logprobs: (R,) float32 under the policy before the first update, set by the trainer: ahead of the update
            when it needs them, else by the update's own forward pass.
        reference_logprobs: (R,) float32 under the reference policy, likewise.
    """

    ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    text: str
    reward: RewardRecord | None = None
    planning: torch.Tensor | None = None
    planning_tags: PlanningTags | None = None
    placebo: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    masked: bool = False
    base_advantage: float | None = None
    advantages: torch.Tensor | None = None
    old_logprobs: torch.Tensor | None = None
    reference_logprobs: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(eq=False)
class Group:
    """One prompt and its G completions.

    Attributes:
        place: its number among the groups that its step keeps, over all ranks and in the order of their problems, set
            by the trainer; None if it is not kept.
    """

    prompt: Prompt
    completions: list[Completion]
    place: int | None = None

    @property
    def trained(self) -> list[Completion]:
        """The completions that the loss is computed on: all but the masked ones."""
        return [completion for completion in self.completions if not completion.masked]

    def rewards(self) -> list[float]:
        """The G total rewards.

        Raises:
            ValueError: a completion has not been scored.
        """
        totals = [c.reward.total for c in self.completions if c.reward is not None]
        if len(totals) != len(self.completions):
            raise ValueError(f"group of problem {self.prompt.problem.id}: not every completion is scored")
        return totals
