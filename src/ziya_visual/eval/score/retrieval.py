"""Recall at K in both directions, from embeddings or similarities in NPZ files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.eval import retrieval
from ziya_visual.eval.metrics.bootstrap import Floats, Statistic, means, ratios
from ziya_visual.eval.results import Metric, Scope, Scored
from ziya_visual.eval.rows import read_arrays


def measure_pools(files: Sequence[Path], scope: Scope, *, top_k: int | None = None) -> list[Metric]:
    """Return ``i2t_r1`` ... ``t2i_r10``, each averaged over all queries of all pools, one file per pool.

    The arrays are ``i2t``, ``text2image`` and ``itm``, which ranks the best ``top_k`` again; see
    :func:`score_retrieval`.
    """
    pools = [_ranks(None, path, path if top_k else None, top_k)[1] for path in files]
    metrics = []
    directions = map(np.concatenate, zip(*pools, strict=True))
    for direction, query_ranks in zip(("i2t", "t2i"), directions, strict=True):
        for depth in retrieval.DEPTHS:
            metrics.append(scope.mean(f"{direction}_r{depth}", np.where(query_ranks < depth, 100.0, 0.0)))
    return metrics


def score_retrieval(
    *,
    embeddings: Path | None = None,
    similarity: Path | None = None,
    rerank: Path | None = None,
    top_k: int | None = None,
) -> Scored:
    """Return recall at 1, 5 and 10 in both directions; see :mod:`ziya_visual.eval.retrieval`."""
    if (embeddings is None) == (similarity is None):
        raise ConfigError("score retrieval needs either --embeddings or --similarity, not both")
    if (rerank is None) != (top_k is None):
        raise ConfigError("--rerank and --top-k go together")
    text2image, ranks = _ranks(embeddings, similarity, rerank, top_k)
    rule = "ties within 1e-6 against the system"
    rule += f"; contrastive + matching within the top {top_k}" if rerank else ""
    texts, images = retrieval.right_pairs(text2image)
    items = {
        f"{name}_r{depth}": {
            f"{kind}/{i}": 100.0 * hit for i, hit in enumerate((query_ranks < depth).tolist())
        }
        for (name, kind), query_ranks in zip((("i2t", "image"), ("t2i", "text")), ranks, strict=True)
        for depth in retrieval.DEPTHS
    }  # fmt: skip
    return Scored(
        retrieval.recalls(*ranks),
        +Counter({"images_without_text": len(ranks[0]) - len(np.unique(images))}),
        items,
        rule,
        statistics=[_mean_recalls(items)],
        clusters={f"text/{t}": f"image/{i}" for t, i in zip(texts.tolist(), images.tolist(), strict=True)},
    )


def _ranks(
    embeddings: Path | None, similarity: Path | None, rerank: Path | None, top_k: int | None
) -> tuple[retrieval.Ints, tuple[retrieval.Ints, retrieval.Ints]]:
    """Return ``text2image`` and the ranks of the texts of every image and the images of every text."""
    if embeddings is not None:
        arrays = read_arrays(embeddings, ("image", "text", "text2image"))
        scores = retrieval.similarity(arrays["image"], arrays["text"])
    else:
        assert similarity is not None
        arrays = read_arrays(similarity, ("i2t", "text2image"))
        scores = _matrix(arrays["i2t"], "i2t", similarity)
    text2image = retrieval.check_text2image(scores, arrays["text2image"])
    if rerank is None or top_k is None:
        return text2image, retrieval.ranks(scores, text2image)
    itm = _matrix(read_arrays(rerank, ("itm",))["itm"], "itm", rerank)
    if not np.isfinite(itm).all():
        raise DataError(f"{rerank}: itm has NaN or infinite values")
    return text2image, retrieval.ranks(scores, text2image, itm=itm, top_k=top_k)


def _matrix(values: npt.NDArray[np.floating], name: str, path: Path) -> npt.NDArray[np.floating]:
    """Return a matrix of 32- or 64-bit floats as it is, any other as float32."""
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        shape = f"{values.dtype}{list(values.shape)}"
        raise DataError(f"{path}: {name} is {shape}, expected numbers [images, texts]")
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


def _mean_recalls(items: dict[str, dict[str, float]]) -> Statistic:
    """Return the mean recalls as a statistic, because they are not means over items."""
    single = means(items)

    def score(sums: Floats) -> Floats:
        each = np.stack([part.mean(axis=1) for part in np.hsplit(ratios(sums), 2)], axis=1)
        return np.hstack([each, each.mean(axis=1, keepdims=True)])

    names = ["i2t_mean_recall", "t2i_mean_recall", "mean_recall"]
    return Statistic(names, single.items, single.rows, score)
