"""The training loop: the stages of a recipe one after the other, killed and resumed at any instant.

A step depends on seed, stage and step number alone (:mod:`batches` draws its data, the random state is set
before it), so that a run resumed from its last saved state repeats the unbroken one. Several processes take
each step together (:mod:`processes`): it is the step that one would take.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ziya_visual.core import distributed, log
from ziya_visual.core.files import write_json
from ziya_visual.core.recipe import Recipe, Stage
from ziya_visual.model.lora import add_lora, freeze_all_but
from ziya_visual.train.image_features import Sight
from ziya_visual.train.llm_blocks import prepare_blocks, shard_blocks
from ziya_visual.train.monitor import Watch
from ziya_visual.train.optimizer import Optimizer, cosine
from ziya_visual.train.run_state import read_state, read_weights, write_state, write_weights
from ziya_visual.train.step import See, add_gradients, added, means
from ziya_visual.train.training import Training, draw_ahead
from ziya_visual.train.validation import validate

STATES = "states"
LOG_EVERY = 25
MAX_BAD_STEPS = 10  # in a row with a loss or gradient that is not finite


@dataclass
class Run:
    """A recipe that is being trained, and what of it belongs to no single stage."""

    training: Training
    recipe: Recipe
    watch: Watch
    sight: Sight
    held: Sight | None

    @property
    def states(self) -> Path:
        """Where it is saved."""
        return self.recipe.out / STATES


def train(training: Training, recipe: Recipe, *, after_stage: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run all stages, going on from ``recipe.out``'s saved state where there is one.

    Args:
        training: what is trained; changed in place, and moved to the GPU where there is one.
        recipe: its stages, seed, precision and output folder.
        after_stage: called by the first process with the name of each stage that is complete.

    Returns:
        The learning curve.

    Raises:
        FloatingPointError: ten steps in a row gave a loss or gradient that is not finite.
    """
    device = distributed.start().device
    model = training.model
    if recipe.shard:
        shard_blocks(model, recipe)
    model.to(device)
    training.alignment.to(device)
    with distributed.first_rank_first():
        saved = read_state(recipe.out / STATES)
    sight = Sight(model, training.processor, training.data.pictures, recipe)
    back = training.held
    held = None if back is None else Sight(model, training.processor, back.pictures, recipe)
    with Watch(training, recipe) as watch:
        run = Run(training, recipe, watch, sight, held)
        for number, stage in enumerate(recipe.stages):
            if "lora" in stage.parts:
                torch.manual_seed(recipe.seed)  # the adapters start alike, however the run came here
                add_lora(model, rank=recipe.model.lora.rank, alpha=recipe.model.lora.alpha)
                model.to(device)
            if saved is not None and number < saved["stage"]:
                continue
            _run_stage(run, number, saved)
            saved = None
            if distributed.rank() == 0:
                after_stage(stage.name)
            distributed.barrier()
    return training.curve


