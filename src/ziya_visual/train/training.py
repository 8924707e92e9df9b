"""What is trained, on what, and what is known of it at a step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ziya_visual.core import distributed
from ziya_visual.core.recipe import Recipe, Stage
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.lora import parameters_by_part, parameters_for_rule
from ziya_visual.model.network import ZiyaVisualModel
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.train.batches import Album, Batch, Batches
from ziya_visual.train.optimizer import Optimizer

DRAW_AHEAD = 4  # batches


@dataclass
class Pictured:
    """Texts by picture, and the pictures: uint8[N, S, S, 3]."""

    album: Album
    pictures: np.ndarray


@dataclass
class Training:
    """What is trained, on what, and the curve so far: rows of stage, step, name, value.

    ``held`` is what its loss is measured on besides.
    """

    model: ZiyaVisualModel
    alignment: Alignment
    processor: ZiyaProcessor
    data: Pictured
    held: Pictured | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Of model and alignment."""
        return [*self.model.named_parameters(), *self.alignment.named_parameters()]

    def batches(self, recipe: Recipe, number: int, data: Pictured) -> Batches:
        """Of a stage, on its own data or on what is held back; this process's share of them."""
        stage = recipe.stages[number]
        return Batches(
            data.album,
            self.processor.chat,
            tasks=stage.tasks,
            images_per_step=stage.images_per_step,
            texts_per_image=stage.texts_per_image,
            texts_per_step=stage.texts_per_step if data is self.data else 0,
            num_image_tokens=self.processor.num_query_tokens,
            seed=recipe.seed * 1000 + number,
            max_pair_tokens=self.model.config.qformer_config.max_position_embeddings,
            pair_tokenizer=self.alignment.qformer_tokenizer,
            temperature=recipe.data.temperature if data is self.data else None,
            varied=recipe.data.phrasings == "varied",
            rank=distributed.rank(),
            processes=distributed.world_size(),
        )

    def optimizer(self, recipe: Recipe, stage: Stage) -> Optimizer:
        """Of what the stage trains, each part at its learning rate."""
        parts = parameters_by_part(self.model, self.alignment)
        scales = {
            parameter: rate / stage.learning_rate
            for part, rate in stage.learning_rates.items()
            for parameter in parameters_for_rule(parts, part).values()
        }
        return Optimizer(self.named_parameters(), scales=scales, matrices=recipe.optimizer)

    def trained(self) -> dict[str, Tensor]:
        """All that any stage may have changed: everything but the LM under its adapters."""
        kept = {}
        for prefix, module in (("model.", self.model), ("alignment.", self.alignment)):
            for name, tensor in module.state_dict().items():
                frozen = "language_model" in name and "lora_" not in name
                if not frozen:
                    kept[prefix + name] = tensor
        return kept

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Take over what :meth:`trained` gave."""
        own = self.trained()
        assert own.keys() == weights.keys(), "the state is of another recipe"
        with torch.no_grad():
            for name, tensor in weights.items():
                own[name].copy_(tensor)


def draw_ahead(batches: Dataset[Batch], steps: range) -> Iterable[Batch]:
    """The batches of these steps, drawn by a process of their own while others are trained on."""
    return DataLoader(batches, batch_size=None, sampler=steps, num_workers=1, prefetch_factor=DRAW_AHEAD)
