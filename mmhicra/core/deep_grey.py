"""Grey images of more than 8 bits (medical and scientific pictures) as 8-bit grey, which is what a model takes.

Pillow's own conversion clips at 255: almost every pixel of a 16-bit picture becomes white, and a float picture from
0 to 1 becomes black. Here values are scaled by the range that the picture uses:

* integers from 0 on: by the largest number of the fewest bits, at least 8, that hold the brightest pixel. So 12-bit
  values stored in 16 bits fill the range, and a 16-bit picture is divided by 257;
* floats within 0 and 1: by 1; within 0 and 255: as they are;
* anything else, e.g. Hounsfield units, which are negative: from the darkest to the brightest pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

ROUNDING = 1e-3
"""How far above 1 a float picture may go and still count as one from 0 to 1."""
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
"""The TIFF tag that says what 0 means. Pillow heeds it for 8 bits and ignores it for more."""


def is_deep(mode: str) -> bool:
    """Whether a Pillow mode holds grey of more than 8 bits: `I;16` in any byte order, `I` and `F`."""
    return mode in ("I", "F") or mode.startswith("I;")


def is_inverted(image: Image.Image) -> bool:
    """Whether the TIFF file of a deep image counts from white to black."""
    tags: Any = getattr(image, "tag_v2", None) or {}
    return tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def to_eight_bits(image: Image.Image, inverted: bool = False) -> Image.Image:
    """The same picture in mode `L`, scaled as described above; a transparent grey value becomes white.

    Raises:
        OSError: a pixel is not a finite number.
    """
    from PIL import Image

    values = np.asarray(image)
    grey = scale_grey(values)
    if inverted:
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey = np.where(values == transparent, np.uint8(255), grey)
    return Image.fromarray(grey)


def scale_grey(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values of any type -> 0 to 255, of the same shape.

    Raises:
        OSError: a value is not a finite number.
    """
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise OSError("it has pixels that are not finite numbers")
    if not wide.size:
        return wide.astype(np.uint8)
    low, high = float(wide.min()), float(wide.max())
    if low >= 0 and np.issubdtype(values.dtype, np.integer):
        low, high = 0.0, float(2 ** max(8, int(high).bit_length()) - 1)
    elif low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 + ROUNDING else 255.0
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.round((wide - low) * scale).clip(0, 255).astype(np.uint8)
