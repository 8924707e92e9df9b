"""One step of a stage, or a share of one: a batch in, the losses out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ziya_visual.core.config import Objectives
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.model import ZiyaVisualModel
from ziya_visual.train.batches import Batch
from ziya_visual.train.feature_cache import Encode
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
    """The weighted sum to be minimised; and each part by name for the log, as a sum and a count."""

    total: Tensor
    parts: dict[str, tuple[float, int]]


def computing(precision: str) -> torch.autocast:
    """The precision that a forward pass computes in: ``bf16`` or ``fp32``."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def add_gradients(
    model: ZiyaVisualModel,
    alignment: Alignment,
    batch: Batch,
    states_of: Encode,
    *,
    objectives: Objectives,
    langs: list[str],
    step: int,
    precision: str,
    at_once: int | None,
) -> dict[str, float]:
    """Forward and backward of a whole step, share by share; see :meth:`Batch.shares`.

    Args:
        states_of: the ViT's states of pictures by their rows.
        at_once: pictures whose texts go through the language model together, or None for all.

    Returns:
        The mean of each loss by name.
    """
    found = []
    for share in batch.shares(at_once, align=objectives.align):
        with computing(precision):
            states = states_of(share.pictures)
            losses = compute_losses(
                model, alignment, share, states, objectives=objectives, langs=langs, step=step
            )
        losses.total.backward()
        found.append(losses)
    return mean_parts(found)


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
    parts: dict[str, tuple[float, int]] = {}

    def add(name: str, weight: float, loss: Tensor) -> None:
        weighted.append(weight * loss)
        parts[name] = loss.item(), 1

    if objectives.language_model and batch.texts is not None:
        sums = model.packed_loss(queries, batch.texts)
        loss = torch.stack([part.total for part in sums.values()]).sum() / batch.learnt
        weighted.append(objectives.language_model * loss)
        for number, part in sums.items():
            parts[f"language_model/{langs[number]}"] = part.total.item(), part.count
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


def mean_parts(shares: Sequence[Losses]) -> dict[str, float]:
    """The means of a step by name, of all its shares."""
    sums: dict[str, tuple[float, int]] = {}
    for share in shares:
        for name, (total, count) in share.parts.items():
            before, counted = sums.get(name, (0.0, 0))
            sums[name] = before + total, counted + count
    return {name: total / count for name, (total, count) in sums.items()}


def scaled_scores(model: ZiyaVisualModel, alignment: Alignment, features: Tensor, pairs: Pairs) -> Tensor:
    """Scaled similarities of the pairs' images and texts, float[B, B], row i the image of text i."""
    texts = alignment.text_features(model, pairs.input_ids, pairs.mask)
    return similarity(features[pairs.image_rows], texts) * alignment.logit_scale.exp().clamp(max=MAX_SCALE)
