"""A gallery embedded and matched by a model, block by block; a block that is done is not computed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ziya_visual.core import distributed
from ziya_visual.core.files import atomic_path, hash_json
from ziya_visual.core.log import progress
from ziya_visual.eval.models.answer_cache import KeptRanker
from ziya_visual.eval.retrieval import Floats, candidates, check_pairs, similarity
from ziya_visual.eval.suites.formats import Gallery

Item = TypeVar("Item")
_PICTURES_AT_ONCE, _TEXTS_AT_ONCE = 64, 256


def embed(model: KeptRanker, gallery: Gallery, folder: Path, title: str) -> tuple[Floats, Floats]:
    """Embeddings of the pictures, float32[N, Q, D], and of the texts, float32[M, D].

    Args:
        model: embeds.
        gallery: what.
        folder: keeps the blocks, by model and by the ids of pictures; empty it when pictures change.
        title: for progress.
    """

    def pictures(names: Sequence[str]) -> Floats:
        return model.embed_images([gallery.images[name] for name in names])

    ids = [str(name) for name in gallery.image_ids]
    image = _blocks(model, ids, pictures, _PICTURES_AT_ONCE, folder, f"{title} pictures")
    text = _blocks(model, gallery.texts, model.embed_texts, _TEXTS_AT_ONCE, folder, f"{title} texts")
    return np.concatenate(image), np.concatenate(text)


def match(
    model: KeptRanker, gallery: Gallery, chosen: npt.NDArray[np.bool_], folder: Path, title: str
) -> Floats:
    """Matching logits float32[N, M] of the ``chosen`` pairs, 0 elsewhere."""
    asked = [
        (str(name), [gallery.texts[place] for place in np.flatnonzero(row)])
        for name, row in zip(gallery.image_ids, chosen, strict=True)
    ]

    def logits(some: Sequence[tuple[str, Sequence[str]]]) -> Floats:
        return np.concatenate(model.match(gallery.images, some))

    found = np.zeros(chosen.shape, np.float32)
    found[chosen] = np.concatenate(
        _blocks(model, asked, logits, _PICTURES_AT_ONCE, folder, f"{title} matching")
    )
    return found


def choose(
    model: KeptRanker, image: Floats, text: Floats, gallery: Gallery, top_k: int
) -> npt.NDArray[np.bool_]:
    """bool[N, M]: the pairs that the matching head is asked about."""
    chosen = None
    if distributed.rank() == 0:
        scores = similarity(image, text)
        chosen = candidates(scores, top_k, check_pairs(scores, gallery.text2image))
    shared = distributed.broadcast(chosen)
    assert shared is not None
    return shared


def _blocks(
    model: KeptRanker,
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Floats],
    size: int,
    folder: Path,
    title: str,
) -> list[Floats]:
    found = []
    with progress(title, len(items)) as bar:
        for start in range(0, len(items), size):
            some = items[start : start + size]
            path = folder / "blocks" / f"{hash_json([model.identity, title, list(some)])[:40]}.npy"
            found.append(_kept(model, path, partial(work, some)))
            bar.advance(len(some))
    return found


def _kept(model: KeptRanker, path: Path, compute: Callable[[], Floats]) -> Floats:
    first = distributed.rank() == 0
    known: Floats | None = distributed.broadcast(np.load(path) if first and path.is_file() else None)
    if known is not None:
        return known
    fresh = compute()
    if first:
        with atomic_path(path) as aside:
            np.save(aside, fresh)
    return fresh
