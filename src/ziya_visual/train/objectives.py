"""What is minimised in stage 1 besides the language model's loss: contrast, matching, grounded generation.

Legend: B pairs of an image and a text, Q queries, Dp projection width, T tokens a text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ziya_visual.model.alignment import Alignment
from ziya_visual.model.model import ZiyaVisualModel


@dataclass(frozen=True, slots=True)
class Pairs:
    """Texts with the row of the image that each belongs to: int64[B, T] (padded), int64[B, T], int64[B]."""

    input_ids: Tensor
    mask: Tensor
    image_rows: Tensor


def similarity(image_features: Tensor, text_features: Tensor) -> Tensor:
    """float[N, Q, Dp], float[B, Dp] -> float[N, B]: a text fits an image as its best query does."""
    return torch.einsum("nqd,bd->nqb", image_features, text_features).amax(1)


def contrastive_loss(scores: Tensor, image_rows: Tensor) -> Tensor:
    """Mean of both directions' cross-entropies over texts of one language, one text an image.

    Args:
        scores: float[N, B], scaled similarities.
        image_rows: int64[B], the image of each text. Another text of the same image is no negative: images
        and
            texts are one to one here, which is asserted.
    """
    assert scores.shape[0] == scores.shape[1] == len(image_rows)
    scores = scores[image_rows].float()
    target = torch.arange(len(image_rows), device=scores.device)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


def matching_loss(
    model: ZiyaVisualModel, alignment: Alignment, image_embeds: Tensor, pairs: Pairs, scores: Tensor
) -> Tensor:
    """Cross-entropy of match and no match, with one hard negative image and one hard negative text a pair.

    Negatives are drawn in proportion to exp(score), as BLIP-2 does (section 3.2).
    """
    rows = pairs.image_rows
    with torch.no_grad():
        weights = scores[rows].float().softmax(-1)
        weights.fill_diagonal_(0)
        other_text = torch.multinomial(weights + 1e-9, 1).squeeze(-1)
        other_image = torch.multinomial(weights.T + 1e-9, 1).squeeze(-1)
    images = image_embeds[torch.cat([rows, rows[other_image], rows])]
    texts = torch.cat([pairs.input_ids, pairs.input_ids, pairs.input_ids[other_text]])
    masks = torch.cat([pairs.mask, pairs.mask, pairs.mask[other_text]])
    logits = alignment.matching_logits(model, images, texts, masks).float()
    target = torch.zeros(len(texts), dtype=torch.long, device=logits.device)
    target[: len(rows)] = 1
    return F.cross_entropy(logits, target)


def grounded_loss(model: ZiyaVisualModel, alignment: Alignment, image_embeds: Tensor, pairs: Pairs) -> Tensor:
    """Mean cross-entropy of each text's tokens after the first, written by the Q-Former itself."""
    logits = alignment.grounded_logits(model, image_embeds[pairs.image_rows], pairs.input_ids, pairs.mask)
    target = pairs.input_ids[:, 1:].masked_fill(pairs.mask[:, 1:] == 0, -100)
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), target.flatten(), ignore_index=-100)
