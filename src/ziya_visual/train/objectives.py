"""What is minimised in stage 1 besides the language model's loss: contrast, matching, grounded generation.

A loss is a sum and a count, so that its mean may be taken over all processes. Legend: B pairs of an image and
a text here, N on all processes, Q queries, Dp projection width, P patches + 1, Dv ViT width, T tokens a text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ziya_visual.core.distributed import gather_rows
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.network import ZiyaVisualModel
from ziya_visual.model.packed.forward import LossSum

UNLIKELY = -1e4  # of a negative: drawn only where there is no other


@dataclass(frozen=True, slots=True)
class Pairs:
    """Texts with the row of the image that each belongs to: int64[B, T] (padded), int64[B, T], int64[B].

    ``pictures`` int64[B] names the images: two texts of one picture are no negatives of each other. The
    processes before this one have ``first`` pairs; ``tokens`` stand behind the first ones of the texts here.
    """

    input_ids: Tensor
    mask: Tensor
    image_rows: Tensor
    pictures: Tensor
    first: int
    tokens: int

    def to(self, device: torch.device) -> Pairs:
        """On another device."""
        tensors = (self.input_ids, self.mask, self.image_rows, self.pictures)
        ids, mask, rows, pictures = (tensor.to(device) for tensor in tensors)
        return Pairs(ids, mask, rows, pictures, self.first, self.tokens)


@dataclass(frozen=True, slots=True)
class Scores:
    """Scaled similarities of all pairs, float[N, N], row i the image of text i; of them ``own`` are here.

    ``same`` bool[N, N] says which texts are of which image's picture.
    """

    logits: Tensor
    same: Tensor
    own: slice


def similarity(image_features: Tensor, text_features: Tensor) -> Tensor:
    """float[N, Q, Dp], float[B, Dp] -> float[N, B]: a text fits an image as its best query does."""
    return torch.einsum("nqd,bd->nqb", image_features, text_features).amax(1)


def all_scores(images: Tensor, texts: Tensor, pairs: Pairs, scale: Tensor) -> Scores:
    """Similarities over all processes.

    Args:
        images: float[B, Q, Dp], of each pair.
        texts: float[B, Dp].
        pairs: of this process.
        scale: float[], what similarities are multiplied by.
    """
    names = gather_rows(pairs.pictures)
    logits = similarity(gather_rows(images), gather_rows(texts)) * scale
    return Scores(logits, names[:, None] == names, slice(pairs.first, pairs.first + len(pairs.pictures)))


def contrastive_loss(scores: Scores) -> Tensor:
    """Mean of both directions' cross-entropies over all pairs: the same on every process."""
    logits = scores.logits.float()
    target = torch.arange(len(logits), device=logits.device)
    others = scores.same & (target[:, None] != target)
    logits = logits.masked_fill(others, -torch.inf)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def matching_loss(
    model: ZiyaVisualModel, alignment: Alignment, image_embeds: Tensor, pairs: Pairs, scores: Scores
) -> LossSum:
    """Cross-entropies of match and no match, with one hard negative image and one hard negative text a pair.

    Negatives are drawn from all processes in proportion to exp(score), as BLIP-2 does (section 3.2).

    Args:
        image_embeds: float[B, P, Dv], of the pairs' images.
    """
    likely = scores.logits.detach().float().masked_fill(scores.same, UNLIKELY)
    likely.fill_diagonal_(-torch.inf)
    other_text = torch.multinomial(likely.softmax(1), 1).squeeze(-1)[scores.own]
    other_image = torch.multinomial(likely.T.softmax(1), 1).squeeze(-1)[scores.own]
    all_images, all_ids, all_masks = (
        gather_rows(image_embeds),
        gather_rows(pairs.input_ids),
        gather_rows(pairs.mask),
    )
    length = all_ids.shape[1]
    ids, mask = (F.pad(x, (0, length - x.shape[1])) for x in (pairs.input_ids, pairs.mask))
    own = len(pairs.pictures)
    if own == 0:
        return LossSum(image_embeds.new_zeros(()), 0)
    images = torch.cat([image_embeds, all_images[other_image], image_embeds])
    texts = torch.cat([ids, ids, all_ids[other_text]])
    masks = torch.cat([mask, mask, all_masks[other_text]])
    logits = alignment.matching_logits(model, images, texts, masks).float()
    target = torch.zeros(len(texts), dtype=torch.long, device=logits.device)
    target[:own] = 1
    return LossSum(F.cross_entropy(logits, target, reduction="sum"), len(texts))


def grounded_loss(
    model: ZiyaVisualModel, alignment: Alignment, image_embeds: Tensor, pairs: Pairs
) -> LossSum:
    """Cross-entropies of each text's tokens after the first, written by the Q-Former itself.

    Args:
        image_embeds: float[B, P, Dv], of the pairs' images.
    """
    if len(pairs.pictures) == 0:
        return LossSum(image_embeds.new_zeros(()), 0)
    logits = alignment.grounded_logits(model, image_embeds, pairs.input_ids, pairs.mask)
    target = pairs.input_ids[:, 1:].masked_fill(pairs.mask[:, 1:] == 0, -100)
    losses = logits[:, :-1].float().flatten(0, 1)
    total = F.cross_entropy(losses, target.flatten(), ignore_index=-100, reduction="sum")
    return LossSum(total, pairs.tokens)
