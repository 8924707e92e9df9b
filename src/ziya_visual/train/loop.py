"""The training loop: the stages of a recipe one after the other, killed and resumed at any instant.

A step depends on seed, stage and step number alone (:mod:`batches` draws its data, the random state is set
before it), so that a run resumed from its last saved state repeats the unbroken one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ziya_visual.core import log
from ziya_visual.core.config import Recipe, Stage
from ziya_visual.core.io import atomic_path
from ziya_visual.model.adapters import add_lora, chosen, freeze_all_but, parts_of
from ziya_visual.model.alignment import Alignment
from ziya_visual.model.model import ZiyaVisualModel
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.train.batches import Album, Batches
from ziya_visual.train.schedule import Optimizer, cosine
from ziya_visual.train.step import compute_losses

STATE = "state.pt"
SAVE_EVERY = 200  # steps
LOG_EVERY = 25
MAX_BAD_STEPS = 10  # in a row with a loss or gradient that is not finite
ENCODE_AT_ONCE = 256  # pictures


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
    state_path = recipe.out / STATE
    saved = torch.load(state_path, weights_only=True) if state_path.exists() else None
    features = _encode_all(training, recipe)
    for number, stage in enumerate(recipe.stages):
        if "lora" in stage.parts:
            torch.manual_seed(recipe.seed)  # the adapters start alike, however the run came here
            add_lora(training.model, rank=recipe.model.lora.rank, alpha=recipe.model.lora.alpha)
        if saved is not None and number < saved["stage"]:
            continue
        _run_stage(training, recipe, number, features, saved, state_path)
        saved = None
        after_stage(stage.name)
    return training.curve


def _encode_all(training: Training, recipe: Recipe) -> Tensor | None:
    """The frozen ViT's states of all pictures, float[N, P, Dv]; None where a stage trains the ViT."""
    if any("vision" in stage.parts for stage in recipe.stages):
        return None
    parts = []
    training.model.requires_grad_(False)
    with log.progress("encode pictures", len(training.pictures)) as bar, _autocast(recipe):
        for start in range(0, len(training.pictures), ENCODE_AT_ONCE):
            some = training.pictures[start : start + ENCODE_AT_ONCE]
            parts.append(training.model.encode_images(training.processor.normalise(some)))
            bar.advance(bar.tasks[0].id, len(some))
    return torch.cat(parts)


def _autocast(recipe: Recipe) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16")


def _run_stage(
    training: Training, recipe: Recipe, number: int, features: Tensor | None, saved: Any, state_path: Path
) -> None:
    stage, model, alignment = recipe.stages[number], training.model, training.alignment
    table = freeze_all_but(model, alignment, stage.trains)
    named = [*model.named_parameters(), *alignment.named_parameters()]
    optimizer = Optimizer(named, scales=_scales(training, stage))
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
        for step in range(first, stage.steps):
            torch.manual_seed(recipe.seed * 1_000_003 + number * 100_003 + step)
            factor = cosine(step, steps=stage.steps, warmup=stage.warmup_steps, floor=stage.final_fraction)
            batch = batches[step]
            with _autocast(recipe):
                losses = compute_losses(
                    model,
                    alignment,
                    batch,
                    _image_embeds(training, features, batch.pictures),
                    objectives=stage.objectives,
                    langs=training.album.langs,
                    step=step,
                )
            finite = optimizer.step(losses.total, lr=stage.learning_rate * factor)
            bad = 0 if finite else bad + 1
            if bad >= MAX_BAD_STEPS:
                raise FloatingPointError(
                    f"stage {stage.name}: {bad} steps in a row up to {step} had no finite loss or gradient; "
                    "lower learning_rate or use precision: fp32"
                )
            if step % LOG_EVERY == 0 or step == stage.steps - 1:
                _note(training, stage, step, losses.parts, bar)
            bar.advance(bar.tasks[0].id)
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == stage.steps:
                _save(training, optimizer, number, step + 1, state_path)


def _scales(training: Training, stage: Stage) -> dict[nn.Parameter, float]:
    """The factor on ``learning_rate`` of each parameter of a part with a rate of its own."""
    parts = parts_of(training.model, training.alignment)
    return {
        parameter: rate / stage.learning_rate
        for part, rate in stage.learning_rates.items()
        for parameter in chosen(parts, part).values()
    }


def _image_embeds(training: Training, features: Tensor | None, rows: np.ndarray) -> Tensor:
    if features is not None:
        return features[torch.from_numpy(rows)]
    return training.model.encode_images(training.processor.normalise(training.pictures[rows]))


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


def _save(training: Training, optimizer: Optimizer, stage: int, step: int, path: Path) -> None:
    state = {
        "stage": stage,
        "step": step,
        "weights": _trained(training),
        "optimizer": optimizer.state_dict(),
        "curve": training.curve,
    }
    with atomic_path(path) as aside:
        torch.save(state, aside)


def _restore(training: Training, optimizer: Optimizer, saved: Any) -> int:
    own = _trained(training)
    assert own.keys() == saved["weights"].keys(), "the state is of another recipe"
    with torch.no_grad():
        for name, tensor in saved["weights"].items():
            own[name].copy_(tensor)
    optimizer.load_state_dict(saved["optimizer"])
    training.curve[:] = saved["curve"]
    return int(saved["step"])
