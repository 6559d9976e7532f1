"""Images in every encoding decode to the picture they hold; what cannot be shown is refused."""

import base64
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mmhicra.core.deep_grey import scale_grey
from mmhicra.core.errors import DataError
from mmhicra.core.records import LARGEST_IMAGE, Problem, ProblemImage
from mmhicra.data.images import read_images, refuse_broken_images

RAMP = np.tile(np.arange(256), (4, 1))
"""A grey ramp, 0 to 255, as every deep image of these tests should look."""


def saved(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def tiff_of(pixels: np.ndarray, photometric: int) -> bytes:
    """An uncompressed little-endian TIFF of one strip, with any photometric interpretation."""
    rows, columns = pixels.shape
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    entries = {256: columns, 257: rows, 258: pixels.itemsize * 8, 259: 1, 262: photometric, 273: 8, 277: 1, 278: rows}
    entries |= {279: pixels.nbytes, 339: kind}
    directory = b"".join(
        tag.to_bytes(2, "little") + (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
        for tag, value in sorted(entries.items())
    )
    head = b"II*\x00" + (8 + pixels.nbytes).to_bytes(4, "little")
    return head + pixels.tobytes() + len(entries).to_bytes(2, "little") + directory + bytes(4)


def sixteen(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint16))


DEEP = {
    "16-bit PNG": saved(sixteen(RAMP * 257), "PNG"),
    "16-bit TIFF": saved(sixteen(RAMP * 257), "TIFF"),
    "16-bit TIFF, big-endian": saved(Image.fromarray((RAMP * 257).astype(">u2")), "TIFF"),
    "16-bit PGM": b"P5 256 4 65535\n" + (RAMP * 257).astype(">u2").tobytes(),
    "12 bits in a 16-bit PNG": saved(sixteen(RAMP * 4095 // 255), "PNG"),
    "10 bits in a 16-bit PNG": saved(sixteen(RAMP * 1023 // 255), "PNG"),
    "8 bits in a 16-bit PNG": saved(sixteen(RAMP), "PNG"),
    "int32 TIFF": saved(Image.fromarray((RAMP * 257).astype(np.int32)), "TIFF"),
    "int32 TIFF below 0": saved(Image.fromarray((RAMP * 8 - 1024).astype(np.int32)), "TIFF"),
    "float TIFF, 0 to 1": saved(Image.fromarray((RAMP / 255).astype(np.float32)), "TIFF"),
    "float TIFF, 0 to 255": saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
    "float TIFF, -1 to 1": saved(Image.fromarray((RAMP / 127.5 - 1).astype(np.float32)), "TIFF"),
    "float TIFF, 0 to 1000": saved(Image.fromarray((RAMP / 255 * 1000).astype(np.float32)), "TIFF"),
    "16-bit TIFF, white is 0": tiff_of((65535 - RAMP * 257).astype("<u2"), 0),
    "8-bit TIFF, white is 0": tiff_of((255 - RAMP).astype("u1"), 0),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_grey_is_scaled_and_not_clipped(name):
    shown = np.asarray(ProblemImage(DEEP[name], name).open())
    assert shown.shape == (4, 256, 3)
    assert np.abs(shown.astype(int) - RAMP[:, :, None]).max() <= 1
    assert (np.diff(shown[..., 0].astype(int)) >= 0).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"])
def test_modes_that_pillow_converts_well_are_left_to_it(mode):
    image = Image.linear_gradient("L").convert("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (9, 9))
    shown = ProblemImage(image, mode).open()
    assert shown.mode == "RGB"
    assert shown.size == image.size


def test_a_transparent_grey_value_of_a_deep_png_is_white():
    values = RAMP * 257
    shown = np.asarray(ProblemImage(saved(sixteen(values), "PNG", transparency=257 * 7), "t").open())
    assert (shown[:, 7] == 255).all()
    assert (shown[:, 8] == 8).all()


@pytest.mark.parametrize("values", [np.zeros((3, 3), np.uint16), np.full((3, 3), 0.0), np.zeros((0, 3), np.float32)])
def test_black_and_empty_images_stay_what_they_are(values):
    assert not scale_grey(values).any()


def refusal_of(data: bytes, seen: Counter | None = None) -> str | None:
    return refuse_broken_images(Problem("1", "?", (ProblemImage(data, "it"),), "1"), seen)


def test_pixels_that_are_no_numbers_are_refused():
    data = saved(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF")
    assert refusal_of(data) == "image broken: it (it has pixels that are not finite numbers)"


def test_images_of_too_many_pixels_are_refused_before_they_are_decoded():
    side = int(LARGEST_IMAGE**0.5) + 1
    data = saved(Image.new("1", (side, side)), "PNG")
    assert refusal_of(data) == f"image broken: it ({side}x{side} pixels are more than {LARGEST_IMAGE}: make it smaller)"


def test_an_image_starts_no_other_program(monkeypatch):
    """Where Ghostscript is installed, Pillow has it run what an EPS file holds."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *about, **more: pytest.fail("it was started"))
    data = saved(Image.new("RGB", (9, 9)), "EPS")
    assert refusal_of(data) == "image broken: it (EPS, which Ghostscript would run as a program: convert it to PNG)"


def test_pages_and_deep_images_are_counted():
    pages = [Image.new("L", (9, 9), shade) for shade in (10, 20)]
    seen: Counter[str] = Counter()
    for form in ("GIF", "TIFF", "WEBP"):
        assert refusal_of(saved(pages[0], form, save_all=True, append_images=pages[1:]), seen) is None
    assert refusal_of(DEEP["16-bit PNG"], seen) is None
    assert refusal_of(saved(pages[0], "PNG"), seen) is None
    assert (seen["pages"], seen["deep"]) == (3, 1)


PNG = saved(Image.new("RGB", (8, 6), "red"), "PNG") + bytes(range(256))
"""With bytes behind its end, so that its base64 holds `+` and `/`."""
TEXT = base64.b64encode(PNG).decode()
SAFE = base64.urlsafe_b64encode(PNG).decode()
CELLS = {
    "base64": TEXT,
    "without padding": TEXT.rstrip("="),
    "URL-safe": SAFE,
    "URL-safe without padding": SAFE.rstrip("="),
    "in lines": "\n".join(TEXT[at : at + 60] for at in range(0, len(TEXT), 60)),
    "data link": f"data:image/png;base64,{TEXT}",
    "data link with parameters": f"data:image/png;name=a.png;base64,{TEXT}",
    "data link, URL-safe": f"data:image/png;base64,{SAFE}",
    "str of bytes": str(PNG),
    "str of base64 bytes": str(TEXT.encode()),
    "bytes of an object": {"bytes": PNG},
    "base64 in an object": {"bytes": TEXT, "path": None},
    "URL-safe in an object": {"bytes": SAFE},
    "str of bytes in an object": {"bytes": str(PNG)},
    "numbers in an object": {"bytes": list(PNG)},
    "link in an object": {"image_url": f"data:image/png;base64,{TEXT}"},
    "a list as text": f'["{TEXT}"]',
}


@pytest.mark.parametrize("name", CELLS)
def test_base64_in_all_its_habits(name):
    assert {"+", "/"} <= set(TEXT)
    (image,) = read_images(CELLS[name], None, "t:1")
    assert image.payload == PNG
    assert image.open().getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ({"bytes": 7}, "the bytes of t:1#image1 are a int, not bytes"),
        ({"bytes": [300]}, "the bytes of t:1#image1 are a list, not bytes"),
        ({"bytes": [True, False]}, "the bytes of t:1#image1 are a list, not bytes"),
        ({"bytes": "x"}, "the bytes of t:1#image1 are not whole base64"),
        ({"bytes": "\ud800"}, "the bytes of t:1#image1 are not whole base64"),
        ("data:text/plain,hello", "t:1#image1 is not whole base64"),
        ("b'\\x89PNG", "is neither a path nor base64|image path has no folder"),
        ("a_b-c" * 60 + ".png", "t:1#image1 is neither a path nor base64 (304 characters)"),
        ("é" * 130 + ".png", "t:1#image1 is neither a path nor base64 (134 characters)"),
        ("a\ud800.png", "the path a\\ud800.png of t:1#image1: it holds half of a character (U+D800)"),
        ("a\x00.png", "the path a\\x00.png of t:1#image1: it holds a NUL character"),
        ("clip.mp4", "row has a video: clip.mp4"),
    ],
)
def test_cells_that_are_no_image(cell, says, tmp_path):
    with pytest.raises(DataError) as refusal:
        read_images(cell, None, "t:1")
    assert any(part in str(refusal.value) for part in says.split("|"))


@pytest.mark.parametrize(
    "path", ["~nobody/a.png", "/dev/zero", "..", "gone/a.png", "a\n.png", "%20.png", "file:/a.png"]
)
def test_paths_that_lead_to_no_image(path, tmp_path):
    (image,) = read_images(path, tmp_path, "t:1")
    reason = refuse_broken_images(Problem("1", "?", (image,), "1"))
    assert reason is not None
    assert reason.startswith("image missing: ")


def test_a_file_name_that_looks_like_url_safe_base64_is_a_path(tmp_path):
    name = "images-train_2014-000000000000000000000000000000000007"
    (tmp_path / name).write_bytes(PNG)
    (image,) = read_images(name, tmp_path, "t:1")
    assert image.open().size == (8, 6)
