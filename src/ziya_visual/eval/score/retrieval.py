"""``score retrieval``: recall at K both ways, from embeddings or similarities in NPZ files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.eval import retrieval
from ziya_visual.eval.metrics.bootstrap import Floats, Statistic, means, ratios
from ziya_visual.eval.score.files import Scored, read_arrays


def score_retrieval(
    *,
    embeddings: Path | None = None,
    similarity: Path | None = None,
    rerank: Path | None = None,
    top_k: int | None = None,
) -> Scored:
    """Recall at 1, 5 and 10 in both directions; see :mod:`ziya_visual.eval.retrieval`."""
    if (embeddings is None) == (similarity is None):
        raise ConfigError("score retrieval needs either --embeddings or --similarity, not both")
    if (rerank is None) != (top_k is None):
        raise ConfigError("--rerank and --top-k go together")
    if embeddings is not None:
        arrays = read_arrays(embeddings, ("image", "text", "text2image"))
        scores = retrieval.similarity(arrays["image"], arrays["text"])
    else:
        assert similarity is not None
        arrays = read_arrays(similarity, ("i2t", "text2image"))
        scores = _matrix(arrays["i2t"], "i2t", similarity)
    owner = retrieval.check_pairs(scores, arrays["text2image"])
    by_row = by_column = scores
    rule = "ties within 1e-6 against the system"
    if rerank is not None and top_k is not None:
        itm = _matrix(read_arrays(rerank, ("itm",))["itm"], "itm", rerank)
        if not np.isfinite(itm).all():
            raise DataError(f"{rerank}: itm holds NaN or infinite values")
        by_row, by_column = retrieval.rerank(scores, itm, top_k, owner)
        rule += f"; contrastive + matching within the top {top_k}"
    texts, images = retrieval.pairs(owner)
    ranks = retrieval.rank_texts(by_row, owner), retrieval.rank_images(by_column, owner)
    items = {
        f"{name}_r{depth}": {
            f"{kind}/{i}": 100.0 * hit for i, hit in enumerate((found < depth).tolist())
        }
        for (name, kind), found in zip((("i2t", "image"), ("t2i", "text")), ranks, strict=True)
        for depth in retrieval.DEPTHS
    }  # fmt: skip
    return Scored(
        retrieval.recalls(*ranks),
        +Counter({"images_without_text": scores.shape[0] - len(np.unique(images))}),
        items,
        rule,
        statistics=[_mean_recalls(items)],
        clusters={f"text/{t}": f"image/{i}" for t, i in zip(texts.tolist(), images.tolist(), strict=True)},
    )


def _matrix(values: npt.NDArray[np.floating], name: str, path: Path) -> npt.NDArray[np.floating]:
    """A matrix as it is if it is of floats of 32 or 64 bits, else as float32."""
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        found = f"{values.dtype}{list(values.shape)}"
        raise DataError(f"{path}: {name} is {found}, expected numbers [images, texts]")
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


def _mean_recalls(items: dict[str, dict[str, float]]) -> Statistic:
    """The mean recalls, whose intervals are no means of items."""
    single = means(items)

    def score(sums: Floats) -> Floats:
        each = np.stack([part.mean(axis=1) for part in np.hsplit(ratios(sums), 2)], axis=1)
        return np.hstack([each, each.mean(axis=1, keepdims=True)])

    names = ["i2t_mean_recall", "t2i_mean_recall", "mean_recall"]
    return Statistic(names, single.items, single.rows, score)
