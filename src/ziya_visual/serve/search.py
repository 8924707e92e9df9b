"""Find pictures of a folder by what they show: ``index DIR`` once, then ``find TEXT`` in either language.

The index is one file in the folder. It says of which checkpoint it is; pictures that are as they were are not
embedded again. Legend: N pictures, Q queries, Dp projection width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from ziya_visual.core import log
from ziya_visual.core.errors import DataError
from ziya_visual.core.files import atomic_path, hash_json
from ziya_visual.core.pictures import load_image
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.model.lora import weight_hashes

INDEX = ".ziya-visual-index.npz"
AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Index:
    """Pictures by their path in the folder, when each was changed, and what they show: float16[N, Q, Dp]."""

    checkpoint: str
    names: list[str]
    stamps: list[int]
    features: np.ndarray


@dataclass(frozen=True, slots=True)
class Found:
    """A picture, and how well the text fits it: a cosine."""

    path: Path
    score: float


def index_folder(folder: Path, checkpoint: Path) -> Index:
    """Embed the pictures of a folder and all below it; what cannot be read is left out with a line.

    Raises:
        DataError: there is no picture.
        CheckpointError: the checkpoint cannot be opened, or has no retrieval side.
    """
    identity = _identity(checkpoint)
    kept = _read(folder)
    known = {}
    if kept is not None and kept.checkpoint == identity:
        known = {item[:2]: item[2] for item in zip(kept.names, kept.stamps, kept.features, strict=True)}
    paths = {(str(path.relative_to(folder)), path.stat().st_mtime_ns): path for path in _pictures(folder)}
    new = {key: path for key, path in paths.items() if key not in known}
    model = ZiyaVisual.from_pretrained(checkpoint)
    with log.progress("embed pictures", len(new)) as bar:
        for some in _in_turn(list(new), AT_ONCE):
            opened = {key: picture for key in some if (picture := _open(new[key])) is not None}
            if opened:
                known |= zip(
                    opened, model.embed_images(list(opened.values())).astype(np.float16), strict=True
                )
            bar.advance(len(some))
    there = sorted(key for key in paths if key in known)
    if not there:
        raise DataError(f"{folder}: no picture there that can be read")
    features = np.stack([known[key] for key in there])
    made = Index(identity, [name for name, _ in there], [stamp for _, stamp in there], features)
    _write(folder, made)
    return made


def find(text: str, folder: Path, checkpoint: Path, *, count: int = 5) -> list[Found]:
    """The pictures of an indexed folder that a text fits best, the best first.

    Raises:
        DataError: the folder has no index, one of another checkpoint, or the text is empty.
        CheckpointError: the checkpoint cannot be opened, or has no retrieval side.
    """
    if not text.strip():
        raise DataError("the text is empty")
    made = _read(folder)
    if made is None or made.checkpoint != _identity(checkpoint):
        raise DataError(
            f"{folder}: no index of this checkpoint; make it: ziya-visual index {folder} --model {checkpoint}"
        )
    (asked,) = ZiyaVisual.from_pretrained(checkpoint).embed_texts([text])
    scores = (made.features.astype(np.float32) @ asked).max(1)
    best = np.argsort(-scores, kind="stable")[:count]
    return [Found(folder / made.names[row], float(scores[row])) for row in best]


def _pictures(folder: Path) -> Iterator[Path]:
    """Files that Pillow may open, by their endings."""
    endings = Image.registered_extensions()
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in endings and path.is_file())


def _open(path: Path) -> Image.Image | None:
    try:
        return load_image(path)
    except DataError as error:
        log.logger.warning("left out: %s", error)
        return None


def _in_turn(keys: list[Any], size: int) -> Iterator[list[Any]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))


def _identity(checkpoint: Path) -> str:
    return hash_json(weight_hashes(checkpoint))


def _read(folder: Path) -> Index | None:
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            names, stamps = file["names"].tolist(), file["stamps"].tolist()
            return Index(str(file["checkpoint"]), names, stamps, file["features"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        log.logger.warning("%s is damaged and made anew (%s)", path, error)
        return None


def _write(folder: Path, made: Index) -> None:
    with atomic_path(folder / INDEX) as aside, aside.open("wb") as file:
        np.savez(
            file,
            checkpoint=np.asarray(made.checkpoint),
            names=np.asarray(made.names),
            stamps=np.asarray(made.stamps, np.int64),
            features=made.features,
        )
