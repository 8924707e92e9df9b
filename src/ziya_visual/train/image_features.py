"""What the network sees of the pictures: computed when it is asked for, or kept on disk where it is frozen.

Legend: N pictures, B of them in a step, S side in pixels, P patches + 1, Dv ViT width, Q queries, Dq Q-Former
width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ziya_visual.core import distributed
from ziya_visual.core.recipe import Recipe, Stage
from ziya_visual.model.network import ZiyaVisualModel
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.train.feature_cache import Encode, FeatureCache, encoder_key
from ziya_visual.train.step import See, Seen, computing


class Sight:
    """The pictures of one pixel store through the model's eyes."""

    def __init__(
        self, model: ZiyaVisualModel, processor: ZiyaProcessor, pictures: np.ndarray, recipe: Recipe
    ) -> None:
        """Open what the recipe's cache has of them; :meth:`of` a stage fills it.

        Args:
            model: in what follows its weights may change, those of the ViT only if a stage trains it.
            processor: of the model.
            pictures: uint8[N, S, S, 3].
            recipe: its precision, cache and stages.
        """
        self._model, self._processor, self._pictures, self._recipe = model, processor, pictures, recipe
        self._kept: FeatureCache | None = None

    def states(self, rows: np.ndarray) -> Tensor:
        """float[B, P, Dv] of pictures by their rows, computed now."""
        with self._computing():
            pixels = self._processor.normalise(self._pictures[rows]).to(self._model.device)
            return self._model.encode_images(pixels).to(self._dtype)

    def of(self, stage: Stage) -> See:
        """What a stage sees, from disk as far as nothing that it or another stage trains is before it.

        The caller has frozen all that the stage does not train.
        """
        queried = None
        if reads_queries_only(stage):
            queried = self._cache(self._query, self._model.vision_model, self._model.qformer)
        elif not trains_vision(self._recipe) and self._kept is None:
            self._kept = self._cache(self.states, self._model.vision_model)

        def see(rows: np.ndarray) -> Seen:
            if queried is not None:
                return Seen(None, queried(rows).to(self._model.device))
            states = (self._kept or self.states)(rows).to(self._model.device)
            return Seen(states, self._model.query_images(states))

        return see

    def _query(self, rows: np.ndarray) -> Tensor:
        """float[B, Q, Dq], without gradients."""
        with torch.no_grad(), self._computing():
            return self._model.query_images((self._kept or self.states)(rows)).to(self._dtype)

    def _cache(self, encode: Encode, *modules: nn.Module) -> FeatureCache:
        """All pictures' results of ``encode``, which depends on these modules."""
        queries = [self._model.query_tokens] if len(modules) > 1 else []
        key = encoder_key(modules, queries, side=self._processor.image_size, dtype=self._dtype)
        folder = (self._recipe.cache.path or self._recipe.out / "features") / key[:24]
        cache = FeatureCache(folder, self._pictures, encode, gigabytes=self._recipe.cache.gigabytes)
        cache.fill(rank=distributed.rank(), processes=distributed.world_size())
        return cache

    def _computing(self) -> torch.autocast:
        return computing(self._recipe.precision, self._model.device.type)

    @property
    def _dtype(self) -> torch.dtype:
        """What is computed with the results is computed in it anyway."""
        return torch.bfloat16 if self._recipe.precision == "bf16" else torch.float32


def trains_vision(recipe: Recipe) -> bool:
    """Whether any stage does: else all stages see the same states of a picture."""
    return any("vision" in stage.parts for stage in recipe.stages)


def reads_queries_only(stage: Stage) -> bool:
    """Whether a stage needs of a picture only what a frozen Q-Former reads out of it."""
    objectives = stage.objectives
    learns = {"vision", "qformer", "query_tokens"}.intersection(stage.parts)
    return not learns and not objectives.matching and not objectives.grounded
