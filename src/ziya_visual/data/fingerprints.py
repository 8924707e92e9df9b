"""What a picture is, in numbers: a hash of its pixels, and perceptual hashes that survive small changes.

The perceptual hash is pHash (Zauner 2010) as ImageHash computes it: signs of the lowest frequencies of the
picture's cosine transform. It survives another size and another JPEG quality, not a crop or a flip: so those
of some crops and of the flipped picture are computed too, and a pair is compared whole against cropped.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import imagehash
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
    return Fingerprint(
        content_hash(picture),
        np.concatenate([_bits(view, _COARSE) for view in views]),
        np.stack([_bits(view, _FINE) for view in views]),
    )


def _view(picture: Image.Image, name: str) -> Image.Image:
    """One view at the size from which pHash takes the finer of both hashes."""
    width, height = picture.size
    across, down = (0.0, 0.0) if name in ("whole", "flipped") else (width * CROP, height * CROP)
    left = {"middle": across / 2}.get(name, across if name.endswith("right") else 0.0)
    top = {"middle": down / 2}.get(name, down if name.startswith("bottom") else 0.0)
    box = (left, top, left + width - across, top + height - down)
    view = picture.resize((4 * _FINE, 4 * _FINE), Image.Resampling.LANCZOS, box=box)
    return ImageOps.mirror(view) if name == "flipped" else view


def _bits(picture: Image.Image, side: int) -> NDArray[np.uint64]:
    """The perceptual hash as words: uint64[side * side / 64]."""
    return np.packbits(imagehash.phash(picture, hash_size=side).hash.reshape(-1)).view(np.uint64)
