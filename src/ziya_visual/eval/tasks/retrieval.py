"""Pictures and captions ranked against each other in pools: recall at 1, 5 and 10, both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ziya_visual.eval.results import Metric, Scope
from ziya_visual.eval.retrieval import DEPTHS, rank_images, rank_texts, similarity
from ziya_visual.eval.suites import Pool

Floats = npt.NDArray[np.float32]


def measure(
    pools: Sequence[Pool], image_embeds: Mapping[str, Floats], text_embeds: Mapping[str, Floats], scope: Scope
) -> list[Metric]:
    """``i2t_r1`` ... ``t2i_r10``, averaged over all queries of all pools.

    Args:
        pools: pictures and captions, one caption a picture.
        image_embeds: image_id -> float32[Q, D].
        text_embeds: caption -> float32[D].
        scope: of the metrics.
    """
    owner = [image_id for pool in pools for image_id in pool.image_ids]
    ranks: dict[str, list[npt.NDArray[np.int64]]] = {"i2t": [], "t2i": []}
    for pool in pools:
        image = np.stack([image_embeds[image_id] for image_id in pool.image_ids])
        text = np.stack([text_embeds[caption] for caption in pool.captions])
        scores, pairs = similarity(image, text), np.arange(len(pool.captions))
        ranks["i2t"].append(rank_texts(scores, pairs))
        ranks["t2i"].append(rank_images(scores, pairs))
    metrics = []
    for way, found in ranks.items():
        rank = np.concatenate(found)
        for depth in DEPTHS:
            hits = np.where(rank < depth, 100.0, 0.0)
            metrics.append(scope.mean(f"{way}_r{depth}", hits, clusters=owner))
    return metrics
