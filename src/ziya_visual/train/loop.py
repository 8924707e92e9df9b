"""The training loop: one step from its batch to the updated weights, and a stage of such steps.

A step depends on the seed, the stage and the step number alone: its batch is a function of them, and the
random state is set before it. A run that resumes from its last saved state therefore repeats the unbroken one
bit for bit. Several ranks take each step together, and it is the step that one rank would take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ziya_visual.core import distributed, log
from ziya_visual.model.network import Alignment, ZiyaVisualModel
from ziya_visual.train import run_state
from ziya_visual.train.objectives import (
    NO_IMAGES,
    Batch,
    GetFeatures,
    Losses,
    LossWeights,
    add_losses,
    autocast,
    compute_losses,
    mean_losses,
)
from ziya_visual.train.optimizer import Optimizer, cosine

LOG_EVERY = 25
MAX_BAD_STEPS = 10  # in a row with a loss or gradient that is not finite


def forward_backward(
    model: ZiyaVisualModel,
    alignment: Alignment,
    batch: Batch,
    get_features: GetFeatures,
    *,
    weights: LossWeights,
    langs: list[str],
    step: int,
    precision: str,
    images_at_once: int | None,
) -> Losses:
    """Add the gradients of a whole step, one micro-batch after the other, and return its losses."""
    parts = []
    for micro_batch in batch.micro_batches(images_at_once, align=weights.align):
        with autocast(precision, model.device):
            features = get_features(micro_batch.images) if len(micro_batch.images) else NO_IMAGES
            total, losses = compute_losses(
                model, alignment, micro_batch, features, weights=weights, langs=langs, step=step
            )
        total.backward()
        parts.append(losses)
    return add_losses(parts)


@dataclass(kw_only=True)
class StageTrainer:
    """Everything that one stage needs, built by :mod:`run`."""

    name: str
    number: int  # of the stage in the run
    model: ZiyaVisualModel
    alignment: Alignment
    optimizer: Optimizer
    batches: Callable[[range], Iterable[Batch]]  # yields this rank's batches of a range of steps
    get_features: GetFeatures
    monitor: Any  # a :class:`monitor.Monitor` of the stage
    weights: LossWeights
    langs: list[str]  # the names of the batches' language numbers
    steps: int
    learning_rate: float  # at its peak, after ``warmup_steps``
    warmup_steps: int
    final_fraction: float  # of the peak, where a cosine takes the learning rate
    images_at_once: int | None  # in a micro-batch; None for all of a step's
    precision: str
    seed: int  # the random state at step 0; each further step adds 1
    states: Path  # the folder of the run's states, written every ``save_every`` steps
    save_every: int

    def run(self, saved: dict[str, Any] | None) -> None:
        """Train the stage from its first step or from a saved state.

        Raises:
            FloatingPointError: ten steps in a row had a loss or gradient that is not finite.
        """
        first_step, best = self._resume(saved)
        bad_steps = 0
        with log.progress(f"stage {self.name}", self.steps, done=first_step) as bar:
            for step, drawn in enumerate(self.batches(range(first_step, self.steps)), first_step):
                torch.manual_seed(self.seed + step)

                # Add up the gradients of all micro-batches and ranks.
                batch = drawn.to(self.model.device)
                self.optimizer.zero_grad()
                losses = forward_backward(
                    self.model, self.alignment, batch, self.get_features, weights=self.weights,
                    langs=self.langs, step=step, precision=self.precision, images_at_once=self.images_at_once,
                )  # fmt: skip
                distributed.sum_gradients(self.optimizer.parameters)

                # Update the weights, unless a gradient is not finite.
                factor = cosine(step, steps=self.steps, warmup=self.warmup_steps, floor=self.final_fraction)
                finite = self.optimizer.clip_and_update(lr=self.learning_rate * factor)
                bad_steps = 0 if finite else bad_steps + 1

                # Log the step; give up where none is finite any more.
                last = step + 1 == self.steps
                self.monitor.speed.count(batch)
                if not finite:
                    self.monitor.dump_bad_step(step, batch.images)
                    if bad_steps >= MAX_BAD_STEPS:
                        raise FloatingPointError(
                            f"stage {self.name}: {bad_steps} steps in a row up to {step} had no finite loss "
                            "or gradient; lower learning_rate or use precision: fp32"
                        )
                elif step % LOG_EVERY == 0 or last:
                    all_losses = add_losses(distributed.gather_objects(losses))
                    self.monitor.record(step, mean_losses(all_losses), bar)

                # Measure the loss on held-out data, and save the run.
                best = self._keep_best(self.monitor.evaluate(step, bar), best, last=last)
                if (step + 1) % self.save_every == 0 or last:
                    self._save(step + 1, best)
                bar.advance()

    def _keep_best(self, loss: float | None, best: float, *, last: bool) -> float:
        """Save the weights with the lowest loss so far; the stage ends with them. Return that loss."""
        path = self.states / f"best-{self.number:02d}.pt"
        if loss is not None and loss < best:
            best = loss
            run_state.write_weights(path, run_state.trainable_weights(self.model, self.alignment))
        if loss is not None and last and math.isfinite(best):
            run_state.restore_weights(self.model, self.alignment, run_state.read_weights(path))
        return best

    def _save(self, step: int, best: float) -> None:
        if distributed.rank() > 0:
            return
        state = {
            "stage": self.number,
            "step": step,
            "best": best,
            "weights": run_state.trainable_weights(self.model, self.alignment),
            "optimizer": self.optimizer.state_dict(),
            "curve": self.monitor.curve,
        }
        run_state.write_state(self.states, state)

    def _resume(self, saved: dict[str, Any] | None) -> tuple[int, float]:
        """Load a saved state, if there is one; return the first step and the best loss so far."""
        if saved is None:
            return 0, math.inf
        run_state.restore_weights(self.model, self.alignment, saved["weights"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.monitor.curve[:] = saved["curve"]
        log.logger.info("stage %s resumes at step %d", self.name, saved["step"])
        return saved["step"], saved["best"]
