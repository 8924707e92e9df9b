"""A recipe from its file to its folders: an adapter and its base are the checkpoint that would be saved."""

from pathlib import Path
from typing import Any

import torch
from tiny_models import logits, write_base_and_pictures

from ziya_visual.core.recipe import load_recipe
from ziya_visual.model.checkpoint import load_checkpoint
from ziya_visual.model.lora import parameters_by_part
from ziya_visual.train.run import run_recipe

RECIPE = """
name: test
out: {folder}/run
precision: fp32
model: {{checkpoint: {folder}/base, lora: {{rank: 4, alpha: 8}}}}
data: {{path: ["{folder}/pictures"]}}
stages:
  - {{name: one, steps: 3, images_per_step: 2, texts_per_image: 1, tasks: {{caption: 1.0}},
      learning_rate: 0.01, trains: ["vision[-1:]", alignment], objectives: {{contrastive: 1.0}}}}
  - {{name: two, steps: 3, images_per_step: 2, texts_per_image: 1, tasks: {{caption: 1.0}},
      learning_rate: 0.01, learning_rates: {{lora: 0.03}}, trains: [projection, lora, "qformer[:1]"]}}
"""


def test_an_adapter_and_its_base_are_the_checkpoint(tmp_path: Path) -> None:
    write_base_and_pictures(tmp_path, ("red", "green", "blue"))
    model, alignment, processor = load_checkpoint(tmp_path / "base")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(folder=tmp_path))
    saved: dict[str, Any] = {}
    for save in ("checkpoint", "adapter"):
        folder = run_recipe(load_recipe(path, [f"save={save}", f"out={tmp_path / save}"]))
        saved[save] = load_checkpoint(folder)
    whole, adapter = (logits(saved[save][0], processor) for save in ("checkpoint", "adapter"))
    assert (whole - adapter).abs().max() <= 1e-5
    for (name, tensor), other in zip(
        saved["checkpoint"][1].state_dict().items(), saved["adapter"][1].state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other), name
    before = parameters_by_part(model, alignment)
    after = parameters_by_part(*saved["checkpoint"][:2])
    moved = {n for part in before for n, p in before[part].items() if not torch.equal(p, after[part][n])}
    assert {name.split(".")[4] for name in moved if "vision_model" in name} == {"2"}
