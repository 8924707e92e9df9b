"""Real steps with the real model on the first pictures, to time them; weights and disk stay as they are."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import psutil

from ziya_visual.core.recipe import Recipe
from ziya_visual.core.records import Example
from ziya_visual.doctor.data import draw
from ziya_visual.model.lora import add_lora, freeze_all_but
from ziya_visual.train.feature_cache import Encode
from ziya_visual.train.image_features import Sight, trains_vision
from ziya_visual.train.optimizer import Optimizer
from ziya_visual.train.run import prepare
from ziya_visual.train.step import Seen, add_gradients
from ziya_visual.train.training import Training

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
    training = prepare(recipe, first_pictures(recipe, examples))
    pictures = training.data.pictures
    online = trains_vision(recipe)
    training.model.requires_grad_(False)
    sight = Sight(training.model, training.processor, pictures, recipe)
    ahead = 0.0 if online else _time_encoding(sight.states, min(ENCODED, len(pictures)))
    kept = None if online else sight.states(np.arange(len(pictures)))
    rows = []
    for number, stage in enumerate(recipe.stages):
        if "lora" in stage.parts:
            add_lora(training.model, rank=recipe.model.lora.rank, alpha=recipe.model.lora.alpha)
        freeze_all_but(training.model, training.alignment, stage.trains)
        seconds, finite = _time_steps(
            training, recipe, number, sight.states if kept is None else kept.__getitem__
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


def _time_steps(training: Training, recipe: Recipe, number: int, states_of: Encode) -> tuple[float, bool]:
    """Seconds of a step, and whether the gradients were finite."""
    model, alignment = training.model, training.alignment
    optimizer = Optimizer(training.named_parameters(), matrices=recipe.optimizer)
    batches = draw(
        recipe,
        number,
        training.data.album,
        training.processor.chat,
        queries=training.processor.num_query_tokens,
        pair_tokens=model.config.qformer_config.max_position_embeddings,
        pair_tokenizer=alignment.qformer_tokenizer,
    )
    stage = recipe.stages[number]

    def see(rows: np.ndarray) -> Seen:
        states = states_of(rows)
        return Seen(states, model.query_images(states))

    seconds, finite = [], True
    for step in range(STEPS):
        started = time.perf_counter()
        optimizer.zero_grad()
        add_gradients(
            model,
            alignment,
            batches[step % len(batches)],
            see,
            objectives=stage.objectives,
            langs=training.data.album.langs,
            step=step,
            precision=recipe.precision,
            at_once=stage.images_at_once,
        )
        finite &= optimizer.finish(lr=0.0)
        seconds.append(time.perf_counter() - started)
    return sum(seconds[1:]) / (STEPS - 1), finite
