"""Thumbnails of a run's images, found again by the references in its rollout files."""

from __future__ import annotations

import base64
import importlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.Image import DecompressionBombError

from mmhicra.analysis.errors import GENERATORS
from mmhicra.core.errors import UserError
from mmhicra.report.folder import RunData

FOLDERS = ("image_folder", "source", "eval_source")
"""Settings of a source that say where images lie."""
SIDE = 256
"""Pixels of the longer side of a thumbnail."""
BUDGET = 5_000_000
"""Bytes of all thumbnails."""
UNREADABLE = (OSError, ValueError, LookupError, TypeError, SyntaxError, UserError, DecompressionBombError)
"""The errors that finding and decoding an image may raise."""


class Pictures:
    """Finds images, makes them small, and counts those it cannot show.

    Args:
        run: whose images.
        known: thumbnails that were made before, by reference.

    Attributes:
        data: reference -> data URL.
        absent: reference -> why it is not shown.
    """

    def __init__(self, run: RunData, known: Mapping[str, str]) -> None:
        self.known = known
        self.data: dict[str, str] = {}
        self.absent: dict[str, str] = {}
        self.spent = 0
        self._folders = image_folders(run)

    def add(self, record: dict[str, Any]) -> None:
        """Find the images of one group."""
        for place, reference in enumerate(record.get("images", [])):
            if reference in self.data or reference in self.absent:
                continue
            if self.spent >= BUDGET:
                self.absent[reference] = f"the page holds no more than {BUDGET // 10**6} MB of images"
                continue
            try:
                url = self.known.get(reference) or thumbnail(self._find(record, place, reference))
            except UNREADABLE as error:
                self.absent[reference] = str(error) or type(error).__name__
                continue
            self.data[reference] = url
            self.spent += len(url)

    def _find(self, record: dict[str, Any], place: int, reference: str) -> Image.Image:
        generator = GENERATORS.get(record["prompt"].split("/")[0])
        if generator:
            problem = importlib.import_module(generator).regenerate(record["prompt"], record["task"])
            if problem.question != record["question"]:
                raise ValueError("this version of mmhicra draws another problem under that id")
            return problem.images[place].open()
        for folder in self._folders:
            if (folder / reference).is_file():
                with Image.open(folder / reference) as image:
                    return image.convert("RGB")
        raise FileNotFoundError(
            f"no file {reference} under {', '.join(map(str, self._folders)) or 'data.image_folder'}"
        )


def image_folders(run: RunData) -> list[Path]:
    """The folders that the run's image paths may start from."""
    sources = [{name: run.setting("data", name) for name in FOLDERS}, *(run.setting("data", "sources") or ())]
    named = [source.get(name) for source in sources for name in FOLDERS]
    paths = [Path(name) for name in named if isinstance(name, str) and name and "\0" not in name]
    return [path if path.is_dir() else path.parent for path in paths if path.exists()]


def thumbnail(image: Image.Image) -> str:
    """A small WebP as a data URL; a small drawing stays as sharp as it is."""
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
