"""Problem -> Prompt: the one place where images are resized and the one call of the processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from PIL import Image, UnidentifiedImageError
from qwen_vl_utils import fetch_image
from qwen_vl_utils import smart_resize as utils_resize
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from mmhicra.config import DataConfig
from mmhicra.core.errors import ConfigError, DataError, UserError
from mmhicra.core.records import IMAGE_PLACEHOLDER, Problem, ProblemImage, Prompt
from mmhicra.core.vision_inputs import ImageSize
from mmhicra.vlm.chat import ChatTemplateError, render_chat, template_arguments, template_of
from mmhicra.vlm.family import Family
from mmhicra.vlm.special_tokens import control_texts

Read = TypeVar("Read")

SWITCHES = {"enable_thinking": False, "no_think": True}
"""What chat templates call the argument that says whether a model thinks before it answers, and which value says no."""

UTILS_MERGE_SIZE = 2
"""qwen-vl-utils takes a patch size and assumes this merge size."""


@dataclass(frozen=True)
class PromptSize:
    """The length of a prompt before it is built."""

    text_tokens: int
    images: tuple[ImageSize, ...]

    @property
    def image_tokens(self) -> int:
        """Of all images."""
        return sum(image.tokens for image in self.images)

    @property
    def tokens(self) -> int:
        """P."""
        return self.text_tokens + self.image_tokens


class PromptBuilder:
    """Builds prompts for one model and one set of data options.

    Args:
        processor: the model's transformers processor, with its chat template.
        family: the model's family.
        model_config: the model's transformers configuration.
        data: instruction, system prompt and limits.

    Raises:
        ConfigError: the instruction or the system prompt contains a control token, the template refuses one, or
            does not read an argument of `data.chat_template_kwargs`.
        UserError: the model's chat template raises or does not end.
    """

    def __init__(self, processor: Any, family: Family, model_config: PreTrainedConfig, data: DataConfig) -> None:
        self.processor = processor
        self.family = family
        self.model_config = model_config
        self.data = data
        self.limits = {"min_pixels": data.min_pixels, "max_pixels": data.max_pixels}
        self.factor = family.image_factor(model_config)
        banned = family.banned_token_ids(processor.tokenizer, model_config)
        self.control_texts = control_texts(processor.tokenizer, banned)
        self.instructions = {name: part.instruction for name, part in data.parts().items()}
        texts = [("instruction", text) for text in (data.instruction, *self.instructions.values())]
        for field, text in [*texts, ("system_prompt", data.system_prompt or "")]:
            if token := self._control_in(text):
                raise ConfigError(f"data.{field} contains the control token {token}: take it out")
        self.template_kwargs, self.suffix = self._chat_options()
        self._try_template(str(getattr(model_config, "_name_or_path", "")))

    def build(self, problem: Problem) -> Prompt:
        """Lay `problem` out as the model's chat, its images where the question names them.

        Ids, grid and positions equal those of the stock processor on the raw images with the same pixel limits, and of
        the model's own `get_rope_index`. One exception: an image thinner than half an image token keeps its length
        here, as in Qwen's own qwen-vl-utils pipeline, where the stock processor alone would shrink it.

        Raises:
            DataError: the prompt cannot be built; names the problem, the cause and the way to mend it.
        """
        chat = self._chat(problem, self._pieces(problem))
        images, sizes = [], []
        for source in problem.images:
            image = self._opened(problem, source, ProblemImage.open)
            images.append(self._resized(problem, source, image))
            sizes.append(self._size(image.size, images[-1].size))
        return self._process(problem, chat, images, sizes)

    def check(self, problem: Problem, sizes: list[ImageSize] | None = None) -> None:
        """Refuse what `build` would refuse, but leave pixels alone: image sizes are read from their headers.

        The sizes of a good problem's images are appended to `sizes`.

        Raises:
            DataError: like `build`.
        """
        size = self.measure(problem)
        self._refuse_long(problem, size.tokens, size.image_tokens)
        if sizes is not None:
            sizes += size.images

    def measure(self, problem: Problem) -> PromptSize:
        """How long the prompt of `problem` is, however long; image sizes are read from their headers.

        Raises:
            DataError: like `build`, but never for its length.
        """
        chat = self._chat(problem, self._pieces(problem))
        raw = [self._opened(problem, image, ProblemImage.size) for image in problem.images]
        targets = [self._target_size(problem, image, *size) for image, size in zip(problem.images, raw, strict=True)]
        text_tokens = len(self.processor.tokenizer(chat, add_special_tokens=False)["input_ids"]) - len(targets)
        images = (self._size(size, (width, height)) for size, (height, width) in zip(raw, targets, strict=True))
        return PromptSize(text_tokens, tuple(images))

    def _size(self, raw: tuple[int, int], resized: tuple[int, int]) -> ImageSize:
        return ImageSize(*raw, *resized, resized[0] * resized[1] // self.factor**2)

    def _pieces(self, problem: Problem) -> list[str]:
        """The question's text around its images."""
        pieces = problem.question.split(IMAGE_PLACEHOLDER)
        if len(pieces) - 1 != len(problem.images):
            raise _refusal(
                problem,
                f"{len(pieces) - 1} {IMAGE_PLACEHOLDER} in the question but {len(problem.images)} images: "
                "give each image one placeholder",
            )
        for what, text in (("question", problem.question), ("system turn", problem.system)):
            if token := self._control_in(text):
                raise _refusal(problem, f"the {what} contains the control token {token}: take it out")
        return pieces

    def _chat_options(self) -> tuple[dict[str, Any], str]:
        """What the template is given beside the chat, and what ends the question: a family's way not to think."""
        given = dict(self.data.chat_template_kwargs)
        if not given:
            return {}, ""
        try:
            read = template_arguments(template_of(self.processor), self.processor)
        except ChatTemplateError:
            return given, ""  # `_try_template` says what is wrong with it
        suffix = ""
        if self.family.no_think and not SWITCHES.keys() & set(read):
            switches = {name: given.pop(name) for name in SWITCHES if name in given}
            if odd := [name for name, value in switches.items() if not isinstance(value, bool)]:
                raise ConfigError(f"data.chat_template_kwargs: {odd[0]} must be true or false for this model")
            read = sorted({*read, *SWITCHES})
            suffix = self.family.no_think if any(switches[name] == SWITCHES[name] for name in switches) else ""
        if unread := [name for name in given if name not in read]:
            known = f"it reads {', '.join(read)}" if read else "it reads none"
            raise ConfigError(
                f"data.chat_template_kwargs: the model's chat template does not read {', '.join(unread)}: {known}"
            )
        return given, suffix

    def _control_in(self, text: str) -> str | None:
        return next((token for token in self.control_texts if token in text), None)

    def _resized(self, problem: Problem, source: ProblemImage, image: Image.Image) -> Image.Image:
        """Resize an image such that the image processor's own resize leaves it as it is."""
        self._target_size(problem, source, *image.size)
        element: Any = {"image": image, **self.limits}
        return fetch_image(element, image_patch_size=self.factor // UTILS_MERGE_SIZE)

    def _opened(self, problem: Problem, source: ProblemImage, read: Callable[[ProblemImage], Read]) -> Read:
        try:
            return read(source)
        except UnidentifiedImageError:
            raise _refusal(
                problem, f"image {source.reference} cannot be read: not in an image format that Pillow knows"
            ) from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = getattr(error, "strerror", None) or error
            raise _refusal(problem, f"image {source.reference} cannot be read: {reason}") from None

    def _target_size(self, problem: Problem, source: ProblemImage, width: int, height: int) -> tuple[int, int]:
        """(height, width) an image is resized to, by the rules of qwen-vl-utils."""
        where = f"image {source.reference} ({width}x{height})"
        try:
            target = utils_resize(height, width, self.factor, **self.limits)
        except (ValueError, ZeroDivisionError) as error:
            raise _refusal(problem, f"{where} cannot be resized: {error}") from None
        # qwen-vl-utils may round a thin image away, or leave it outside the limits.
        if 0 in target or smart_resize(*target, self.factor, **self.limits) != target:
            raise _refusal(
                problem,
                f"{where} fits no multiple of {self.factor} pixels between data.min_pixels "
                f"({self.data.min_pixels}) and data.max_pixels ({self.data.max_pixels}): widen them",
            )
        return target

    def _chat(self, problem: Problem, pieces: Sequence[str]) -> str:
        """The rendered chat up to where the response begins; the instruction stands on a line of its own."""
        *before, last = pieces
        instruction = self.instructions.get(problem.dataset, self.data.instruction)
        last = "\n".join(text for text in (last, instruction) if text)
        last = f"{last} {self.suffix}".strip() if self.suffix else last
        content: list[dict[str, str]] = []
        for piece in before:
            content += [*_text(piece), {"type": "image"}]
        content += _text(last)
        try:
            chat = self._render(content, problem.system or self.data.system_prompt)
        except ChatTemplateError as error:
            raise _refusal(problem, f"the model's chat template fails on it: {error}") from None
        shown = chat.count(self.processor.image_token)
        if shown != len(before):
            raise _refusal(
                problem, f"the model's chat template shows {shown} of {len(before)} images: use a vision template"
            )
        return chat

    def _render(self, content: list[dict[str, str]], system: str | None) -> str:
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        return render_chat(self.processor, messages, add_generation_prompt=True, **self.template_kwargs)

    def _try_template(self, path: str) -> None:
        """Refuse a template that cannot render any question, once instead of for every problem."""
        content = [{"type": "image"}, *_text("How many?")]
        try:
            self._render(content, self.data.system_prompt)
        except ChatTemplateError as error:
            try:
                self._render(content, None)
            except ChatTemplateError:
                advice = "fetch chat_template.jinja of this very model again"
                raise UserError(
                    f"model.path {path}: its chat template cannot be rendered ({error}): {advice}"
                ) from None
            raise ConfigError(f"data.system_prompt: the model's chat template refuses it ({error}): drop it") from None

    def _process(
        self, problem: Problem, chat: str, images: Sequence[Image.Image], sizes: Sequence[ImageSize]
    ) -> Prompt:
        limits = {"shortest_edge": self.data.min_pixels, "longest_edge": self.data.max_pixels}
        encoded = self.processor(
            text=[chat],
            images=list(images) or None,
            images_kwargs={"size": limits},
            return_tensors="pt",
        )
        ids: Tensor = encoded["input_ids"][0]
        # The question holds no image token, so every one here was put there by the processor.
        image_positions = ids == self.processor.image_token_id
        self._refuse_long(problem, len(ids), int(image_positions.sum()))
        return Prompt(
            problem=problem,
            ids=_unexpanded(ids, image_positions, [size.tokens for size in sizes]),
            expanded_ids=ids,
            image_positions=image_positions,
            vision=self.family.vision_inputs(encoded, image_positions, sizes, self.processor),
            images=tuple(images),
        )

    def _refuse_long(self, problem: Problem, tokens: int, image_tokens: int) -> None:
        if tokens > self.data.max_prompt_tokens:
            raise _refusal(
                problem,
                f"{tokens} prompt tokens, {image_tokens} of them image, exceed data.max_prompt_tokens "
                f"({self.data.max_prompt_tokens}): raise it or lower data.max_pixels",
            )


def warn_of_shrinking(sizes: Sequence[ImageSize], data: DataConfig) -> str | None:
    """A line if more than half of the images are made smaller, which the pixel limits of another data set do."""
    shrunk = [size for size in sizes if size.width * size.height > data.max_pixels]
    if 2 * len(shrunk) <= len(sizes):
        return None
    middle = sorted(size.width * size.height for size in shrunk)[len(shrunk) // 2]
    return (
        f"{len(shrunk)} of {len(sizes)} images have more pixels than data.max_pixels ({data.max_pixels}) and are "
        f"shrunk, in the median from {middle}: raise it if details matter"
    )


def _unexpanded(ids: Tensor, image_positions: Tensor, counts: Sequence[int]) -> list[int]:
    """`ids` with the tokens of each image, so many of them, reduced to its first."""
    keep = ~image_positions
    for tokens in image_positions.nonzero()[:, 0].split(list(counts)):
        keep[tokens[0]] = True
    return ids[keep].tolist()


def _text(piece: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": piece}] if piece else []


def _refusal(problem: Problem, reason: str) -> DataError:
    where = f" ({problem.source})" if problem.source else ""
    return DataError(f"problem {problem.id}{where}: {reason}")
