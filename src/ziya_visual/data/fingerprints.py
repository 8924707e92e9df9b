"""Image fingerprints for comparing images, and the file that keeps them between runs.

A fingerprint is a hash of the pixels and perceptual hashes that survive small changes. The perceptual hash is
ImageHash's pHash (Zauner 2010): it survives another size and another JPEG quality, but not a crop or a flip.
Some crops and the flipped image are therefore hashed too, and whole images are compared with cropped ones.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ziya_visual.core import log
from ziya_visual.core.files import atomic_path, hash_bytes
from ziya_visual.core.pictures import pixel_hash
from ziya_visual.core.records import ImageRef

VIEWS = ("whole", "flipped", "middle", "top left", "top right", "bottom left", "bottom right")
CROP = 0.05  # fraction of the width and of the height that a cropped view lacks
_THUMBNAIL = 256  # pixels of the longer side of the thumbnail from which the views are cut
_COARSE, _FINE = 8, 16  # sides of the hashes: 64 bits find candidates, 256 bits decide
FINE_WORDS = _FINE * _FINE // 64


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """One image: SHA-256 of its size and pixels; ``coarse`` uint64[V] and ``fine`` uint64[V, 4] by view."""

    content: str
    coarse: NDArray[np.uint64]
    fine: NDArray[np.uint64]


def fingerprint(image: Image.Image) -> Fingerprint:
    """Compute the fingerprint of an RGB image."""
    small = image.convert("L")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    views = [_view(small, name) for name in VIEWS]
    return Fingerprint(pixel_hash(image), phash(views, _COARSE)[:, 0], phash(views, _FINE))


def phash(images: Sequence[Image.Image], side: int) -> NDArray[np.uint64]:
    """Compute the perceptual hashes of V grey images: uint64[V, side * side / 64], first bit first."""
    bits = np.stack([imagehash.phash(image, hash_size=side).hash.ravel() for image in images])
    return np.packbits(bits, axis=1).view(np.uint64)


def _view(image: Image.Image, name: str) -> Image.Image:
    """Return one view at the size that the finer hash reads."""
    width, height = image.size
    across, down = (0.0, 0.0) if name in ("whole", "flipped") else (width * CROP, height * CROP)
    left = {"middle": across / 2}.get(name, across if name.endswith("right") else 0.0)
    top = {"middle": down / 2}.get(name, down if name.startswith("bottom") else 0.0)
    box = (left, top, left + width - across, top + height - down)
    view = image.resize((4 * _FINE, 4 * _FINE), Image.Resampling.LANCZOS, box=box)
    return ImageOps.mirror(view) if name == "flipped" else view


class FingerprintCache:
    """Fingerprints on disk, keyed by path, size and time of change, or by the hash of the bytes."""

    def __init__(self, path: Path | None) -> None:
        """Read the file if it exists. None caches nothing; a damaged file is logged and recomputed."""
        self._path, self._changed = path, False
        self._fingerprints: dict[str, Fingerprint] = {}
        if path is None or not path.is_file():
            return
        try:
            with np.load(path) as arrays:
                rows = zip(arrays["keys"], arrays["contents"], arrays["coarse"], arrays["fine"], strict=True)
                if arrays["views"].tolist() == list(VIEWS):
                    self._fingerprints = {str(k): Fingerprint(str(c), *hashes) for k, c, *hashes in rows}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.logger.warning("%s: cannot read the fingerprints (%s); computing them again", path, error)

    def get(self, image: ImageRef) -> Fingerprint | None:
        """Return the fingerprint of an image if it is cached and its file has not changed."""
        return self._fingerprints.get(_key(image))

    def add(self, image: ImageRef, fingerprint: Fingerprint) -> None:
        """Add the fingerprint of an image."""
        self._fingerprints[_key(image)], self._changed = fingerprint, True

    def __enter__(self) -> FingerprintCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write new fingerprints even after an error, so that they are not computed again."""
        if self._path is None or not self._changed:
            return
        rows = list(self._fingerprints.values())
        with atomic_path(self._path) as aside, aside.open("wb") as file:
            np.savez(
                file,
                views=np.asarray(VIEWS),
                keys=np.asarray(list(self._fingerprints)),
                contents=np.asarray([row.content for row in rows]),
                coarse=np.stack([row.coarse for row in rows]),
                fine=np.stack([row.fine for row in rows]),
            )


def _key(image: ImageRef) -> str:
    if image.path is None:
        return hash_bytes(image.bytes or b"")
    try:
        status = Path(image.path).stat()
    except OSError:
        return image.path
    return f"{image.path}:{status.st_size}:{status.st_mtime_ns}"
