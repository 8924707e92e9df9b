"""The doctor counts the memory of a step that torch allocates for it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doctor_cases import plan, recipe

from ziya_visual.doctor.advice import Plan
from ziya_visual.doctor.memory import Memory, Shape, dry_step, first_batches
from ziya_visual.model.checkpoint import load_checkpoint
from ziya_visual.model.lora import add_lora, freeze_all_but
from ziya_visual.model.packed.attention import PLAIN
from ziya_visual.model.processor import normalise
from ziya_visual.train.model import BuiltModel
from ziya_visual.train.objectives import ImageFeatures, LossWeights, compute_losses
from ziya_visual.train.optimizer import Optimizer
from ziya_visual.train.run import build_model


def real_step(folder: Path, planned: Plan, number: int) -> tuple[int, int, int, int]:
    """Return the bytes of weights, gradients, optimizer state and activations of the model's first step."""
    stage, bf16 = planned.recipe.stages[number], planned.recipe.precision == "bf16"
    model, alignment, processor = load_checkpoint(folder / "checkpoint", attention=PLAIN)
    if any("lora" in before.trains for before in planned.recipe.stages[: number + 1]):
        add_lora(model, rank=planned.recipe.model.lora.rank, alpha=planned.recipe.model.lora.alpha)
    freeze_all_but(model, alignment, stage.trains)
    optimizer = Optimizer([*model.named_parameters(), *alignment.named_parameters()])
    parameters = [*model.parameters(), *alignment.parameters()]
    own = {tensor.data_ptr() for tensor in [*parameters, *model.buffers(), *alignment.buffers()]}
    saved: dict[int, torch.Tensor] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    batch = first_batches(planned.recipe, number, BuiltModel(model, alignment, processor), planned.texts)[0]
    pixels = normalise(np.zeros((len(batch.images), 16, 16, 3), np.uint8))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        embeds = model.encode_images(pixels).to(torch.bfloat16 if bf16 else torch.float32)
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            features = ImageFeatures(embeds, model.query_images(embeds))
            loss, _ = compute_losses(
                model, alignment, batch, features, weights=LossWeights(**stage.objectives.model_dump()),
                langs=planned.texts.langs, step=0,
            )  # fmt: skip
    activations = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    assert optimizer.step(loss, lr=0.0)
    states = [state for part in optimizer.state_dict() for state in part["state"].values()]
    return (
        size(parameters),
        size(p.grad for p in parameters if p.grad is not None),
        size(tensor for state in states for tensor in state.values() if isinstance(tensor, torch.Tensor)),
        activations,
    )


def size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def total(memory: Memory, name: str) -> int:
    return sum(getattr(memory, name).values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_dry_step_needs_what_torch_allocates(folder: Path, number: int, precision: str) -> None:
    planned = plan(
        folder, f"precision={precision}", f"stages.{number}.steps=1"
    )  # one batch is drawn, that one
    memory = planned.step(number)
    weights, gradients, optimizer, activations = real_step(folder, planned, number)
    assert total(memory, "weights") == pytest.approx(weights, rel=0.01)
    assert total(memory, "gradients") == pytest.approx(gradients, rel=0.01)
    assert total(memory, "optimizer") == pytest.approx(optimizer, rel=0.01)
    assert memory.activations + memory.casts == pytest.approx(activations, rel=0.03)


def test_texts_of_fewer_pictures_at_once_need_less(folder: Path) -> None:
    whole, some = (plan(folder, *changes).step(1) for changes in ((), ("stages.1.images_at_once=1",)))
    assert some.activations < 0.5 * whole.activations
    assert total(some, "weights") == total(whole, "weights")


def test_what_a_stage_trains_is_what_training_counts(folder: Path) -> None:
    planned = plan(folder)
    model, alignment, _ = load_checkpoint(folder / "checkpoint")
    for number, stage in enumerate(planned.recipe.stages):
        if "lora" in stage.trains:
            add_lora(model, rank=8, alpha=16)
        trained = {name: count for name, count in planned.step(number).trained.items() if count}
        assert trained == freeze_all_but(model, alignment, stage.trains)


def test_sharding_is_the_formula_of_the_documentation(folder: Path) -> None:
    bf16 = recipe(folder, "precision=bf16")
    shape = Shape(images=2, lengths=((5, 15), (5, 7, 8)), supervised=8, captions=((2, 5),))
    memory = dry_step(bf16, 0, build_model(bf16, meta=True), shape)
    assert memory.casts > 0
    assert memory.one_process() == memory.states + memory.activations + memory.casts
    block_bytes = sum(memory.blocks)
    assert memory.sharded(4) == memory.one_process() - block_bytes + block_bytes // 4 + 2 * max(memory.blocks)
    rows = ((4, 6), (4, 2, 2), (4, 5), (4, 7), (4, 1))
    assert Shape(5, rows, 9, ((5, 7), (2, 3))).share(2) == Shape(3, rows[:3], 5, ((3, 7),))
