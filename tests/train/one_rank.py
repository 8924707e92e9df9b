"""A process of several, or the only one: the losses and gradients of one step, written to a file.

python tests/train/one_rank.py RECIPE OUT    as it is, or under torchrun
"""

import sys
from pathlib import Path

import torch

from ziya_visual.core import distributed
from ziya_visual.core.recipe import load_recipe
from ziya_visual.model.lora import add_lora
from ziya_visual.train.batches import load_images, read_data
from ziya_visual.train.loop import forward_backward
from ziya_visual.train.model import shard_llm_blocks
from ziya_visual.train.objectives import add_losses, mean_losses
from ziya_visual.train.run import (
    build_batches,
    build_features,
    build_model,
    build_optimizer,
    loss_weights,
    prepare_stage,
)


def main(recipe_path: str, out: str) -> None:
    distributed.start()
    torch.set_num_threads(1)
    recipe = load_recipe(Path(recipe_path))
    built = build_model(recipe)
    examples = read_data(recipe.data.path, rejects=recipe.out / "rejects.jsonl")
    data = load_images(examples, image_size=built.processor.image_size)
    (stage,) = recipe.stages
    if recipe.shard and distributed.world_size() > 1:
        shard_llm_blocks(built.model)
    torch.manual_seed(0)
    add_lora(built.model, rank=4, alpha=8)
    for name, parameter in built.named_parameters():
        if "lora_B" in name:  # else no gradient would reach the other half
            torch.nn.init.normal_(parameter, std=0.1)
    prepare_stage(recipe, 0, built)
    get_features = build_features(recipe, built, data.pixels).for_stage(queries_only=False)
    optimizer = build_optimizer(recipe, 0, built)
    batches = build_batches(recipe, 0, built, data.texts)
    steps = []
    for step in range(2):  # the languages take turns
        torch.manual_seed(step)
        batch = batches[step].to(built.model.device)
        optimizer.zero_grad()
        losses = forward_backward(
            built.model, built.alignment, batch, get_features, weights=loss_weights(stage),
            langs=data.texts.langs, step=step, precision=recipe.precision,
            images_at_once=stage.images_at_once,
        )  # fmt: skip
        distributed.sum_gradients(optimizer.parameters)
        gradients = {n: p.grad.clone() for n, p in built.named_parameters() if p.grad is not None}
        means = mean_losses(add_losses(distributed.gather_objects(losses)))
        steps.append({"losses": means, "gradients": gradients})
    if distributed.rank() == 0:
        torch.save(steps, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
