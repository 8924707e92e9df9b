"""The one door for images: open within limits, convert to RGB, hash, encode as base64 data URIs."""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import mimetypes
import stat
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import hash_bytes
from ziya_visual.core.records import Example, ImageRef

LIMIT_PIXELS = 64_000_000
LIMIT_BYTES = 50_000_000
# Pillow supports more formats. Among them is EPS, which it passes to an external program.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_PILLOW_ERRORS = (
    OSError, ValueError, SyntaxError, IndexError, EOFError, struct.error, Image.DecompressionBombError
)  # fmt: skip
Picture = Image.Image | Path | str
Pictures = Picture | Sequence[Picture] | None


def load_image(
    source: Path | bytes, *, limit_pixels: int = LIMIT_PIXELS, limit_bytes: int = LIMIT_BYTES
) -> Image.Image:
    """Open an image as RGB.

    The EXIF orientation is applied, transparency is laid over white, 16-bit values are scaled to 8 bits, and
    only the first frame is read.

    Args:
        source: path of a file, or its encoded bytes.
        limit_pixels: largest accepted width times height.
        limit_bytes: largest accepted encoded size.

    Raises:
        DataError: the file is missing, not a regular file, too large, not one of :data:`FORMATS`, or broken.
    """
    with _open(source, limit_pixels, limit_bytes) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return image if image.mode == "RGB" and "transparency" not in image.info else _rgb(image)


def picture_size(
    source: Path | bytes, *, limit_pixels: int = LIMIT_PIXELS, limit_bytes: int = LIMIT_BYTES
) -> tuple[int, int]:
    """Return width and height from the header without decoding pixels; raises as :func:`load_image`."""
    with _open(source, limit_pixels, limit_bytes) as image:
        return image.size


def file_extension(data: bytes) -> str:
    """Return the usual file extension of encoded bytes, such as ``jpg``; raises as :func:`load_image`."""
    with _open(data, LIMIT_PIXELS, LIMIT_BYTES) as image:
        kind = (image.format or "").lower()
    return {"jpeg": "jpg", "mpo": "jpg"}.get(kind, kind)


@contextlib.contextmanager
def _open(source: Path | bytes, limit_pixels: int, limit_bytes: int) -> Iterator[Image.Image]:
    """Open an image within the limits without reading its pixels; any failure becomes a ``DataError``."""
    name = "the image" if isinstance(source, bytes) else str(source)
    file = io.BytesIO(source) if isinstance(source, bytes) else _open_file(source)
    try:
        with file, warnings.catch_warnings():
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            if size > limit_bytes:
                raise DataError(f"{name}: {size:,} bytes, more than the limit of {limit_bytes:,}")
            warnings.simplefilter("ignore")  # decompression bombs, which the limit covers, and odd metadata
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > limit_pixels:
                    shape = f"{image.width} x {image.height}"
                    raise DataError(f"{name}: {shape} pixels, more than the limit of {limit_pixels:,}")
                yield image
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not a readable image; expected PNG, JPEG, GIF, WebP ...") from error
    except _PILLOW_ERRORS as error:
        raise DataError(f"{name}: broken image ({' '.join(str(error).split())[:100]})") from error


def _open_file(path: Path) -> BinaryIO:
    """Open a regular file. Reading a device or a pipe might never end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path}: cannot be read (not a regular file)")
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{str(path)!r}: cannot be read ({error})") from error


def image_source(image: ImageRef) -> Path | bytes:
    """Return what :func:`load_image` takes for a record's image: its path, or its bytes."""
    return Path(image.path) if image.path else image.bytes or b""


def open_picture(example: Example) -> Image.Image:
    """Open the image of a record; ``DataError`` if it has none or it cannot be read."""
    if example.image is None:
        raise DataError(f"record {example.id!r} has no image")
    return load_image(image_source(example.image))


def open_pictures(sources: Pictures) -> list[Image.Image]:
    """Open an image, a path, a list of either, or None, as RGB; ``DataError`` as :func:`load_image`."""
    if sources is None:
        return []
    if isinstance(sources, Image.Image | Path | str):
        sources = [sources]
    return [to_rgb(item) if isinstance(item, Image.Image) else load_image(Path(item)) for item in sources]


def to_rgb(picture: Image.Image) -> Image.Image:
    """Convert an open image to RGB as :func:`load_image` does."""
    return _rgb(ImageOps.exif_transpose(picture))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode != "F" and values.max(initial=0) > 255 else 255.0
        return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return image.convert("RGB")


def pixel_hash(image: Image.Image) -> str:
    """Return SHA-256 of the size and RGB pixels: equal however the image was losslessly compressed."""
    return hash_bytes(f"{image.width}x{image.height}:".encode() + image.tobytes())


def decode_base64(text: str | bytes) -> bytes:
    """Decode base64 in the common or the URL-safe alphabet; ``DataError`` if it is neither."""
    encoded = text.encode("utf-8", "replace") if isinstance(text, str) else text
    try:
        url_safe = b"-_" if b"-" in encoded or b"_" in encoded else None
        return base64.b64decode(encoded, altchars=url_safe, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"an image's base64 is broken ({error})") from error


def decode_data_uri(uri: str) -> bytes:
    """Decode a base64 ``data:`` URI; ``DataError`` if it is something else."""
    header, comma, payload = uri.partition(",")
    if header[:5].lower() != "data:" or not comma or not header.endswith(";base64"):
        raise DataError(f"an image must be a data: URI in base64, found {uri[:40]!r}")
    return decode_base64(payload)


def data_uri(image: Image.Image, format: str = "PNG", **options: Any) -> str:
    """Encode an open image as a base64 ``data:`` URI; ``options`` go to Pillow's ``save``."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return _data_uri(f"image/{format.lower()}", buffer.getvalue())


def file_data_uri(path: Path, *, limit_bytes: int) -> str:
    """Encode an image file, unchanged, as a base64 ``data:`` URI; ``DataError`` if it cannot be sent."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    if not path.is_file():
        raise DataError(f"{path}: no such image")
    if not kind.startswith("image/") or path.stat().st_size > limit_bytes:
        raise DataError(
            f"{path}: {kind or 'not an image'}, {path.stat().st_size:,} bytes; "
            f"expected an image of at most {limit_bytes // 1_000_000} MB"
        )
    return _data_uri(kind, path.read_bytes())


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
