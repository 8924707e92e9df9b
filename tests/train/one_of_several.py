"""A process of several, or the only one: the losses and gradients of one step, written to a file.

python tests/train/one_of_several.py RECIPE OUT    as it is, or under torchrun
"""

import sys
from pathlib import Path

import torch

from ziya_visual.core import distributed
from ziya_visual.core.recipe import load_recipe
from ziya_visual.model.lora import add_lora, freeze_all_but
from ziya_visual.train.image_features import Sight
from ziya_visual.train.llm_blocks import prepare_blocks, shard_blocks
from ziya_visual.train.run import prepare, read_data
from ziya_visual.train.step import add_gradients, added, means


def main(recipe_path: str, out: str) -> None:
    distributed.start()
    torch.set_num_threads(1)
    recipe = load_recipe(Path(recipe_path))
    training = prepare(recipe, read_data(recipe.data.path, rejects=recipe.out / "rejects.jsonl"))
    (stage,) = recipe.stages
    if recipe.shard and distributed.world_size() > 1:
        shard_blocks(training.model, recipe)
    torch.manual_seed(0)
    add_lora(training.model, rank=4, alpha=8)
    for name, parameter in training.named_parameters():
        if "lora_B" in name:  # else no gradient would reach the other half
            torch.nn.init.normal_(parameter, std=0.1)
    freeze_all_but(training.model, training.alignment, stage.trains)
    prepare_blocks(training.model, recompute=recipe.recompute, compiled=recipe.compile)
    see = Sight(training.model, training.processor, training.data.pictures, recipe).of(stage)
    optimizer = training.optimizer(recipe, stage)
    found = []
    for step in range(2):  # the languages take turns
        torch.manual_seed(step)
        drawn = training.batches(recipe, 0, training.data)[step]
        batch = drawn.placed(training.model.device, learnt=int(distributed.sum_over_ranks(drawn.learnt)))
        optimizer.zero_grad()
        parts = add_gradients(
            training.model, training.alignment, batch, see, objectives=stage.objectives,
            langs=training.data.album.langs, step=step, precision=recipe.precision,
            at_once=stage.images_at_once,
        )  # fmt: skip
        distributed.sum_gradients(optimizer.parameters)
        grads = {n: p.grad.clone() for n, p in training.named_parameters() if p.grad is not None}
        found.append({"losses": means(added(distributed.gather_objects(parts))), "gradients": grads})
    if distributed.rank() == 0:
        torch.save(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
