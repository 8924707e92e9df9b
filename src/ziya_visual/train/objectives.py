"""The batch of a step and the losses that a stage minimizes on it.

Every loss is a sum and a count, so that its mean can be taken over micro-batches and ranks.

Legend: B captions of this rank, N of all ranks, T tokens of a text, P patches + 1, Dv ViT width, Q queries,
Dq Q-Former width, Dp projection width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ziya_visual.core import distributed
from ziya_visual.data.packing import PackedBatch, some_rows
from ziya_visual.model.network import Alignment, ZiyaVisualModel
from ziya_visual.model.packed.forward import LossSum

MAX_SCALE = 100.0  # of the contrastive logits, as CLIP caps it
UNLIKELY = -1e4  # the logit of a text of the same image: drawn as a negative only if there is no other
Losses = dict[str, tuple[float, int]]  # name -> sum, count


@dataclass(frozen=True, slots=True)
class LossWeights:
    """The weight of each loss (0 leaves it out), and factors on all losses of a language (1 if absent)."""

    language_model: float = 1.0
    contrastive: float = 0.0
    matching: float = 0.0
    grounded: float = 0.0
    languages: Mapping[str, float] = field(default_factory=dict)

    @property
    def align(self) -> bool:
        """Return whether any loss compares images with captions in the Q-Former."""
        return bool(self.contrastive or self.matching or self.grounded)


@dataclass(frozen=True, slots=True)
class CaptionBatch:
    """Captions of one language and the images that they belong to."""

    input_ids: Tensor  # int64[B, T], padded
    mask: Tensor  # int64[B, T]
    image_rows: Tensor  # int64[B], the row of each caption's image in the batch
    image_ids: Tensor  # int64[B], the image's number in the dataset; captions of one image are no negatives
    first: int  # the number of captions on the ranks before this one
    tokens: int  # the number of tokens after the first of each caption

    def to(self, device: torch.device) -> CaptionBatch:
        """Return the captions on another device."""
        tensors = (self.input_ids, self.mask, self.image_rows, self.image_ids)
        ids, mask, rows, image_ids = (tensor.to(device) for tensor in tensors)
        return CaptionBatch(ids, mask, rows, image_ids, self.first, self.tokens)


@dataclass(frozen=True, slots=True)
class Batch:
    """A step's images and texts on one rank, or a micro-batch of them."""

    images: np.ndarray  # int64[B], numbers of images in the dataset
    texts: PackedBatch | None  # a row for each image, then one for the texts without an image, if any
    captions: dict[int, CaptionBatch]  # by language number, for the losses that align images with captions
    supervised: int  # the step's number of supervised tokens, by which the sum of their losses is divided

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its captions on a device, and the supervised tokens of all ranks."""
        captions = {lang: batch.to(device) for lang, batch in self.captions.items()}
        supervised = int(distributed.sum_over_ranks(self.supervised))
        return replace(self, captions=captions, supervised=supervised)

    def micro_batches(self, size: int | None, *, align: bool) -> list[Batch]:
        """Split the batch into micro-batches whose gradients add up to its own.

        Losses that compare images with each other (``align``) need all images in one micro-batch. Texts go
        through the language model, which takes the most memory, ``size`` images at a time.
        """
        if size is None or self.texts is None:
            return [self]
        batches = [replace(self, texts=None)] if align and self.captions else []
        rows, images = len(self.texts.lengths), len(self.images)
        for start in range(0, rows, size):
            end = min(start + size, rows)
            texts = some_rows(self.texts, start, end)
            batches.append(Batch(self.images[start : min(end, images)], texts, {}, self.supervised))
        return batches


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """The network's features of some images."""

    embeds: Tensor | None  # float[B, P, Dv] of the ViT, or None if no loss needs them
    queries: Tensor  # float[B, Q, Dq] of the Q-Former


NO_IMAGES = ImageFeatures(None, torch.empty(0))
GetFeatures = Callable[[np.ndarray], ImageFeatures]  # image numbers int64[B] -> their features


@dataclass(frozen=True, slots=True)
class Scores:
    """Scaled similarities of all captions and images."""

    logits: Tensor  # float[N, N], row i is the image of caption i
    same_image: Tensor  # bool[N, N], whether two captions are of one image
    own: slice  # the rows of this rank


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which a forward pass computes in ``bf16`` or ``fp32``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def compute_losses(
    model: ZiyaVisualModel,
    alignment: Alignment,
    batch: Batch,
    features: ImageFeatures,
    *,
    weights: LossWeights,
    langs: list[str],
    step: int,
) -> tuple[Tensor, Losses]:
    """Return the weighted sum of this rank's losses, float32[], and each loss by name.

    Matching and grounded generation are costly, so they take the languages in turn, one each step. Language
    numbers index ``langs``.
    """
    terms: list[Tensor] = []
    losses: Losses = {}
    factors = [weights.languages.get(lang, 1.0) for lang in langs]
    if weights.language_model and batch.texts is not None:
        sums = model.packed_loss(features.queries if len(batch.images) else None, batch.texts)
        total = torch.stack([factors[lang] * part.total for lang, part in sums.items()]).sum()
        terms.append(weights.language_model * (total / batch.supervised))
        losses |= {f"language_model/{langs[n]}": (part.total.item(), part.count) for n, part in sums.items()}
    scores: dict[int, Scores] = {}
    if (weights.contrastive or weights.matching) and batch.captions:
        image_features = alignment.image_features(features.queries)
        for lang, captions in batch.captions.items():
            scores[lang] = similarity_scores(model, alignment, image_features, captions)
            if weights.contrastive:
                loss = contrastive_loss(scores[lang]) / distributed.world_size()
                terms.append(weights.contrastive / len(batch.captions) * factors[lang] * loss)
                losses[f"contrastive/{langs[lang]}"] = loss.item(), 1 if distributed.rank() == 0 else 0
    if batch.captions and (weights.matching or weights.grounded):
        lang = sorted(batch.captions)[step % len(batch.captions)]
        captions = batch.captions[lang]
        assert features.embeds is not None
        embeds = features.embeds[captions.image_rows]
        costly = {}
        if weights.matching:
            loss_sum = matching_loss(model, alignment, embeds, captions, scores[lang])
            costly["matching"] = weights.matching, loss_sum
        if weights.grounded:
            costly["grounded"] = weights.grounded, grounded_loss(model, alignment, embeds, captions)
        for name, (weight, part) in costly.items():
            terms.append(factors[lang] * weight * part.total / distributed.sum_over_ranks(part.count))
            losses[f"{name}/{langs[lang]}"] = part.total.item(), part.count
    return torch.stack(terms).sum(), losses


