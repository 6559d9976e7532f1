"""The question of a problem: its text, and one `<image>` where each image stands.

`<image1>` and `<image 1>` become `<image>`, the images following their numbers. A question with images and no
placeholder gets its images in front. Any other difference between placeholders and images is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmhicra.core.errors import DataError
from mmhicra.core.records import IMAGE_PLACEHOLDER, ProblemImage
from mmhicra.data.marks import MARK, STRANGE_MARK

_MOVING_MARK = re.compile(r"<\|?(video|audio|sound|speech)[ _-]?(?:\d*|pad|placeholder)\|?>", re.IGNORECASE)
_ONE_QUESTION = re.compile(r"(system )*user( assistant)?")


def without_placeholders(text: str) -> str:
    """The text that is left of a question without its images."""
    return MARK.sub("", text).strip()


def refuse_strange_marks(text: str) -> None:
    """Refuse a question with a placeholder that would stay as text: of a video or audio, or of another tool.

    Raises:
        DataError: names the placeholder.
    """
    if moving := _MOVING_MARK.search(text):
        what = "a video" if moving[1].lower() == "video" else "audio"
        raise DataError(f"row has {what}: {moving[0]} in the question; mmhicra trains on images only")
    strange = STRANGE_MARK.search(text)
    if strange and not MARK.search(text):
        raise DataError(
            f"placeholders unlike images: {strange[0][:60]} in the question; write <image> where each image stands"
        )


class Chat(NamedTuple):
    """A chat of one question.

    Attributes:
        question: the user's turn, with placeholders.
        images: the cells of its images.
        reply: the assistant's turn at its end, if there is one.
        system: the system's turn at its start, empty if there is none.
    """

    question: str
    images: Any
    reply: str | None = None
    system: str = ""


def read_chat(messages: Any, images: Any) -> Chat:
    """A list of turns, or an object of lists, as a chat of one question.

    Images that the user's turn carries take the place of `images`.

    Raises:
        DataError: there is more than one question, or a turn holds something else than text and images.
    """
    if isinstance(messages, Mapping):
        messages = _listed(messages)
    if not isinstance(messages, list) or not all(isinstance(turn, Mapping) for turn in messages):
        raise DataError("messages unreadable: not a list of turns with a role and a content")
    messages = [_turn(turn) for turn in messages]
    roles = [str(turn.get("role")) for turn in messages]
    if not _ONE_QUESTION.fullmatch(" ".join(roles)):
        said = ", ".join(roles[:6]) or "none"
        raise DataError(f"messages unreadable: turns {said}; write system (or not), user, assistant (or not)")
    carried: list[Any] = []
    question = next(_turn_text(turn, carried) for turn in messages if turn["role"] == "user")
    system = "\n\n".join(filter(None, (_turn_text(turn, []) for turn in messages if turn["role"] == "system")))
    if MARK.search(system):
        raise DataError("messages unreadable: an image in the system's turn; put it into the user's")
    reply = _turn_text(messages[-1], []) if roles[-1] == "assistant" else None
    return Chat(question, carried or images, reply, system)


_SPEAKERS = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "developer": "system"}


def _listed(turns: Mapping[str, Any]) -> Any:
    """The turns of `{"role": [...], "content": [...]}`, as Arrow keeps a sequence of objects."""
    columns = {key: cell for key, cell in turns.items() if isinstance(cell, list | tuple)}
    lengths = {len(cell) for cell in columns.values()}
    if len(columns) < len(turns) or len(lengths) != 1:
        return turns
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _turn(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """A turn with `role` and `content`; LLaVA and ShareGPT write `from` and `value`."""
    said = turn.get("role") if turn.get("role") is not None else turn.get("from")
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    return {"role": _SPEAKERS.get(str(said), str(said)), "content": content}


def reply_in(cell: Any) -> Any:
    """What the assistant says in a list of its one turn, as TRL keeps a completion; else the cell as it is."""
    if isinstance(cell, list) and len(cell) == 1 and isinstance(cell[0], Mapping) and {"role", "from"} & cell[0].keys():
        return _turn_text(_turn(cell[0]), [])
    return cell


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
    marks = MARK.findall(text)
    if images and not marks:
        return IMAGE_PLACEHOLDER * len(images) + "\n" + text, tuple(images)
    if merged and len(images) == 1 and len(marks) > 1 and all(marks):
        return f"{IMAGE_PLACEHOLDER}\n{text}", tuple(images)
    if any(marks) and not all(marks):
        raise DataError("placeholders unlike images: <image> beside numbered ones; write one kind")
    if not any(marks):
        if len(marks) != len(images):
            raise DataError(f"placeholders unlike images: {len(marks)} placeholders, {len(images)} images")
        return MARK.sub(IMAGE_PLACEHOLDER, text), tuple(images)
    numbers = [int(mark) for mark in marks]
    if set(numbers) != set(range(1, len(images) + 1)):
        named = ", ".join(f"<image{number}>" for number in sorted(set(numbers)))
        raise DataError(f"placeholders unlike images: {named} named, {len(images)} images")
    return MARK.sub(IMAGE_PLACEHOLDER, text), tuple(images[number - 1] for number in numbers)
