"""The training loop: the stages of a recipe one after the other, killed and resumed at any instant.

A step depends on seed, stage and step number alone (:mod:`batches` draws its data, the random state is set
before it), so that a run resumed from its last saved state repeats the unbroken one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ziya_visual.core import log
from ziya_visual.core.config import Recipe, Stage
from ziya_visual.model.adapters import add_lora, chosen, freeze_all_but, parts_of
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.model import ZiyaVisualModel
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.train.batches import Album, Batch, Batches
from ziya_visual.train.feature_cache import Encode, FeatureCache, encoder_key
from ziya_visual.train.schedule import Optimizer, cosine
from ziya_visual.train.states import read_state, write_state
from ziya_visual.train.step import add_gradients, computing

STATES = "states"
LOG_EVERY = 25
MAX_BAD_STEPS = 10  # in a row with a loss or gradient that is not finite
DRAW_AHEAD = 4  # batches


@dataclass
class Training:
    """What is trained, on what, and the curve so far: rows of stage, step, name, value."""

    model: ZiyaVisualModel
    alignment: Alignment
    processor: ZiyaProcessor
    album: Album
    pictures: np.ndarray  # uint8[N, S, S, 3]
    curve: list[dict[str, Any]] = field(default_factory=list)


def train(training: Training, recipe: Recipe, *, after_stage: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run all stages, going on from ``recipe.out``'s saved state where there is one.

    Args:
        training: what is trained; changed in place.
        recipe: its stages, seed, precision and output folder.
        after_stage: called with the name of each stage that is complete.

    Returns:
        The learning curve.

    Raises:
        FloatingPointError: ten steps in a row gave a loss or gradient that is not finite.
    """
    saved = read_state(recipe.out / STATES)
    states_of = image_states(training, recipe)
    for number, stage in enumerate(recipe.stages):
        if "lora" in stage.parts:
            torch.manual_seed(recipe.seed)  # the adapters start alike, however the run came here
            add_lora(training.model, rank=recipe.model.lora.rank, alpha=recipe.model.lora.alpha)
        if saved is not None and number < saved["stage"]:
            continue
        _run_stage(training, recipe, number, states_of, saved)
        saved = None
        after_stage(stage.name)
    return training.curve


def encoder(training: Training, recipe: Recipe) -> Encode:
    """The ViT's states of pictures by their rows, computed when they are asked for."""
    dtype = _states_dtype(recipe)

    def encode(rows: np.ndarray) -> Tensor:
        with computing(recipe.precision):
            pixels = training.processor.normalise(training.pictures[rows])
            return training.model.encode_images(pixels).to(dtype)

    return encode


def image_states(training: Training, recipe: Recipe) -> Encode:
    """The same; from the disk, where all are kept, if no stage trains the ViT."""
    encode = encoder(training, recipe)
    if any("vision" in stage.parts for stage in recipe.stages):
        return encode
    training.model.vision_model.requires_grad_(False)
    side = training.processor.image_size
    key = encoder_key(training.model.vision_model, side=side, dtype=_states_dtype(recipe))
    folder = (recipe.cache.path or recipe.out / "features") / key[:24]
    cache = FeatureCache(folder, training.pictures, encode, gigabytes=recipe.cache.gigabytes)
    cache.fill()
    return cache


def _states_dtype(recipe: Recipe) -> torch.dtype:
    """What is computed with them is computed in it anyway."""
    return torch.bfloat16 if recipe.precision == "bf16" else torch.float32


