"""What each stage of a recipe needs, on one device or several, and what would make it fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ziya_visual.core.recipe import Objectives, Recipe, Stage
from ziya_visual.core.trainable import parse_rule
from ziya_visual.doctor.data import draw, largest
from ziya_visual.doctor.memory import RESERVE, Memory, Shape, dry_step
from ziya_visual.train.batches import TrainingTexts
from ziya_visual.train.model import BuiltModel

MOST_GPUS = 64


def shares(stage: Stage, shape: Shape) -> list[tuple[Stage, Shape]]:
    """What a step computes apart, as :meth:`Batch.micro_batches` has it."""
    at_once, objectives = stage.images_at_once, stage.objectives
    if at_once is None:
        return [(stage, shape)]
    texts = stage.model_copy(update={"objectives": Objectives(language_model=objectives.language_model)})
    learnt = -(-shape.supervised * at_once // shape.images)
    longest = tuple(sorted(shape.lengths, key=sum, reverse=True)[:at_once])
    some = Shape(min(at_once, shape.images), longest, min(learnt, shape.supervised), ())
    apart = stage.model_copy(update={"objectives": objectives.model_copy(update={"language_model": 0.0})})
    return [(texts, some)] + ([(apart, shape)] if objectives.align and shape.pairs else [])


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe, the model and the texts it would be run on."""

    recipe: Recipe
    bones: BuiltModel
    texts: TrainingTexts

    @property
    def cached(self) -> bool:
        """Whether no stage trains the ViT, so that its states are kept for all pictures."""
        return not any("vision" in stage.parts for stage in self.recipe.stages)

    def shape(self, number: int) -> Shape:
        """The size of a step of a stage.

        Raises:
            DataError: no picture has a text of the stage's tasks.
        """
        return largest(draw(self.recipe, number, self.bones, self.texts))

    def step(self, number: int, form: str, processes: int = 1) -> Memory:
        """Take a dry step of a stage as one of several processes: its largest share."""
        has_lora = any("lora" in stage.parts for stage in self.recipe.stages[: number + 1])
        shape = self.shape(number).share(processes)
        steps = [
            dry_step(
                self.bones,
                stage,
                some,
                lora=self.recipe.model.lora if has_lora else None,
                precision=self.recipe.precision,
                cached=self.cached,
                matrices=self.recipe.optimizer,
            )
            for stage, some in shares(self.recipe.stages[number], shape)
        ]
        return max(steps, key=Memory.one_process)

    def pictures(self) -> int:
        """Bytes of all pictures at the model's size, in memory."""
        return len(self.texts.examples) * 3 * self.bones.processor.image_size**2

    def features(self) -> int:
        """Bytes of the frozen ViT's states of all pictures, on disk."""
        vision = self.bones.model.config.vision_config
        patches = (self.bones.processor.image_size // vision.patch_size) ** 2 + 1
        each = patches * vision.hidden_size * (2 if self.recipe.precision == "bf16" else 4)
        whole = min(len(self.texts.examples) * each, int(self.recipe.cache.gigabytes * 1e9))
        return whole if self.cached else 0

    def needed(self, number: int, form: str, processes: int = 1) -> int:
        """Bytes on each device; on the CPU with the pictures, which lie in its memory."""
        memory = self.step(number, form, processes)
        return self.total(memory, form, processes)

    def total(self, memory: Memory, form: str, processes: int) -> int:
        """The same, of a dry step that was taken."""
        if form == "fsdp":
            return memory.sharded(processes)
        return memory.one_process() + (self.pictures() if form == "cpu" else 0)


def fits(needed: int, available: int) -> bool:
    """Whether it does, with the reserve left free."""
    return needed <= (1 - RESERVE) * available


def advise(plan: Plan, number: int, form: str, processes: int, available: int) -> list[dict[str, Any]]:
    """Changes of the recipe, as they are typed behind it, with the bytes that each alone saves a device.

    Args:
        plan: what does not fit.
        number: of the stage that needs most.
        form: where it would run.
        processes: how many of it.
        available: bytes of a device.
    """
    before = plan.needed(number, form, processes)
    advice = []
    for changes in _changes(plan.recipe, number):
        *milder, (change, recipe) = changes
        needed = Plan(recipe, plan.bones, plan.texts).needed(number, form, processes)
        if fits(needed, available):  # then so may a milder one
            for change_less, recipe_less in milder:
                needed_less = Plan(recipe_less, plan.bones, plan.texts).needed(number, form, processes)
                if fits(needed_less, available):
                    change, needed = change_less, needed_less
                    break
        if needed < before:
            row = {"change": change, "saves_bytes": before - needed, "fits": fits(needed, available)}
            advice.append(row)
    if form != "cpu":
        advice += _shard(plan, number, 2 * processes, before, available)
    return sorted(advice, key=lambda row: -int(row["saves_bytes"]))


def _shard(plan: Plan, number: int, processes: int, before: int, available: int) -> list[dict[str, Any]]:
    """The fewest GPUs of a doubling row on which FSDP fits; with ``MOST_GPUS`` the search ends."""
    while True:
        needed = plan.needed(number, "fsdp", processes)
        if fits(needed, available) or processes >= MOST_GPUS:
            row = {"saves_bytes": before - needed, "fits": fits(needed, available)}
            return [{"change": f"shard=true on {processes} GPUs", **row}] if needed < before else []
        processes *= 2


def _changes(recipe: Recipe, number: int) -> Iterator[list[tuple[str, Recipe]]]:
    """Of each thing that can be changed, its values, each milder than the next."""
    stage = recipe.stages[number]
    other = "bf16" if recipe.precision == "fp32" else "fp32"
    yield [(f"precision={other}", recipe.model_copy(update={"precision": other}))]
    at_once = stage.images_at_once or stage.images_per_step
    most = {
        "images_at_once": at_once if stage.objectives.language_model else 0,
        "images_per_step": stage.images_per_step,
        "texts_per_image": stage.texts_per_image,
    }
    for key, value in most.items():
        change = _in_stage(recipe, number, key)
        values = _halves(value)
        if values:
            yield [(f"stages.{number}.{key}={value}", change(value)) for value in values]
    ranks = _halves(recipe.model.lora.rank) if "lora" in stage.parts else []
    if ranks:
        yield [(f"model.lora.rank={rank}", _with_rank(recipe, rank)) for rank in ranks]
    kept = tuple(rule for rule in stage.trains if parse_rule(rule)[0] != "vision")
    if kept and kept != stage.trains:
        yield [(f"stages.{number}.trains=[{','.join(kept)}]", _in_stage(recipe, number, "trains")(kept))]


def _halves(value: int) -> list[int]:
    """Half of it, half of that, and so on to 1."""
    return [value // 2**power for power in range(1, value.bit_length())]


def _in_stage(recipe: Recipe, number: int, key: str) -> Callable[[Any], Recipe]:
    def change(value: Any) -> Recipe:
        stages = list(recipe.stages)
        stages[number] = stages[number].model_copy(update={key: value})
        return recipe.model_copy(update={"stages": tuple(stages)})

    return change


def _with_rank(recipe: Recipe, rank: int) -> Recipe:
    lora = recipe.model.lora.model_copy(update={"rank": rank})
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"lora": lora})})
