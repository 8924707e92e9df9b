"""What a picture is, in numbers: a hash of its pixels, and perceptual hashes that survive small changes.

The perceptual hash is pHash (Zauner 2010), bit for bit that of ImageHash, which a test compares: which of the
lowest frequencies of the picture's cosine transform are above their median. It survives another size and
another JPEG quality, not a crop or a flip: so those of some crops and of the flipped picture are computed
too, and a pair is compared whole against cropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

VIEWS = ("whole", "flipped", "middle", "top left", "top right", "bottom left", "bottom right")
CROP = 0.05  # of the width and of the height, cut off in all
_THUMBNAIL = 256  # pixels of the longer side from which the views are cut
_COARSE, _FINE = 8, 16  # sides of the hashes: 64 bits find, 256 bits decide
FINE_WORDS = _FINE * _FINE // 64


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Of one picture: SHA-256 of its size and pixels; ``coarse`` uint64[V], ``fine`` uint64[V, 4] by view."""

    content: str
    coarse: NDArray[np.uint64]
    fine: NDArray[np.uint64]


def content_hash(picture: Image.Image) -> str:
    """SHA-256 of size and RGB pixels: another compression without loss is the same picture."""
    head = f"{picture.width}x{picture.height}:".encode()
    return hashlib.sha256(head + picture.tobytes()).hexdigest()


def fingerprint(picture: Image.Image) -> Fingerprint:
    """The fingerprint of an RGB picture."""
    small = picture.convert("L")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    views = [_view(small, name) for name in VIEWS]
    return Fingerprint(content_hash(picture), phash(views, _COARSE)[:, 0], phash(views, _FINE))


def phash(pictures: Sequence[Image.Image], side: int) -> NDArray[np.uint64]:
    """The perceptual hashes of V grey pictures as words, uint64[V, side * side / 64], first bit first."""
    size = 4 * side
    pixels = np.stack([np.asarray(one.resize((size, size), Image.Resampling.LANCZOS)) for one in pictures])
    waves = np.cos(np.pi * np.arange(side)[:, None] * (2 * np.arange(size) + 1) / (2 * size))
    low = (waves @ pixels @ waves.T).reshape(len(pictures), -1)  # float64[V, side * side]
    return np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1).view(np.uint64)


def _view(picture: Image.Image, name: str) -> Image.Image:
    """One view at the size from which pHash takes the finer of both hashes."""
    width, height = picture.size
    across, down = (0.0, 0.0) if name in ("whole", "flipped") else (width * CROP, height * CROP)
    left = {"middle": across / 2}.get(name, across if name.endswith("right") else 0.0)
    top = {"middle": down / 2}.get(name, down if name.startswith("bottom") else 0.0)
    box = (left, top, left + width - across, top + height - down)
    view = picture.resize((4 * _FINE, 4 * _FINE), Image.Resampling.LANCZOS, box=box)
    return ImageOps.mirror(view) if name == "flipped" else view
