"""The doctor's test data: a recipe of two stages over four images and a tiny checkpoint."""

from pathlib import Path
from typing import Any

from ziya_visual.core.recipe import Recipe, load_recipe
from ziya_visual.core.records import Example, ImageRef, Message
from ziya_visual.doctor.advice import Plan
from ziya_visual.train.batches import group_by_image
from ziya_visual.train.run import build_model

COLORS = {"red": (220, 20, 20), "green": (20, 160, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}
RECIPE = """
name: test
out: {folder}/run
precision: fp32
model: {{checkpoint: {folder}/checkpoint, lora: {{rank: 8, alpha: 16}}}}
data: {{path: [{folder}/data.jsonl]}}
stages:
  - {{name: align, steps: 5, images_per_step: 4, texts_per_image: 2, learning_rate: 0.004,
      tasks: {{caption: 1.0}}, trains: [qformer, query_tokens, projection, alignment],
      objectives: {{language_model: 1.0, contrastive: 1.0, matching: 0.5, grounded: 0.5}}}}
  - {{name: base, steps: 5, images_per_step: 4, texts_per_image: 2, learning_rate: 0.01,
      tasks: {{vqa: 1.0}}, trains: [qformer, query_tokens, projection, lora],
      objectives: {{language_model: 1.0}}}}
"""


def examples(folder: Path) -> list[Example]:
    records = []
    for color in COLORS:
        for lang, question in (("en", "What color?"), ("zh", "什么颜色？")):
            image = ImageRef(path=str(folder / f"{color}.png"))
            common: dict[str, Any] = {"lang": lang, "image": image, "image_id": color}
            answer = Message("assistant", color)
            records.append(Example(f"c-{color}-{lang}", task="caption", messages=(answer,), **common))
            turns = (Message("user", question), answer)
            records.append(Example(f"q-{color}-{lang}", task="vqa", messages=turns, **common))
    return records


def recipe(folder: Path, *changes: str) -> Recipe:
    return load_recipe(folder / "recipe.yaml", changes)


def one_stage(folder: Path, *changes: str) -> Recipe:
    """Return the recipe with only its last stage."""
    both = recipe(folder, *changes)
    return both.model_copy(update={"stages": both.stages[1:]})


def plan(folder: Path, *changes: str, settings: Recipe | None = None) -> Plan:
    settings = settings or recipe(folder, *changes)
    return Plan(settings, build_model(settings, meta=True), group_by_image(examples(folder)))
