"""Contrast and matching: two texts of one picture are no negatives of each other; weights by language."""

from typing import Any

import pytest
import torch
from tiny_models import QUERIES, tiny
from torch.nn import functional as F  # noqa: N812

from ziya_visual.train.objectives import (
    Batch,
    CaptionBatch,
    ImageFeatures,
    LossWeights,
    Scores,
    compute_losses,
    contrastive_loss,
    matching_loss,
)


def captions(image_ids: list[int]) -> CaptionBatch:
    count = len(image_ids)
    ids = torch.arange(4 * count).reshape(count, 4) % 50 + 5
    rows = torch.arange(count)
    return CaptionBatch(ids, torch.ones_like(ids), rows, torch.tensor(image_ids), 0, 3 * count)


def scores(logits: torch.Tensor, pictures: list[int]) -> Scores:
    names = torch.tensor(pictures)
    return Scores(logits, names[:, None] == names, slice(0, len(pictures)))


def test_contrastive_loss_is_cross_entropy_in_both_directions() -> None:
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    target = torch.arange(3)
    wanted = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    assert torch.equal(contrastive_loss(scores(logits, [7, 8, 9])), wanted)


def test_captions_of_one_image_are_not_negatives_of_each_other() -> None:
    logits = torch.zeros(3, 3)
    logits[0, 2] = logits[2, 0] = 50.0
    assert contrastive_loss(scores(logits, [4, 5, 6])) > 20
    assert contrastive_loss(scores(logits, [4, 5, 4])) < 1
    assert torch.isfinite(contrastive_loss(scores(logits, [4, 4, 4])))


@pytest.mark.parametrize("pictures", [[4, 5, 4], [4, 4, 4]])
def test_hard_negatives_come_from_other_images_where_possible(
    pictures: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, alignment, _ = tiny()
    drawn: list[list[int]] = []
    real = torch.multinomial

    def record_draws(weights: torch.Tensor, count: int) -> torch.Tensor:
        indices = real(weights, count)
        drawn.append(indices.flatten().tolist())
        return indices

    monkeypatch.setattr(torch, "multinomial", record_draws)
    logits = torch.zeros(3, 3)
    logits[0, 2] = logits[2, 0] = 50.0
    images = torch.randn(3, 5, 32)
    loss = matching_loss(model, alignment, images, captions(pictures), scores(logits, pictures))
    assert loss.count == 9
    assert torch.isfinite(loss.total)
    for indices in drawn:
        for row, other in enumerate(indices):
            assert row != other
            assert pictures[row] != pictures[other] or len(set(pictures)) == 1


def losses(weights: LossWeights) -> dict[str, Any]:
    model, alignment, _ = tiny()
    torch.manual_seed(0)
    images = torch.randn(3, 5, 32)
    features = ImageFeatures(images, model.query_images(images))
    assert features.queries.shape[1] == QUERIES
    batch = Batch(torch.arange(3).numpy(), None, {0: captions([4, 5, 6]), 1: captions([4, 5, 6])}, 1)
    total, sums = compute_losses(
        model, alignment, batch, features, weights=weights, langs=["en", "zh"], step=1
    )
    return {"total": total.item()} | {name: value / count for name, (value, count) in sums.items()}


def test_language_weights_scale_the_losses() -> None:
    plain = losses(LossWeights(contrastive=1.0, grounded=0.5))
    assert set(plain) == {"total", "contrastive/en", "contrastive/zh", "grounded/zh"}
    weighted = losses(LossWeights(contrastive=1.0, grounded=0.5, languages={"zh": 3.0}))
    wanted = (plain["contrastive/en"] + 3 * plain["contrastive/zh"]) / 2 + 3 * 0.5 * plain["grounded/zh"]
    assert weighted["total"] == pytest.approx(wanted, rel=1e-5)
    assert plain["total"] < weighted["total"]