def add_losses(parts: Iterable[Losses]) -> Losses:
    """Add up the sums and counts of micro-batches or ranks."""
    sums: Losses = {}
    for losses in parts:
        for name, (total, count) in losses.items():
            total_before, count_before = sums.get(name, (0.0, 0))
            sums[name] = total_before + total, count_before + count
    return sums


def mean_losses(losses: Losses) -> dict[str, float]:
    """Return the mean of each loss."""
    return {name: total / count for name, (total, count) in losses.items()}


def similarity_scores(
    model: ZiyaVisualModel, alignment: Alignment, image_features: Tensor, captions: CaptionBatch
) -> Scores:
    """Compare the captions of all ranks with their images, whose features are float[B, Q, Dp] on this rank.

    A text fits an image as well as the image's best query does.
    """
    images = image_features[captions.image_rows]
    if len(captions.image_ids):
        texts = alignment.text_features(model, captions.input_ids, captions.mask)
    else:
        texts = images.new_zeros(0, images.shape[-1])
    scale = alignment.logit_scale.exp().clamp(max=MAX_SCALE)
    image_ids = distributed.gather_rows(captions.image_ids)
    images, texts = distributed.gather_rows(images), distributed.gather_rows(texts)
    logits = torch.einsum("nqd,bd->nqb", images, texts).amax(1) * scale
    own = slice(captions.first, captions.first + len(captions.image_ids))
    return Scores(logits, image_ids[:, None] == image_ids, own)


def contrastive_loss(scores: Scores) -> Tensor:
    """Return the mean cross-entropy over all pairs and both directions; it is the same on every rank."""
    logits = scores.logits.float()
    target = torch.arange(len(logits), device=logits.device)
    others = scores.same_image & (target[:, None] != target)
    logits = logits.masked_fill(others, -torch.inf)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def matching_loss(
    model: ZiyaVisualModel, alignment: Alignment, embeds: Tensor, captions: CaptionBatch, scores: Scores
) -> LossSum:
    """Sum the cross-entropies of match against no match; each pair has a hard negative image and text.

    Negatives are drawn from all ranks in proportion to exp(score), as in BLIP-2 (section 3.2). ``embeds`` are
    float[B, P, Dv] of each caption's image.
    """
    likely = scores.logits.detach().float().masked_fill(scores.same_image, UNLIKELY)
    likely.fill_diagonal_(-torch.inf)
    other_text = torch.multinomial(likely.softmax(1), 1).squeeze(-1)[scores.own]
    other_image = torch.multinomial(likely.T.softmax(1), 1).squeeze(-1)[scores.own]
    all_embeds = distributed.gather_rows(embeds)
    all_ids, all_masks = distributed.gather_rows(captions.input_ids), distributed.gather_rows(captions.mask)
    length = all_ids.shape[1]
    ids, mask = (F.pad(x, (0, length - x.shape[1])) for x in (captions.input_ids, captions.mask))
    own = len(captions.image_ids)
    if own == 0:
        return LossSum(embeds.new_zeros(()), 0)
    images = torch.cat([embeds, all_embeds[other_image], embeds])
    texts = torch.cat([ids, ids, all_ids[other_text]])
    masks = torch.cat([mask, mask, all_masks[other_text]])
    logits = alignment.matching_logits(model, images, texts, masks).float()
    target = torch.zeros(len(texts), dtype=torch.long, device=logits.device)
    target[:own] = 1
    return LossSum(F.cross_entropy(logits, target, reduction="sum"), len(texts))


def grounded_loss(
    model: ZiyaVisualModel, alignment: Alignment, embeds: Tensor, captions: CaptionBatch
) -> LossSum:
    """Sum the cross-entropies of the Q-Former's predictions of each caption's tokens after the first.

    ``embeds`` are float[B, P, Dv] of each caption's image.
    """
    if len(captions.image_ids) == 0:
        return LossSum(embeds.new_zeros(()), 0)
    logits = alignment.grounded_logits(model, embeds, captions.input_ids, captions.mask)
    target = captions.input_ids[:, 1:].masked_fill(captions.mask[:, 1:] == 0, -100)
    predictions = logits[:, :-1].float().flatten(0, 1)
    total = F.cross_entropy(predictions, target.flatten(), ignore_index=-100, reduction="sum")
    return LossSum(total, captions.tokens)
