"""Pictures of every kind become RGB; what cannot be read is one clear line."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ziya_visual.core.errors import DataError
from ziya_visual.core.pictures import load_image, picture_size


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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_is_turned_as_its_camera_says(kind: str, orientation: int) -> None:
    upright = Image.new("RGB", (24, 16), "white")
    upright.paste((200, 0, 0), (0, 0, 12, 8))
    undo = {  # how a camera that is held so stores what is upright
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    found = load_image(encoded(stored, kind, exif=exif, **options))
    assert np.abs(np.asarray(found, int) - np.asarray(upright, int)).max() < 100
    assert ImageOps.exif_transpose(found).size == found.size, "not turned a second time"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not a readable image"),
        (b"hello", "not a readable image"),
        (encoded(Image.effect_noise((64, 64), 50))[:600], "broken image"),
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:300], "broken image"),
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


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is huge."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(9_000, 9_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1), (64_000_001, 1)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    for function in (load_image, picture_size):
        with pytest.raises(DataError, match=r"more than the limit of 64,000,000|broken image"):
            function(bomb(*size))


def test_what_never_ends_or_runs_programs_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png", "."):
        with pytest.raises(DataError, match="not a regular file"):
            load_image(tmp_path / name)
    with (tmp_path / "long.png").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(DataError, match="1,000,000,000,000 bytes, more than the limit"):
        load_image(tmp_path / "long.png")
    with pytest.raises(DataError, match="not a readable image"):
        load_image(encoded(RED, "EPS"))
    with pytest.raises(DataError, match="cannot be read"):
        load_image(tmp_path / "a\0.png")


KINDS = [encoded(RED, kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000")]


@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    st.integers(),
)
@settings(max_examples=300)
def test_any_bytes_are_a_picture_or_one_line(data: bytes, changes: list[tuple[int, int]], end: int) -> None:
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        picture = load_image(bytes(damaged[: end % (len(damaged) + 1)]) if end % 2 else bytes(damaged))
    except DataError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert picture.mode == "RGB"
