"""What each stage of a recipe needs on one device or several, and which changes would make it fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ziya_visual.core.recipe import Recipe
from ziya_visual.core.trainable import parse_rule
from ziya_visual.doctor.memory import Memory, Shape, dry_step, feature_shape, first_batches, fits
from ziya_visual.train.batches import TrainingTexts
from ziya_visual.train.model import BuiltModel
from ziya_visual.train.run import loss_weights, trains_vision

MOST_GPUS = 64  # up to which FSDP's world size is doubled until a stage fits


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe with its model on the meta device and its training texts."""

    recipe: Recipe
    built: BuiltModel
    texts: TrainingTexts

    def shape(self, number: int) -> Shape:
        """Return the size of a stage's largest batch."""
        return Shape.largest(first_batches(self.recipe, number, self.built, self.texts))

    def step(self, number: int, world_size: int = 1) -> Memory:
        """Return the memory of a stage's step on one of several ranks: of its largest micro-batch."""
        stage = self.recipe.stages[number]
        shapes = self.shape(number).share(world_size)
        micro_batches = shapes.micro_batches(stage.images_at_once, align=loss_weights(stage).align)
        steps = [dry_step(self.recipe, number, self.built, shape) for shape in micro_batches]
        return max(steps, key=Memory.one_process)

    def pixel_bytes(self) -> int:
        """Return the bytes of all images at the model's size, in memory."""
        return len(self.texts.examples) * 3 * self.built.processor.image_size**2

    def feature_bytes(self) -> int:
        """Return the bytes of the features that a frozen ViT's cache stores on disk."""
        if trains_vision(self.recipe):
            return 0
        patches, width = feature_shape(self.built)
        image_bytes = patches * width * (2 if self.recipe.precision == "bf16" else 4)
        return min(len(self.texts.examples) * image_bytes, int(self.recipe.cache.gigabytes * 1e9))

    def needed(self, number: int, form: str, world_size: int = 1) -> int:
        """Return the bytes that a stage needs on each device; ``form`` is cpu, gpu, ddp or fsdp."""
        return self.total(self.step(number, world_size), form, world_size)

    def total(self, memory: Memory, form: str, world_size: int) -> int:
        """Return the bytes on each device for a step's memory; the CPU's memory holds the pixels too."""
        if form == "fsdp":
            return memory.sharded(world_size)
        return memory.one_process() + (self.pixel_bytes() if form == "cpu" else 0)


def advise(plan: Plan, number: int, form: str, world_size: int, available: int) -> list[dict[str, Any]]:
    """Return changes to the recipe, as they are typed behind it, and the bytes that each saves on a device.

    The stage does not fit in the ``available`` bytes of a device in this form: cpu, gpu, ddp or fsdp.
    """

    def needed_with(key: str, value: Any) -> int:
        changed = replace(plan, recipe=_replace(plan.recipe, key.split("."), value))
        return changed.needed(number, form, world_size)

    before = plan.needed(number, form, world_size)
    advice = []
    for key, values in _changes(plan.recipe, number).items():
        *milder, value = values
        needed = needed_with(key, value)
        if fits(needed, available):  # then a milder value may be enough
            for mild in milder:
                mild_needed = needed_with(key, mild)
                if fits(mild_needed, available):
                    value, needed = mild, mild_needed
                    break
        if needed < before:
            text = f"[{','.join(value)}]" if isinstance(value, tuple) else value
            advice.append(_row(f"{key}={text}", before, needed, available))
    if form != "cpu":
        world_size *= 2
        needed = plan.needed(number, "fsdp", world_size)
        while not fits(needed, available) and world_size < MOST_GPUS:
            world_size *= 2
            needed = plan.needed(number, "fsdp", world_size)
        if needed < before:
            advice.append(_row(f"shard=true on {world_size} GPUs", before, needed, available))
    return sorted(advice, key=lambda row: -int(row["saves_bytes"]))


def _row(change: str, before: int, needed: int, available: int) -> dict[str, Any]:
    return {"change": change, "saves_bytes": before - needed, "fits": fits(needed, available)}


def _changes(recipe: Recipe, number: int) -> dict[str, list[Any]]:
    """Return the other values of each setting that can be changed, the mildest first."""
    stage, path = recipe.stages[number], f"stages.{number}"
    rules = tuple(rule for rule in stage.trains if parse_rule(rule)[0] != "vision")
    at_once = stage.images_at_once or stage.images_per_step
    values: dict[str, list[Any]] = {
        "precision": ["bf16" if recipe.precision == "fp32" else "fp32"],
        f"{path}.images_at_once": _halves(at_once) if stage.objectives.language_model else [],
        f"{path}.images_per_step": _halves(stage.images_per_step),
        f"{path}.texts_per_image": _halves(stage.texts_per_image),
        "model.lora.rank": _halves(recipe.model.lora.rank) if "lora" in stage.parts else [],
        f"{path}.trains": [rules] if rules and rules != stage.trains else [],
    }
    return {key: options for key, options in values.items() if options}


def _halves(value: int) -> list[int]:
    """Return half of a number, half of that, and so on down to 1."""
    return [value // 2**power for power in range(1, value.bit_length())]


def _replace(section: Any, keys: Sequence[str], value: Any) -> Any:
    """Return a copy of a recipe, or of a section of it, with another value at a path."""
    if not keys:
        return value
    key, *rest = keys
    if isinstance(section, tuple):
        number = int(key)
        return (*section[:number], _replace(section[number], rest, value), *section[number + 1 :])
    return section.model_copy(update={key: _replace(getattr(section, key), rest, value)})
