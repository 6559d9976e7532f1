"""The question of a problem: its text, and one `<image>` where each image stands.

`<image1>` and `<image 1>` become `<image>`, the images following their numbers. A question with images and no
placeholder gets its images in front. Any other difference between placeholders and images is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmhicra.core.errors import DataError
from mmhicra.core.records import IMAGE_PLACEHOLDER, ProblemImage

_MARK = re.compile(r"<\|?[ ]?image[ _:#-]?(\d*)[ ]?\|?>(?:\s*</image>)?", re.IGNORECASE)
"""`<image>`, `<image1>`, `<image 1>`, `<Image_1>`, `<image:1>`, `< image >`, `<|image_1|>`, `<image></image>`."""
_STRANGE_MARK = re.compile(
    r"""(?:<\|?|&lt;\s?)(?:image|img)[ _-]?(?:\d*|here|placeholder|token|pad)(?:\|?>|\s?&gt;) | </?img\b[^>]{0,500}>
    | !\[[^\]]{0,200}\]\([^)\n]{0,500}\)
    | (?<![A-Za-z])[\[{]{1,2}(?:image|img)[ _-]?(?:\d*|here|placeholder)[\]}]{1,2}""",
    re.IGNORECASE | re.VERBOSE,
)
"""Placeholders of other tools, which would stay in the question as text."""
_MOVING_MARK = re.compile(r"<\|?(video|audio|sound|speech)[ _-]?(?:\d*|pad|placeholder)\|?>", re.IGNORECASE)
_ONE_QUESTION = re.compile(r"(system )*user( assistant)?")


def without_placeholders(text: str) -> str:
    """The text that is left of a question without its images."""
    return _MARK.sub("", text).strip()


def refuse_strange_marks(text: str) -> None:
    """Refuse a question with a placeholder that would stay as text: of a video or audio, or of another tool.

    Raises:
        DataError: names the placeholder.
    """
    if moving := _MOVING_MARK.search(text):
        what = "a video" if moving[1].lower() == "video" else "audio"
        raise DataError(f"row has {what}: {moving[0]} in the question; mmhicra trains on images only")
    strange = _STRANGE_MARK.search(text)
    if strange and not _MARK.search(text):
        raise DataError(
            f"placeholders unlike images: {strange[0][:60]} in the question; write <image> where each image stands"
        )


def read_chat(messages: Any, images: Any) -> tuple[str, Any, str | None]:
    """A chat as its question with placeholders, its images, and the assistant turn at its end, if there is one.

    A system turn is written in front of the question. Images that a turn carries take the place of `images`.

    Raises:
        DataError: there is more than one question, or a turn holds something else than text and images.
    """
    if not isinstance(messages, list) or not all(isinstance(turn, Mapping) for turn in messages):
        raise DataError("messages unreadable: not a list of turns with a role and a content")
    messages = [_turn(turn) for turn in messages]
    roles = [str(turn.get("role")) for turn in messages]
    if not _ONE_QUESTION.fullmatch(" ".join(roles)):
        said = ", ".join(roles[:6]) or "none"
        raise DataError(f"messages unreadable: turns {said}; write system (or not), user, assistant (or not)")
    carried: list[Any] = []
    parts = [_turn_text(turn, carried) for turn in messages if turn["role"] != "assistant"]
    reply = _turn_text(messages[-1], []) if roles[-1] == "assistant" else None
    return "\n\n".join(part for part in parts if part), carried or images, reply


_SPEAKERS = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}


def _turn(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """A turn with `role` and `content`; LLaVA and ShareGPT write `from` and `value`."""
    if turn.get("role") is not None or turn.get("from") is None:
        return turn
    said = str(turn["from"])
    return {"role": _SPEAKERS.get(said, said), "content": turn.get("value")}


def _turn_text(turn: Mapping[str, Any], images: list[Any]) -> str:
    """A turn's text, an image item as a placeholder; images that items carry are appended to `images`."""
    content = turn.get("content")
    if isinstance(content, str):
        return content.strip()
    if content is not None and not isinstance(content, list | tuple):
        raise DataError(f"messages unreadable: a content that is a {type(content).__name__}, neither text nor a list")
    text = ""
    for item in content or []:
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind == "text":
            said = item.get("text") or ""
            if not isinstance(said, str):
                raise DataError(f"messages unreadable: a text that is a {type(said).__name__}")
            text += said
        elif kind in ("image", "image_url"):
            text += IMAGE_PLACEHOLDER
            images += _carried(item)
        elif isinstance(kind, str) and ("video" in kind or "audio" in kind):
            what = "a video" if "video" in kind else "audio"
            raise DataError(f"row has {what}: an item of type {kind[:40]}; mmhicra trains on images only")
        else:
            raise DataError(f"messages unreadable: an item of type {kind}, neither text nor image")
    return text.strip()


def _carried(item: Mapping[str, Any]) -> list[Any]:
    """The image an item brings along; none if it only says where an image of the row goes."""
    cells = [item.get(key) for key in ("image", "image_url", "url", "path")]
    cells = [cell["url"] if isinstance(cell, Mapping) and "url" in cell else cell for cell in cells]
    return [cell for cell in cells if cell is not None][:1]


def place_images(
    text: str, images: Sequence[ProblemImage], *, merged: bool = False
) -> tuple[str, tuple[ProblemImage, ...]]:
    """One `<image>` for each image, the images in the order of their placeholders; numbered ones may repeat.

    Raises:
        DataError: placeholders and images do not correspond.
    """
    marks = _MARK.findall(text)
    if images and not marks:
        return IMAGE_PLACEHOLDER * len(images) + "\n" + text, tuple(images)
    if merged and len(images) == 1 and len(marks) > 1 and all(marks):
        return f"{IMAGE_PLACEHOLDER}\n{text}", tuple(images)
    if any(marks) and not all(marks):
        raise DataError("placeholders unlike images: <image> beside numbered ones; write one kind")
    if not any(marks):
        if len(marks) != len(images):
            raise DataError(f"placeholders unlike images: {len(marks)} placeholders, {len(images)} images")
        return _MARK.sub(IMAGE_PLACEHOLDER, text), tuple(images)
    numbers = [int(mark) for mark in marks]
    if set(numbers) != set(range(1, len(images) + 1)):
        named = ", ".join(f"<image{number}>" for number in sorted(set(numbers)))
        raise DataError(f"placeholders unlike images: {named} named, {len(images)} images")
    return _MARK.sub(IMAGE_PLACEHOLDER, text), tuple(images[number - 1] for number in numbers)
