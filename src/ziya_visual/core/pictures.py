"""Pictures from anywhere, safely: every colour mode becomes RGB, what cannot be read is one clear line."""

from __future__ import annotations

import contextlib
import io
import stat
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Example

LIMIT_PIXELS = 64_000_000
LIMIT_BYTES = 50_000_000
# Pillow knows more, among them EPS, which it hands to another program.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
Picture = Image.Image | Path | str
Pictures = Picture | Sequence[Picture] | None


def load_image(
    source: Path | bytes, *, limit_pixels: int = LIMIT_PIXELS, limit_bytes: int = LIMIT_BYTES
) -> Image.Image:
    """Open a picture as RGB: turned as EXIF says, transparency over white, 16 bits scaled, the first frame.

    Args:
        source: a file's path, or its encoded bytes.
        limit_pixels: width times height that is accepted.
        limit_bytes: encoded size that is accepted.

    Raises:
        DataError: it is absent, no regular file, too large, no picture of :data:`FORMATS`, or broken.
    """
    with _opened(source, limit_pixels, limit_bytes) as picture:
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
        return picture if picture.mode == "RGB" and "transparency" not in picture.info else _rgb(picture)


def picture_size(
    source: Path | bytes, *, limit_pixels: int = LIMIT_PIXELS, limit_bytes: int = LIMIT_BYTES
) -> tuple[int, int]:
    """Width and height as the header says, nothing decoded; raises as :func:`load_image`."""
    with _opened(source, limit_pixels, limit_bytes) as picture:
        return picture.size


@contextlib.contextmanager
def _opened(source: Path | bytes, limit_pixels: int, limit_bytes: int) -> Iterator[Image.Image]:
    """A picture within the limits, its pixels not read yet; what goes wrong inside is a ``DataError``."""
    name = "the picture" if isinstance(source, bytes) else str(source)
    file = io.BytesIO(source) if isinstance(source, bytes) else _file(source)
    try:
        with file, warnings.catch_warnings():
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            if size > limit_bytes:
                raise DataError(f"{name}: {size:,} bytes, more than the limit of {limit_bytes:,}")
            warnings.simplefilter("ignore")  # of bombs, which the limit is about, and of odd metadata
            with Image.open(file, formats=FORMATS) as picture:
                if picture.width * picture.height > limit_pixels:
                    shape = f"{picture.width} x {picture.height}"
                    raise DataError(f"{name}: {shape} pixels, more than the limit of {limit_pixels:,}")
                yield picture
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: no picture that can be read; expected PNG, JPEG, GIF, WebP ...") from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        IndexError,
        struct.error,
        Image.DecompressionBombError,
        EOFError,
    ) as error:
        raise DataError(f"{name}: broken picture ({' '.join(str(error).split())[:100]})") from error


def _file(path: Path) -> BinaryIO:
    """A regular file, opened: reading a device or a pipe might never end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path}: cannot be read (no regular file)")
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{str(path)!r}: cannot be read ({error})") from error


def open_picture(example: Example) -> Image.Image:
    """The picture of a record; ``DataError`` where it has none or it cannot be read."""
    if example.image is None:
        raise DataError(f"record {example.id!r} has no picture")
    return load_image(Path(example.image.path) if example.image.path else example.image.bytes or b"")


def to_rgb(picture: Image.Image) -> Image.Image:
    """An open picture as RGB, see :func:`load_image`."""
    return _rgb(ImageOps.exif_transpose(picture))


def open_pictures(sources: Pictures) -> list[Image.Image]:
    """A picture, a path, a list of them, or None, as RGB; ``DataError`` as :func:`load_image`."""
    if sources is None:
        return []
    if isinstance(sources, Image.Image | Path | str):
        sources = [sources]
    return [to_rgb(one) if isinstance(one, Image.Image) else load_image(Path(one)) for one in sources]


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype=np.float64)
        top = 65535.0 if picture.mode != "F" and values.max(initial=0) > 255 else 255.0
        return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return picture.convert("RGB")
