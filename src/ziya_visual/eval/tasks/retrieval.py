"""Pictures and captions ranked against each other in pools: recall at 1, 5 and 10, both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ziya_visual.eval.results import Metric, Scope
from ziya_visual.eval.retrieval import DEPTHS, Floats, rank_images, rank_texts, rerank, similarity
from ziya_visual.eval.suites import Pool

TOP_K = 16  # of a hundred: how many of each row and column the matching head looks at


def similarities(
    pools: Sequence[Pool], image_embeds: Mapping[str, Floats], text_embeds: Mapping[str, Floats]
) -> list[Floats]:
    """The contrastive scores of each pool, float32[N, N].

    Args:
        pools: pictures and captions, one caption a picture.
        image_embeds: image_id -> float32[Q, D].
        text_embeds: caption -> float32[D].
    """
    return [
        similarity(
            np.stack([image_embeds[image_id] for image_id in pool.image_ids]),
            np.stack([text_embeds[caption] for caption in pool.captions]),
        )
        for pool in pools
    ]


def measure(
    pools: Sequence[Pool], scores: Sequence[Floats], scope: Scope, *, matching: Sequence[Floats] = ()
) -> list[Metric]:
    """``i2t_r1`` ... ``t2i_r10``, averaged over all queries of all pools.

    Args:
        pools: as in :func:`similarities`.
        scores: what it returned.
        scope: of the metrics.
        matching: logits float32[N, N] of each pool, for contrastive plus matching within the top 16.
    """
    owner = [image_id for pool in pools for image_id in pool.image_ids]
    ranks: dict[str, list[npt.NDArray[np.int64]]] = {"i2t": [], "t2i": []}
    for place, one in enumerate(scores):
        pairs = np.arange(len(one))
        by_row, by_column = rerank(one, matching[place], TOP_K, pairs) if matching else (one, one)
        ranks["i2t"].append(rank_texts(by_row, pairs))
        ranks["t2i"].append(rank_images(by_column, pairs))
    metrics = []
    for way, found in ranks.items():
        rank = np.concatenate(found)
        for depth in DEPTHS:
            hits = np.where(rank < depth, 100.0, 0.0)
            metrics.append(scope.mean(f"{way}_r{depth}", hits, clusters=owner))
    return metrics
