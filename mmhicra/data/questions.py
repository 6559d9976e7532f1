"""The question of a problem: its text, its choices, and one `<image>` where each image stands.

`<image1>` and `<image 1>` become `<image>`, the images following their numbers. A question with images and no
placeholder gets its images in front. Any other difference between placeholders and images is refused.

Choices are written after the question as `(A) 5 (B) 14`, unless it lists them already or they are bare
letters, which are drawn in the image.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from mmhicra.records import IMAGE_PLACEHOLDER, ProblemImage
from mmhicra.refusals import DataRefusal

_MARK = re.compile(r"<image ?(\d*)>")
_LABEL = re.compile(r"(?:\(([A-Z])\)|([A-Z])[.):])\s*(.*)|([A-Z])", re.DOTALL)
"""A choice that brings its own letter: `(A) 5`, `A. 5`, `A)`, `A`."""
_ONE_QUESTION = re.compile(r"(system )*user( assistant)?")


def without_placeholders(text: str) -> str:
    """The text that is left of a question without its images."""
    return _MARK.sub("", text).strip()


def read_chat(messages: Any, images: Any) -> tuple[str, Any, str | None]:
    """A chat as its question with placeholders, its images, and the assistant turn at its end, if there is one.

    A system turn is written in front of the question. Images that a turn carries take the place of `images`.

    Raises:
        DataRefusal: there is more than one question, or a turn holds something else than text and images.
    """
    if not isinstance(messages, list) or not all(isinstance(turn, Mapping) for turn in messages):
        raise DataRefusal("messages unreadable: not a list of turns with a role and a content")
    roles = [str(turn.get("role")) for turn in messages]
    if not _ONE_QUESTION.fullmatch(" ".join(roles)):
        said = ", ".join(roles[:6]) or "none"
        raise DataRefusal(f"messages unreadable: turns {said}; write system (or not), user, assistant (or not)")
    carried: list[Any] = []
    parts = [_turn_text(turn, carried) for turn in messages if turn["role"] != "assistant"]
    reply = _turn_text(messages[-1], []) if roles[-1] == "assistant" else None
    return "\n\n".join(part for part in parts if part), carried or images, reply


def _turn_text(turn: Mapping[str, Any], images: list[Any]) -> str:
    """A turn's text, an image item as a placeholder; images that items carry are appended to `images`."""
    content = turn.get("content")
    if isinstance(content, str):
        return content.strip()
    text = ""
    for item in content or []:
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind == "text":
            text += item.get("text") or ""
        elif kind in ("image", "image_url"):
            text += IMAGE_PLACEHOLDER
            images += _carried(item)
        else:
            raise DataRefusal(f"messages unreadable: an item of type {kind}, neither text nor image")
    return text.strip()


def _carried(item: Mapping[str, Any]) -> list[Any]:
    """The image an item brings along; none if it only says where an image of the row goes."""
    cells = [item.get(key) for key in ("image", "image_url", "url", "path")]
    cells = [cell["url"] if isinstance(cell, Mapping) and "url" in cell else cell for cell in cells]
    return [cell for cell in cells if cell is not None][:1]


def read_choices(cell: Any) -> tuple[str, ...]:
    """The choices without their own letters (`A. 5` -> `5`); one that is nothing but its letter keeps it.

    Raises:
        DataRefusal: the cell is no list, or an entry is empty.
    """
    if cell is None:
        return ()
    if isinstance(cell, Mapping):  # {"A": "5", "B": "14"}; Arrow fills up letters a row does not have with None
        cell = [cell[letter] for letter in sorted(cell) if cell[letter] is not None]
    if not isinstance(cell, list | tuple):
        raise DataRefusal(f"choices unreadable: a {type(cell).__name__}, not a list")
    if len(cell) > len(string.ascii_uppercase):
        raise DataRefusal(f"choices unreadable: {len(cell)} of them, more than there are letters")
    choices = ["" if choice is None else str(choice).strip() for choice in cell]
    if "" in choices:
        raise DataRefusal(f"choices unreadable: choice {string.ascii_uppercase[choices.index('')]} is empty")
    labels = [_LABEL.fullmatch(choice) for choice in choices]
    own = [match and (match[1] or match[2] or match[4]) for match in labels]
    if own != list(string.ascii_uppercase[: len(choices)]):
        return tuple(choices)
    return tuple(
        (match[3] if match else "") or letter for match, letter in zip(labels, string.ascii_uppercase, strict=False)
    )


def write_choices(text: str, choices: Sequence[str]) -> str:
    """Put the choices after the question as `(A) 5 (B) 14`, unless it lists them or they are bare letters."""
    if not choices or list(choices) == list(string.ascii_uppercase[: len(choices)]):
        return text
    written = [f"({letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False)]
    return text if all(choice in text for choice in written) else f"{text}\n{' '.join(written)}"


def place_images(
    text: str, images: Sequence[ProblemImage], *, merged: bool = False
) -> tuple[str, tuple[ProblemImage, ...]]:
    """One `<image>` for each image, the images in the order of their placeholders; numbered ones may repeat.

    Raises:
        DataRefusal: placeholders and images do not correspond.
    """
    marks = _MARK.findall(text)
    if images and not marks:
        return IMAGE_PLACEHOLDER * len(images) + "\n" + text, tuple(images)
    if merged and len(images) == 1 and len(marks) > 1 and all(marks):
        return f"{IMAGE_PLACEHOLDER}\n{text}", tuple(images)
    if any(marks) and not all(marks):
        raise DataRefusal("placeholders unlike images: <image> beside numbered ones; write one kind")
    if not any(marks):
        if len(marks) != len(images):
            raise DataRefusal(f"placeholders unlike images: {len(marks)} placeholders, {len(images)} images")
        return _MARK.sub(IMAGE_PLACEHOLDER, text), tuple(images)
    numbers = [int(mark) for mark in marks]
    if set(numbers) != set(range(1, len(images) + 1)):
        named = ", ".join(f"<image{number}>" for number in sorted(set(numbers)))
        raise DataRefusal(f"placeholders unlike images: {named} named, {len(images)} images")
    return _MARK.sub(IMAGE_PLACEHOLDER, text), tuple(images[number - 1] for number in numbers)