def _run_stage(training: Training, recipe: Recipe, number: int, states_of: Encode, saved: Any) -> None:
    stage, model, alignment = recipe.stages[number], training.model, training.alignment
    table = freeze_all_but(model, alignment, stage.trains)
    named = [*model.named_parameters(), *alignment.named_parameters()]
    optimizer = Optimizer(named, scales=_scales(training, stage), matrices=recipe.optimizer)
    batches = Batches(
        training.album,
        training.processor.chat,
        tasks=stage.tasks,
        images_per_step=stage.images_per_step,
        texts_per_image=stage.texts_per_image,
        num_image_tokens=training.processor.num_query_tokens,
        seed=recipe.seed * 1000 + number,
        max_pair_tokens=model.config.qformer_config.max_position_embeddings,
        pair_tokenizer=alignment.qformer_tokenizer,
    )
    log.logger.info("stage %s trains %s", stage.name, ", ".join(f"{k} {v:,}" for k, v in table.items()))
    first = 0
    if saved is not None:
        first = _restore(training, optimizer, saved)
        log.logger.info("stage %s goes on at step %d", stage.name, first)
    bad = 0
    with log.progress(f"stage {stage.name}", stage.steps) as bar:
        bar.update(bar.tasks[0].id, completed=first)
        for step, batch in enumerate(draw_ahead(batches, range(first, stage.steps)), first):
            torch.manual_seed(recipe.seed * 1_000_003 + number * 100_003 + step)
            factor = cosine(step, steps=stage.steps, warmup=stage.warmup_steps, floor=stage.final_fraction)
            optimizer.zero_grad()
            parts = add_gradients(
                model,
                alignment,
                batch,
                states_of,
                objectives=stage.objectives,
                langs=training.album.langs,
                step=step,
                precision=recipe.precision,
                at_once=stage.images_at_once,
            )
            finite = optimizer.finish(lr=stage.learning_rate * factor)
            bad = 0 if finite else bad + 1
            if bad >= MAX_BAD_STEPS:
                raise FloatingPointError(
                    f"stage {stage.name}: {bad} steps in a row up to {step} had no finite loss or gradient; "
                    "lower learning_rate or use precision: fp32"
                )
            if finite and (step % LOG_EVERY == 0 or step == stage.steps - 1):
                _note(training, stage, step, parts, bar)
            bar.advance(bar.tasks[0].id)
            if (step + 1) % recipe.save_every == 0 or step + 1 == stage.steps:
                write_state(recipe.out / STATES, _state(training, optimizer, number, step + 1))


def draw_ahead(batches: Dataset[Batch], steps: range) -> Iterable[Batch]:
    """The batches of these steps, drawn by a process of their own while others are trained on."""
    return DataLoader(batches, batch_size=None, sampler=steps, num_workers=1, prefetch_factor=DRAW_AHEAD)


def _scales(training: Training, stage: Stage) -> dict[nn.Parameter, float]:
    """The factor on ``learning_rate`` of each parameter of a part with a rate of its own."""
    parts = parts_of(training.model, training.alignment)
    return {
        parameter: rate / stage.learning_rate
        for part, rate in stage.learning_rates.items()
        for parameter in chosen(parts, part).values()
    }


def _note(training: Training, stage: Stage, step: int, parts: dict[str, float], bar: Any) -> None:
    for name, value in parts.items():
        training.curve.append({"stage": stage.name, "step": step, "name": name, "value": round(value, 5)})
    said = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
    bar.update(bar.tasks[0].id, description=f"stage {stage.name}: {said}")
    log.logger.debug("%s %d: %s", stage.name, step, said)


def _trained(training: Training) -> dict[str, Tensor]:
    """All that any stage may have changed: everything but the frozen ViT and the LM under its adapters."""
    kept = {}
    for prefix, module in (("model.", training.model), ("alignment.", training.alignment)):
        for name, tensor in module.state_dict().items():
            frozen = "language_model" in name and "lora_" not in name
            if not frozen:
                kept[prefix + name] = tensor
    return kept


def _state(training: Training, optimizer: Optimizer, stage: int, step: int) -> dict[str, Any]:
    return {
        "stage": stage,
        "step": step,
        "weights": _trained(training),
        "optimizer": optimizer.state_dict(),
        "curve": training.curve,
    }


def _restore(training: Training, optimizer: Optimizer, saved: Any) -> int:
    own = _trained(training)
    assert own.keys() == saved["weights"].keys(), "the state is of another recipe"
    with torch.no_grad():
        for name, tensor in saved["weights"].items():
            own[name].copy_(tensor)
    optimizer.load_state_dict(saved["optimizer"])
    training.curve[:] = saved["curve"]
    return int(saved["step"])
