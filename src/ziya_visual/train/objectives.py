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


def contrastive_loss(scores: Tensor) -> Tensor:
    """Mean of both directions' cross-entropies.

    Args:
        scores: float[B, B], scaled similarities; text i belongs to image i and to no other of the batch.
    """
    target = torch.arange(len(scores), device=scores.device)
    scores = scores.float()
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


def matching_loss(
    model: ZiyaVisualModel, alignment: Alignment, image_embeds: Tensor, pairs: Pairs, scores: Tensor
) -> Tensor:
    """Cross-entropy of match and no match, with one hard negative image and one hard negative text a pair.

    Negatives are drawn in proportion to exp(score), as BLIP-2 does (section 3.2).

    Args:
        image_embeds: float[N, P, Dv], of all pictures of the batch.
        scores: float[B, B], scaled similarities of the pairs.
    """
    rows = pairs.image_rows
    own = torch.eye(len(rows), dtype=torch.bool, device=scores.device)
    likely = scores.detach().float().masked_fill(own, -torch.inf)
    other_text = torch.multinomial(likely.softmax(1), 1).squeeze(-1)
    other_image = torch.multinomial(likely.T.softmax(1), 1).squeeze(-1)
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
