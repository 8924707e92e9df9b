"""The language model's loss on records that are held back, by language."""

from __future__ import annotations

import torch

from ziya_visual.core import distributed
from ziya_visual.core.errors import ConfigError, nearest
from ziya_visual.core.recipe import Recipe
from ziya_visual.train.step import Parts, See, added, computing, means
from ziya_visual.train.training import Training

ALL = "loss"


@torch.no_grad()
def validate(training: Training, recipe: Recipe, number: int, see: See) -> dict[str, float]:
    """Mean loss a token: ``loss`` of all, and ``loss/LANG``; of one epoch, the same texts each time.

    Args:
        training: whose ``held`` is measured.
        recipe: of it.
        number: of the stage, whose tasks and texts an image count.
        see: the held pictures.

    Raises:
        ConfigError: ``validation.best`` names none of these losses.
        DataError: nothing that is held back is of the stage's tasks.
    """
    assert training.held is not None
    model, langs = training.model, training.held.album.langs
    batches = training.batches(recipe, number, training.held)
    found: Parts = {}
    for step in range(batches.epoch):
        batch = batches[step].placed(model.device)
        assert batch.texts is not None
        with computing(recipe.precision, model.device.type):
            sums = model.packed_loss(see(batch.pictures).queries, batch.texts)
        parts = {f"{ALL}/{langs[lang]}": (part.total.item(), part.count) for lang, part in sums.items()}
        found = added([found, parts])
    everywhere = added(distributed.gather_objects(found))
    total, count = (sum(column) for column in zip(*everywhere.values(), strict=True))
    losses = means(everywhere | {ALL: (total, int(count))})
    best = recipe.validation and recipe.validation.best
    if best and best not in losses:
        raise ConfigError(f"validation.best: there is no {best!r}{nearest(best, losses)}")
    return losses
