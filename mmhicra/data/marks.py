"""Placeholders of other tools, e.g. `[IMAGE]` or `<|vision_start|><|image_pad|><|vision_end|>`, as `<image>`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmhicra.core.records import IMAGE_PLACEHOLDER, ProblemImage

MARK = re.compile(r"<\|?[ ]?image[ _:#-]?(\d*)[ ]?\|?>(?:\s*</image>)?", re.IGNORECASE)
"""`<image>`, `<image1>`, `<image 1>`, `<Image_1>`, `<image:1>`, `< image >`, `<|image_1|>`, `<image></image>`."""
STRANGE_MARK = re.compile(
    r"""(?:<\|vision_start\|>)?(?:<\|image_pad\|>)+(?:<\|vision_end\|>)? | <\|vision_start\|><\|vision_end\|>
    | (?:<\|?|&lt;\s?)(?:image|img)[ _-]?(?P<angle>\d*)(?:here|placeholder|token|pad)?(?:\|?>|\s?&gt;)
    | </?img\b[^>]{0,500}>
    | !\[[^\]]{0,200}\]\((?P<file>[^)\n]{0,500})\)
    | (?<![A-Za-z])[\[{]{1,2}(?:image|img)[ _-]?(?P<square>\d*)(?:here|placeholder)?[\]}]{1,2}""",
    re.IGNORECASE | re.VERBOSE,
)
"""Placeholders of other tools; `<img src=...>` among them, which says nothing of an order."""
_NO_PLACE = re.compile(r"</|<img\b.*=", re.IGNORECASE)


def read_marks(text: str, images: Sequence[ProblemImage]) -> str:
    """The text with other tools' placeholders as `<image>`, or as `<image1>` where they are numbered or name files.

    The text stays as it is where it has a placeholder of our own already, or where these do not correspond to the
    images one by one: they may be what the text says.
    """
    found = list(STRANGE_MARK.finditer(text))
    if not found or MARK.search(text) or any(_NO_PLACE.match(mark[0]) for mark in found):
        return text
    written = [_written(mark, images) for mark in found]
    named = {place for place in written if place}
    right = named == set(range(1, len(images) + 1)) if all(written) else len(found) == len(images) and not named
    if not right or any(mark["file"] is not None and not place for mark, place in zip(found, written, strict=True)):
        return text
    places = iter(written)
    return STRANGE_MARK.sub(lambda mark: f"<image{next(places) or ''}>" if named else IMAGE_PLACEHOLDER, text)


def _written(mark: re.Match[str], images: Sequence[ProblemImage]) -> int:
    """The number of the image that a placeholder names, from 1; 0 if it names none."""
    if mark["file"] is not None:
        names = [_file_name(image.reference) for image in images]
        own = _file_name(mark["file"].split(" ")[0])
        return names.index(own) + 1 if names.count(own) == 1 else 0
    return int(mark["angle"] or mark["square"] or 0)


def _file_name(path: str) -> str:
    """The name of a file without its folders; of an embedded image `train.parquet:1#image1 (a.png)`, its own name."""
    path = path[path.rindex("(") + 1 : -1] if path.endswith(")") and "(" in path else path
    return re.split(r"[/\\]", path)[-1]