def _run_stage(run: Run, number: int, saved: Any) -> None:
    training, recipe = run.training, run.recipe
    stage, model, alignment = recipe.stages[number], training.model, training.alignment
    table = freeze_all_but(model, alignment, stage.trains)
    prepare_blocks(model, recompute=recipe.recompute, compiled=recipe.compile)
    optimizer = training.optimizer(recipe, stage)
    batches = training.batches(recipe, number, training.data)
    log.logger.info("stage %s trains %s", stage.name, ", ".join(f"{k} {v:,}" for k, v in table.items()))
    see, first, best = run.sight.of(stage), 0, math.inf
    held = run.held.of(stage) if run.held else None
    if saved is not None:
        first, best = saved["step"], saved["best"]
        training.restore(saved["weights"])
        optimizer.load_state_dict(saved["optimizer"])
        training.curve[:] = saved["curve"]
        log.logger.info("stage %s goes on at step %d", stage.name, first)
    bad = 0
    with log.progress(f"stage {stage.name}", stage.steps, done=first) as bar:
        run.watch.begin(stage, bar)
        for step, drawn in enumerate(draw_ahead(batches, range(first, stage.steps)), first):
            torch.manual_seed(recipe.seed * 1_000_003 + number * 100_003 + step)
            batch = drawn.placed(model.device, learnt=int(distributed.sum_over_ranks(drawn.learnt)))
            optimizer.zero_grad()
            parts = add_gradients(
                model,
                alignment,
                batch,
                see,
                objectives=stage.objectives,
                langs=training.data.album.langs,
                step=step,
                precision=recipe.precision,
                at_once=stage.images_at_once,
            )
            distributed.sum_gradients(optimizer.parameters)
            factor = cosine(step, steps=stage.steps, warmup=stage.warmup_steps, floor=stage.final_fraction)
            finite = optimizer.finish(lr=stage.learning_rate * factor)
            bad = 0 if finite else bad + 1
            run.watch.count(batch)
            if bad:
                _count_bad(run, stage, step, batch.pictures, bad)
            elif step % LOG_EVERY == 0 or step == stage.steps - 1:
                run.watch.note(step, means(added(distributed.gather_objects(parts))))
            best = _look(run, number, step, held, best)
            if (step + 1) % recipe.save_every == 0 or step + 1 == stage.steps:
                _save(run, optimizer, number, step + 1, best)
            bar.advance()
    if distributed.rank() == 0 and (seen := batches.seen(stage.steps)):
        write_json(recipe.out / f"mixture-{stage.name}.json", seen)
        for row in seen:
            log.logger.info(
                "stage %s: %s drawn %d times (%.1f %%, wanted %.1f), %.2f epochs of %d", stage.name,
                row["name"], row["drawn"], 100 * row["drawn_share"], 100 * row["share"], row["epochs"],
                row["records"],
            )  # fmt: skip


def _count_bad(run: Run, stage: Stage, step: int, rows: Any, bad: int) -> None:
    """Keep what the step was of; stop where it is the tenth in a row."""
    run.watch.dump(step, rows)
    if bad >= MAX_BAD_STEPS:
        raise FloatingPointError(
            f"stage {stage.name}: {bad} steps in a row up to {step} had no finite loss or gradient; "
            "lower learning_rate or use precision: fp32"
        )


def _look(run: Run, number: int, step: int, held: See | None, best: float) -> float:
    """Measure and show what is due after a step, in evaluation mode; returns the best loss so far.

    A stage that is to end with its best weights has them when its last step is done.
    """
    training, recipe = run.training, run.recipe
    stage = recipe.stages[number]
    last = step + 1 == stage.steps

    def due(every: int | None) -> bool:
        return every is not None and (last or (step + 1) % every == 0)

    wanted = recipe.validation
    sampled, measured = due(recipe.sample_every), wanted is not None and due(wanted.every)
    if not sampled and not measured:
        return best
    training.model.eval()
    training.alignment.eval()
    if sampled:
        run.watch.sample(step)
    if measured and held is not None:
        best = _measure(run, number, step, held, best)
    freeze_all_but(training.model, training.alignment, stage.trains)
    prepare_blocks(training.model, recompute=recipe.recompute, compiled=recipe.compile)
    run.watch.go_on()
    return best


def _measure(run: Run, number: int, step: int, held: See, best: float) -> float:
    """The loss on what is held back; the best weights are kept, and the stage's last are replaced by them."""
    recipe, path = run.recipe, run.states / f"best-{number:02d}.pt"
    losses = validate(run.training, recipe, number, held)
    run.watch.note(step, {f"validation/{name}": value for name, value in losses.items()})
    wanted = recipe.validation and recipe.validation.best
    if wanted and losses[wanted] < best:
        best = losses[wanted]
        write_weights(path, run.training.trained())
    if wanted and math.isfinite(best) and step + 1 == recipe.stages[number].steps:
        run.training.restore(read_weights(path))
    return best


def _save(run: Run, optimizer: Optimizer, number: int, step: int, best: float) -> None:
    if distributed.rank() == 0:
        state = {
            "stage": number,
            "step": step,
            "best": best,
            "weights": run.training.trained(),
            "optimizer": optimizer.state_dict(),
            "curve": run.training.curve,
        }
        write_state(run.states, state)
