"""One step of a stage: a batch in, the losses out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ziya_visual.core.config import Objectives
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.model import ZiyaVisualModel
from ziya_visual.model.packed import mean_loss
from ziya_visual.train.batches import Batch
from ziya_visual.train.objectives import (
    Pairs,
    contrastive_loss,
    grounded_loss,
    matching_loss,
    similarity,
)

MAX_SCALE = 100.0  # of the contrastive logits, as CLIP caps it


@dataclass(frozen=True, slots=True)
class Losses:
    """The weighted sum to be minimised, and each part by name for the log."""

    total: Tensor
    parts: dict[str, float]


def compute_losses(
    model: ZiyaVisualModel,
    alignment: Alignment,
    batch: Batch,
    image_embeds: Tensor,
    *,
    objectives: Objectives,
    langs: list[str],
    step: int,
) -> Losses:
    """Every objective with a weight; the images are encoded and queried once for all of them.

    Matching and grounded generation are costly: they take the languages in turn, one a step.

    Args:
        image_embeds: float[B, P, Dv], the ViT's states of the batch's pictures.
        langs: names of the language numbers.
        step: picks the language that is matched and generated.
    """
    queries = model.query_images(image_embeds)
    weighted: list[Tensor] = []
    parts: dict[str, float] = {}

    def add(name: str, weight: float, loss: Tensor) -> None:
        weighted.append(weight * loss)
        parts[name] = loss.item()

    if objectives.language_model:
        sums = model.packed_loss(queries, batch.texts)
        weighted.append(objectives.language_model * mean_loss(sums))
        for number, part in sums.items():
            parts[f"language_model/{langs[number]}"] = part.total.item() / part.count
    scores = {}
    if objectives.contrastive or objectives.matching:
        features = alignment.image_features(queries)
        for number, pairs in batch.pairs.items():
            scores[number] = scaled_scores(model, alignment, features, pairs)
            if objectives.contrastive:
                loss = contrastive_loss(scores[number])
                add(f"contrastive/{langs[number]}", objectives.contrastive / len(batch.pairs), loss)
    turn = sorted(batch.pairs)[step % len(batch.pairs)] if batch.pairs else None
    if turn is not None:
        pairs = batch.pairs[turn]
        if objectives.matching:
            loss = matching_loss(model, alignment, image_embeds, pairs, scores[turn])
            add(f"matching/{langs[turn]}", objectives.matching, loss)
        if objectives.grounded:
            loss = grounded_loss(model, alignment, image_embeds, pairs)
            add(f"grounded/{langs[turn]}", objectives.grounded, loss)
    return Losses(torch.stack(weighted).sum(), parts)


def scaled_scores(model: ZiyaVisualModel, alignment: Alignment, features: Tensor, pairs: Pairs) -> Tensor:
    """Scaled similarities of the pairs' images and texts, float[B, B], row i the image of text i."""
    texts = alignment.text_features(model, pairs.input_ids, pairs.mask)
    return similarity(features[pairs.image_rows], texts) * alignment.logit_scale.exp().clamp(max=MAX_SCALE)
