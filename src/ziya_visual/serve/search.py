"""Picture search by text: ``index DIR`` once, then ``find TEXT`` in either language.

The index is one file in the folder and records its checkpoint. Unchanged pictures are not embedded again.

Legend: N pictures, Q queries, Dp projection width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
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
BATCH_SIZE = 64


@dataclass(frozen=True, slots=True)
class Index:
    """Pictures by path in the folder, with modification times and embeddings float16[N, Q, Dp]."""

    checkpoint: str
    names: list[str]
    stamps: list[int]
    embeddings: np.ndarray


@dataclass(frozen=True, slots=True)
class Match:
    """A picture and its similarity to the text, a cosine."""

    path: Path
    score: float


def index_folder(folder: Path, checkpoint: Path) -> Index:
    """Embed the pictures of a folder, recursively; unreadable ones are skipped with a warning."""
    identity = hash_json(weight_hashes(checkpoint))
    previous = _read(folder)
    known = {}
    if previous is not None and previous.checkpoint == identity:
        rows = zip(previous.names, previous.stamps, previous.embeddings, strict=True)
        known = {(name, stamp): embedding for name, stamp, embedding in rows}
    paths = {(str(path.relative_to(folder)), path.stat().st_mtime_ns): path for path in _pictures(folder)}
    new = [key for key in paths if key not in known]
    model = ZiyaVisual.from_pretrained(checkpoint)
    with log.progress("embed pictures", len(new)) as bar:
        for start in range(0, len(new), BATCH_SIZE):
            batch = new[start : start + BATCH_SIZE]
            opened = {key: picture for key in batch if (picture := _open(paths[key])) is not None}
            if opened:
                embeddings = model.embed_images(list(opened.values())).astype(np.float16)
                known |= zip(opened, embeddings, strict=True)
            bar.advance(len(batch))
    readable = sorted(key for key in paths if key in known)
    if not readable:
        raise DataError(f"{folder}: no readable picture there")
    names, stamps = [name for name, _ in readable], [stamp for _, stamp in readable]
    embeddings = np.stack([known[key] for key in readable])
    with atomic_path(folder / INDEX) as aside, aside.open("wb") as file:
        np.savez(
            file, checkpoint=identity, names=names, stamps=np.asarray(stamps, np.int64), features=embeddings
        )
    return Index(identity, names, stamps, embeddings)


def find(text: str, folder: Path, checkpoint: Path, *, count: int = 5) -> list[Match]:
    """Return the ``count`` pictures of an indexed folder most similar to a text, best first.

    Raises:
        DataError: the folder has no index of this checkpoint, or the text is empty.
    """
    if not text.strip():
        raise DataError("the text is empty")
    index = _read(folder)
    if index is None or index.checkpoint != hash_json(weight_hashes(checkpoint)):
        raise DataError(
            f"{folder}: no index of this checkpoint; create it: "
            f"ziya-visual index {folder} --model {checkpoint}"
        )
    (query,) = ZiyaVisual.from_pretrained(checkpoint).embed_texts([text])
    scores = (index.embeddings.astype(np.float32) @ query).max(1)
    best = np.argsort(-scores, kind="stable")[:count]
    return [Match(folder / index.names[row], float(scores[row])) for row in best]


def _pictures(folder: Path) -> Iterator[Path]:
    """Yield the files that Pillow can open, by extension."""
    endings = Image.registered_extensions()
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in endings and path.is_file())


def _open(path: Path) -> Image.Image | None:
    try:
        return load_image(path)
    except DataError as error:
        log.logger.warning("skipped: %s", error)
        return None


def _read(folder: Path) -> Index | None:
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            names, stamps = file["names"].tolist(), file["stamps"].tolist()
            return Index(str(file["checkpoint"]), names, stamps, file["features"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        log.logger.warning("%s is damaged and will be rebuilt (%s)", path, error)
        return None
