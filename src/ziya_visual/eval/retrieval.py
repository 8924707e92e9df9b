"""Recall at K between images and texts, from embeddings or a similarity matrix; no model.

A query is right at K if fewer than K wrong candidates score at least as high as its best right one. Scores
within 1e-6 are ties and count against the system, so equal embeddings never look like success.

Legend: N images, M texts, Q query tokens per image, D dimensions, P right pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ziya_visual.core.errors import DataError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

TIE = 1e-6
DEPTHS = (1, 5, 10)
CUT_OFF = np.iinfo(np.int64).max  # the rank of a query without a right candidate
_BLOCK_BYTES, _BLOCK_ROWS = 64 << 20, 256


def similarity(image: npt.NDArray[np.floating], text: npt.NDArray[np.floating]) -> Floats:
    """Return scores float32[N, M]: the cosine, for [N, Q, D] images the largest over their query tokens.

    Embeddings are normalized to length one first, as CLIP_benchmark and LAVIS do. Shapes that do not match,
    and vectors that are zero or not finite, raise ``DataError``.
    """
    image, text = np.asarray(image, np.float32), np.asarray(text, np.float32)
    if image.ndim not in (2, 3) or text.ndim != 2 or image.shape[-1] != text.shape[-1]:
        raise DataError(
            f"embeddings: image {image.shape} and text {text.shape}; expected [N, D] or [N, Q, D], and [M, D]"
        )
    image, text = _unit(image, "image"), _unit(text, "text")
    if image.ndim == 2:
        scores: Floats = image @ text.T
        return scores
    scores = np.empty((len(image), len(text)), np.float32)
    queries = image.shape[1]
    step = max(1, _BLOCK_BYTES // (4 * queries * len(text)))
    for start in range(0, len(image), step):
        block = image[start : start + step]
        products = (block.reshape(-1, block.shape[-1]) @ text.T).reshape(len(block), queries, len(text))
        scores[start : start + step] = products.max(axis=1)
    return scores


def _unit(vectors: Floats, name: str) -> Floats:
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    bad = ~np.isfinite(norm) | (norm == 0)
    if bad.any():
        raise DataError(
            f"embeddings: {np.count_nonzero(bad)} of the {name} vectors are NaN, infinite or all zero"
        )
    unit: Floats = vectors / norm
    return unit


def check_text2image(scores: npt.NDArray[np.floating], text2image: npt.NDArray[np.integer]) -> Ints:
    """Return ``text2image`` as int64[M] or [M, K], after refusing what cannot be scored.

    A text with several right images (MUGE's queries have some) has a row of them, padded with -1.
    """
    images, texts = scores.shape
    several = text2image.ndim == 2
    if text2image.shape[:1] != (texts,) or text2image.ndim > 2 or text2image.dtype.kind not in "iu":
        shape = f"{text2image.dtype}{list(text2image.shape)}"
        raise DataError(f"text2image is {shape}, expected integers [{texts}], one per text (or [{texts}, K])")
    if text2image.size == 0 or images == 0:
        raise DataError(f"nothing to score: {images} images, {texts} texts")
    least = text2image.max(axis=1).min() if several else text2image.min()
    if least < 0 or text2image.max() >= images:
        raise DataError(f"text2image runs from {least} to {text2image.max()}; images are 0 to {images - 1}")
    if not np.isfinite(scores).all():
        raise DataError(f"{np.count_nonzero(~np.isfinite(scores))} scores are NaN or infinite")
    return text2image.astype(np.int64)


def right_pairs(text2image: Ints) -> tuple[Ints, Ints]:
    """Return the right pairs as (texts, images), int64[P] each."""
    if text2image.ndim == 1:
        return np.arange(len(text2image)), text2image
    texts, places = np.nonzero(text2image >= 0)
    return texts, text2image[texts, places]


def ranks(
    scores: Floats, text2image: Ints, *, itm: Floats | None = None, top_k: int = 0
) -> tuple[Ints, Ints]:
    """Return (ranks of the images' texts, ranks of the texts' images), int64[N] and int64[M].

    ``scores`` are contrastive, float32[N, M]. Matching logits ``itm`` float32[N, M] rank the ``top_k``
    candidates of each row and column again, see :func:`rerank`.
    """
    by_row, by_column = (scores, scores) if itm is None else rerank(scores, itm, top_k, text2image)
    return rank_texts(by_row, text2image), rank_images(by_column, text2image)


def rank_texts(scores: npt.NDArray[np.floating], text2image: Ints) -> Ints:
    """Return for every image the number of wrong texts ahead of its best right one: int64[N]."""
    return _wrong_ahead(scores, text2image, by_image=True)


def rank_images(scores: npt.NDArray[np.floating], text2image: Ints) -> Ints:
    """Return for every text the number of wrong images ahead of its best right one: int64[M]."""
    return _wrong_ahead(scores, text2image, by_image=False)


def _wrong_ahead(scores: npt.NDArray[np.floating], text2image: Ints, *, by_image: bool) -> Ints:
    texts, images = right_pairs(text2image)
    queries = images if by_image else texts
    right = scores[images, texts]
    limit = np.full(scores.shape[0 if by_image else 1], -np.inf, scores.dtype)
    np.maximum.at(limit, queries, right)
    has_right = limit > -np.inf
    limit -= TIE
    ahead: Ints = -np.bincount(queries[right >= limit[queries]], minlength=len(limit))
    for start in range(0, len(scores), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        if by_image:
            ahead[rows] += np.count_nonzero(scores[rows] >= limit[rows, None], axis=1)
        else:
            ahead += np.count_nonzero(scores[rows] >= limit, axis=0)
    ahead[~has_right] = CUT_OFF
    return ahead


def rerank(scores: Floats, itm: Floats, top_k: int, text2image: Ints) -> tuple[Floats, Floats]:
    """Return contrastive plus matching score within the top k of each row and of each column, else -inf.

    Both are float32[N, M]: the scores to rank texts by, and those to rank images by. If scores tie at the
    edge of the top k, the right pair is left out.
    """
    if itm.shape != scores.shape:
        raise DataError(f"itm is {list(itm.shape)}, expected {list(scores.shape)} as the similarity")
    if top_k < 1:
        raise DataError(f"--top-k {top_k}: expected 1 or more")
    texts, images = right_pairs(text2image)
    strict = scores.copy()
    strict[images, texts] -= TIE
    total = scores + itm
    return _keep_top(strict, total, top_k), _keep_top(strict.T, total.T, top_k).T


def candidates(scores: Floats, top_k: int, text2image: Ints) -> npt.NDArray[np.bool_]:
    """Return bool[N, M]: the pairs whose matching logit :func:`rerank` reads."""
    by_row, by_column = rerank(scores, np.zeros_like(scores), top_k, text2image)
    mask: npt.NDArray[np.bool_] = (by_row > -np.inf) | (by_column > -np.inf)
    return mask


def _keep_top(order: Floats, values: Floats, top_k: int) -> Floats:
    result = np.full(values.shape, -np.inf, values.dtype)
    top_k = min(top_k, values.shape[1])
    top = np.argpartition(-order, top_k - 1, axis=1)[:, :top_k]
    np.put_along_axis(result, top, np.take_along_axis(values, top, axis=1), axis=1)
    return result


def recalls(image_ranks: Ints, text_ranks: Ints) -> dict[str, float]:
    """Return ``i2t_r1`` ... ``t2i_r10`` in percent, the mean of each direction (MUGE's is t2i) and of all."""
    scores = {}
    for name, query_ranks in (("i2t", image_ranks), ("t2i", text_ranks)):
        for depth in DEPTHS:
            scores[f"{name}_r{depth}"] = 100 * float(np.mean(query_ranks < depth))
    for name in ("i2t", "t2i"):
        scores[f"{name}_mean_recall"] = sum(scores[f"{name}_r{depth}"] for depth in DEPTHS) / len(DEPTHS)
    scores["mean_recall"] = (scores["i2t_mean_recall"] + scores["t2i_mean_recall"]) / 2
    return scores
