"""Real steps with the real model on the first pictures, to time them; weights and disk stay as they are."""

from __future__ import annotations

import time
from typing import Any

import psutil
import torch

from ziya_visual.core.config import Recipe
from ziya_visual.core.records import Example
from ziya_visual.model.adapters import add_lora, freeze_all_but
from ziya_visual.train.doctor.data import draw
from ziya_visual.train.loop import Training
from ziya_visual.train.run import prepare
from ziya_visual.train.schedule import Optimizer
from ziya_visual.train.step import compute_losses

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
    ahead = 0.0 if online else _time_encoding(training, recipe)
    rows = []
    for number, stage in enumerate(recipe.stages):
        if "lora" in stage.parts:
            add_lora(training.model, rank=recipe.model.lora.rank, alpha=recipe.model.lora.alpha)
        freeze_all_but(training.model, training.alignment, stage.trains)
        seconds, finite = _time_steps(training, recipe, number, online)
        rows.append(
            {
                "seconds_per_step": seconds,
                "seconds_per_picture": ahead,
                "process_bytes": psutil.Process().memory_info().rss,
                "finite": finite,
            }
        )
    return rows


def _autocast(recipe: Recipe) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16")


def _time_encoding(training: Training, recipe: Recipe) -> float:
    """Seconds that the ViT takes for a picture."""
    pixels = training.processor.normalise(training.pictures[:ENCODED])
    started = time.perf_counter()
    with _autocast(recipe):
        training.model.encode_images(pixels)
    return (time.perf_counter() - started) / len(pixels)


def _time_steps(training: Training, recipe: Recipe, number: int, online: bool) -> tuple[float, bool]:
    """Seconds of a step, and whether the losses were finite."""
    model, alignment = training.model, training.alignment
    optimizer = Optimizer([*model.named_parameters(), *alignment.named_parameters()])
    batches = draw(
        recipe,
        number,
        training.album,
        training.processor.chat,
        queries=training.processor.num_query_tokens,
        pair_tokens=model.config.qformer_config.max_position_embeddings,
        pair_tokenizer=alignment.qformer_tokenizer,
    )
    seconds, finite = [], True
    for step in range(STEPS):
        batch = batches[step % len(batches)]
        pixels = training.processor.normalise(training.pictures[batch.pictures])
        with _autocast(recipe):
            embeds = None if online else model.encode_images(pixels)
            started = time.perf_counter()
            losses = compute_losses(
                model,
                alignment,
                batch,
                model.encode_images(pixels) if embeds is None else embeds,
                objectives=recipe.stages[number].objectives,
                langs=training.album.langs,
                step=step,
            )
        finite &= optimizer.step(losses.total, lr=0.0)
        seconds.append(time.perf_counter() - started)
    return sum(seconds[1:]) / (STEPS - 1), finite
