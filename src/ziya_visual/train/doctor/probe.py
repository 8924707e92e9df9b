"""Real steps with the real model on the first pictures, to time them; weights and disk stay as they are."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import psutil

from ziya_visual.core.config import Recipe
from ziya_visual.core.records import Example
from ziya_visual.model.adapters import add_lora, freeze_all_but
from ziya_visual.train.doctor.data import draw
from ziya_visual.train.feature_cache import Encode
from ziya_visual.train.loop import Training, encoder
from ziya_visual.train.run import prepare
from ziya_visual.train.schedule import Optimizer
from ziya_visual.train.step import add_gradients

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
    online = any("vision" in stage.parts for stage in recipe.stages)
    training.model.requires_grad_(False)
    encode = encoder(training, recipe)
    ahead = 0.0 if online else _time_encoding(encode, min(ENCODED, len(training.pictures)))
    states = None if online else encode(np.arange(len(training.pictures)))
    rows = []
    for number, stage in enumerate(recipe.stages):
        if "lora" in stage.parts:
            add_lora(training.model, rank=recipe.model.lora.rank, alpha=recipe.model.lora.alpha)
        freeze_all_but(training.model, training.alignment, stage.trains)
        seconds, finite = _time_steps(
            training, recipe, number, encode if states is None else states.__getitem__
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
    named = [*model.named_parameters(), *alignment.named_parameters()]
    optimizer = Optimizer(named, matrices=recipe.optimizer)
    batches = draw(
        recipe,
        number,
        training.album,
        training.processor.chat,
        queries=training.processor.num_query_tokens,
        pair_tokens=model.config.qformer_config.max_position_embeddings,
        pair_tokenizer=alignment.qformer_tokenizer,
    )
    stage = recipe.stages[number]
    seconds, finite = [], True
    for step in range(STEPS):
        started = time.perf_counter()
        optimizer.zero_grad()
        add_gradients(
            model,
            alignment,
            batches[step % len(batches)],
            states_of,
            objectives=stage.objectives,
            langs=training.album.langs,
            step=step,
            precision=recipe.precision,
            at_once=stage.images_at_once,
        )
        finite &= optimizer.finish(lr=0.0)
        seconds.append(time.perf_counter() - started)
    return sum(seconds[1:]) / (STEPS - 1), finite
