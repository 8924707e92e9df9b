"""Real steps with the real model on the first pictures, to time them; weights and disk stay as they are."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import psutil

from ziya_visual.core.recipe import Recipe
from ziya_visual.core.records import Example
from ziya_visual.doctor.data import draw
from ziya_visual.train.batches import TrainingTexts, load_images
from ziya_visual.train.image_features import Encode
from ziya_visual.train.loop import forward_backward
from ziya_visual.train.model import BuiltModel
from ziya_visual.train.objectives import ImageFeatures
from ziya_visual.train.run import (
    build_features,
    build_model,
    build_optimizer,
    loss_weights,
    prepare_stage,
    trains_vision,
)

STEPS = 3  # of each stage; the first warms up and is not counted
ENCODED = 32  # pictures on which the ViT is timed


def first_pictures(recipe: Recipe, examples: list[Example]) -> list[Example]:
    """The records of as many pictures as a step of each stage takes."""
    kept: set[str] = set()
    for stage in recipe.stages:
        usable = (e.image_id for e in examples if e.image and stage.tasks.get(e.task, 0) > 0)
        kept |= set([name for name in dict.fromkeys(usable) if name][: stage.images_per_step])
    return [example for example in examples if example.image_id in kept]


def probe(recipe: Recipe, examples: list[Example]) -> list[dict[str, Any]]:
    """Time a few steps of every stage.

    Returns:
        A row a stage: ``seconds_per_step``, ``seconds_per_picture`` that is encoded ahead (0 where the ViT
        runs in every step), ``process_bytes`` after the steps, and whether every loss was ``finite``.
    """
    built = build_model(recipe)
    data = load_images(first_pictures(recipe, examples), image_size=built.processor.image_size)
    online = trains_vision(recipe)
    built.model.requires_grad_(False)
    encode = build_features(recipe, built, data.pixels).encode
    ahead = 0.0 if online else _time_encoding(encode, min(ENCODED, len(data.pixels)))
    kept = None if online else encode(np.arange(len(data.pixels)))
    rows = []
    for number in range(len(recipe.stages)):
        prepare_stage(recipe, number, built)
        seconds, finite = _time_steps(
            recipe, number, built, data.texts, encode if kept is None else kept.__getitem__
        )
        rows.append(
            {
                "seconds_per_step": seconds,
                "seconds_per_picture": ahead,
                "process_bytes": psutil.Process().memory_info().rss,
                "finite": finite,
            }
        )
    return rows


def _time_encoding(encode: Encode, pictures: int) -> float:
    """Seconds that the ViT takes for a picture."""
    started = time.perf_counter()
    encode(np.arange(pictures))
    return (time.perf_counter() - started) / pictures


def _time_steps(
    recipe: Recipe, number: int, built: BuiltModel, texts: TrainingTexts, embeds_of: Encode
) -> tuple[float, bool]:
    """Time the steps of a stage; return the seconds of a step, and whether the gradients were finite."""
    stage = recipe.stages[number]
    optimizer = build_optimizer(recipe, number, built)
    batches = draw(recipe, number, built, texts)

    def get_features(images: np.ndarray) -> ImageFeatures:
        embeds = embeds_of(images)
        return ImageFeatures(embeds, built.model.query_images(embeds))

    seconds, finite = [], True
    for step in range(STEPS):
        started = time.perf_counter()
        optimizer.zero_grad()
        forward_backward(
            built.model,
            built.alignment,
            batches[step % len(batches)],
            get_features,
            weights=loss_weights(stage),
            langs=texts.langs,
            step=step,
            precision=recipe.precision,
            images_at_once=stage.images_at_once,
        )
        finite &= optimizer.clip_and_update(lr=0.0)
        seconds.append(time.perf_counter() - started)
    return sum(seconds[1:]) / (STEPS - 1), finite
