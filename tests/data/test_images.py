"""Pictures of every kind become RGB; what cannot be read is one clear line."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ziya_visual.core.errors import DataError
from ziya_visual.data.images import load_image


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


RED = Image.new("RGB", (8, 6), (200, 10, 20))


@pytest.mark.parametrize(
    ("data", "near"),
    [
        (encoded(RED), (200, 10, 20)),
        (encoded(RED.quantize(8)), (200, 10, 20)),
        (encoded(RED.convert("CMYK"), "JPEG", quality=95), (200, 10, 20)),
        (encoded(Image.new("L", (8, 6), 90)), (90, 90, 90)),
        (encoded(Image.new("1", (8, 6), 1)), (255, 255, 255)),
        (encoded(Image.fromarray(np.full((6, 8), 32896, np.uint16))), (128, 128, 128)),
        (encoded(Image.new("RGBA", (8, 6), (200, 10, 20, 0))), (255, 255, 255)),
        (encoded(Image.new("LA", (8, 6), (0, 128))), (127, 127, 127)),
        (encoded(RED, "GIF", save_all=True, append_images=[Image.new("RGB", (8, 6), "blue")]), (200, 10, 20)),
        (encoded(RED, "WEBP", lossless=True), (200, 10, 20)),
    ],
    ids=["rgb", "palette", "cmyk", "grey", "bilevel", "16-bit", "alpha", "grey-alpha", "gif", "webp"],
)
def test_every_mode_is_read(data: bytes, near: tuple[int, int, int]) -> None:
    picture = load_image(data)
    assert (picture.mode, picture.size) == ("RGB", (8, 6))
    assert np.abs(np.asarray(picture, int)[3, 4] - near).max() <= 4


def test_a_picture_is_turned_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_image(encoded(RED, "JPEG", exif=exif)).size == (6, 8)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "no picture that can be read"),
        (b"hello", "no picture that can be read"),
        (encoded(Image.effect_noise((64, 64), 50))[:600], "broken picture"),
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:300], "broken picture"),
    ],
    ids=["empty", "text", "half a PNG", "half a JPEG"],
)
def test_what_is_no_picture_is_one_line(data: bytes, text: str) -> None:
    with pytest.raises(DataError, match=text) as caught:
        load_image(data)
    assert "\n" not in str(caught.value)


def test_limits_and_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than the limit of 40"):
        load_image(encoded(RED), limit_pixels=40)
    with pytest.raises(DataError, match="more than the limit of 10"):
        load_image(encoded(RED), limit_bytes=10)
    with pytest.raises(DataError, match=r"absent\.png: cannot be read"):
        load_image(tmp_path / "absent.png")
