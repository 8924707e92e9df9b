"""One step of a stage, or a share of one: a batch in, the losses out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ziya_visual.core import distributed
from ziya_visual.core.recipe import Objectives
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.network import ZiyaVisualModel
from ziya_visual.train.batches import Batch
from ziya_visual.train.objectives import (
    Pairs,
    Scores,
    all_scores,
    contrastive_loss,
    grounded_loss,
    matching_loss,
)

MAX_SCALE = 100.0  # of the contrastive logits, as CLIP caps it
Parts = dict[str, tuple[float, int]]


@dataclass(frozen=True, slots=True)
class Seen:
    """Pictures as the network sees them: float[B, P, Dv], None if nothing needs them, and float[B, Q, Dq]."""

    states: Tensor | None
    queries: Tensor


NOTHING = Seen(None, torch.empty(0))
See = Callable[[np.ndarray], Seen]  # of pictures by their rows


@dataclass(frozen=True, slots=True)
class Losses:
    """The weighted sum to be minimised; and each part by name for the log, as a sum and a count."""

    total: Tensor
    parts: Parts


def computing(precision: str, device: str = "cpu") -> torch.autocast:
    """The precision that a forward pass computes in: ``bf16`` or ``fp32``."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def add_gradients(
    model: ZiyaVisualModel,
    alignment: Alignment,
    batch: Batch,
    see: See,
    *,
    objectives: Objectives,
    langs: list[str],
    step: int,
    precision: str,
    at_once: int | None,
) -> Parts:
    """Forward and backward of a whole step, share by share; see :meth:`Batch.shares`.

    Args:
        see: the pictures of some rows.
        at_once: pictures whose texts go through the language model together, or None for all.

    Returns:
        Each loss by name, as a sum and a count.
    """
    found = []
    for share in batch.shares(at_once, align=objectives.align):
        with computing(precision, model.device.type):
            seen = see(share.pictures) if len(share.pictures) else NOTHING
            losses = compute_losses(
                model, alignment, share, seen, objectives=objectives, langs=langs, step=step
            )
        losses.total.backward()
        found.append(losses.parts)
    return added(found)


def compute_losses(
    model: ZiyaVisualModel,
    alignment: Alignment,
    batch: Batch,
    seen: Seen,
    *,
    objectives: Objectives,
    langs: list[str],
    step: int,
) -> Losses:
    """Every objective with a weight, and of it what is this process's share; see :mod:`processes`.

    Matching and grounded generation are costly: they take the languages in turn, one a step.

    Args:
        seen: the batch's pictures.
        langs: names of the language numbers.
        step: picks the language that is matched and generated.
    """
    weighted: list[Tensor] = []
    parts: Parts = {}
    if objectives.language_model and batch.texts is not None:
        sums = model.packed_loss(seen.queries if len(batch.pictures) else None, batch.texts)
        totals = [objectives.language_weight(langs[number]) * part.total for number, part in sums.items()]
        weighted.append(objectives.language_model * (torch.stack(totals).sum() / batch.learnt))
        for number, part in sums.items():
            parts[f"language_model/{langs[number]}"] = part.total.item(), part.count
    scores = {}
    if (objectives.contrastive or objectives.matching) and batch.pairs:
        features = alignment.image_features(seen.queries)
        for number, pairs in batch.pairs.items():
            scores[number] = scaled_scores(model, alignment, features, pairs)
            if objectives.contrastive:
                loss = contrastive_loss(scores[number]) / distributed.world_size()
                weight = objectives.contrastive / len(batch.pairs) * objectives.language_weight(langs[number])
                weighted.append(weight * loss)
                parts[f"contrastive/{langs[number]}"] = loss.item(), 1 if distributed.rank() == 0 else 0
    if batch.pairs:
        turn = sorted(batch.pairs)[step % len(batch.pairs)]
        weight = objectives.language_weight(langs[turn])
        found = _of_one_language(model, alignment, seen, batch.pairs[turn], scores.get(turn), objectives)
        for name, (strength, loss, count) in found.items():
            weighted.append(weight * strength * loss / distributed.sum_over_ranks(count))
            parts[f"{name}/{langs[turn]}"] = loss.item(), count
    return Losses(torch.stack(weighted).sum(), parts)


def _of_one_language(
    model: ZiyaVisualModel,
    alignment: Alignment,
    seen: Seen,
    pairs: Pairs,
    scores: Scores | None,
    objectives: Objectives,
) -> dict[str, tuple[float, Tensor, int]]:
    """Weight, sum and count of the losses that need the pictures' own states."""
    found = {}
    if objectives.matching or objectives.grounded:
        assert seen.states is not None
        states = seen.states[pairs.image_rows]
        if objectives.matching:
            assert scores is not None
            loss = matching_loss(model, alignment, states, pairs, scores)
            found["matching"] = objectives.matching, loss.total, loss.count
        if objectives.grounded:
            loss = grounded_loss(model, alignment, states, pairs)
            found["grounded"] = objectives.grounded, loss.total, loss.count
    return found


def added(found: Iterable[Parts]) -> Parts:
    """The sums and counts of shares, or of processes, together."""
    sums: Parts = {}
    for parts in found:
        for name, (total, count) in parts.items():
            before, counted = sums.get(name, (0.0, 0))
            sums[name] = before + total, counted + count
    return sums


def means(parts: Parts) -> dict[str, float]:
    """The mean of each loss."""
    return {name: total / count for name, (total, count) in parts.items()}


def scaled_scores(model: ZiyaVisualModel, alignment: Alignment, features: Tensor, pairs: Pairs) -> Scores:
    """Scaled similarities of all pairs; ``features`` float[B, Q, Dp] are of the batch's images."""
    images = features[pairs.image_rows]
    if len(pairs.pictures):
        texts = alignment.text_features(model, pairs.input_ids, pairs.mask)
    else:
        texts = images.new_zeros(0, images.shape[-1])
    return all_scores(images, texts, pairs, alignment.logit_scale.exp().clamp(max=MAX_SCALE))
