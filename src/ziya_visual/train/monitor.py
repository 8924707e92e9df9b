"""What a run reports while it trains: its curve, sample answers, held-out losses and bad steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ziya_visual.core import distributed, log
from ziya_visual.core.errors import ConfigError, nearest
from ziya_visual.core.files import write_jsonl
from ziya_visual.core.records import Example
from ziya_visual.data.templates import instruct
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.model.network import Alignment, ZiyaVisualModel
from ziya_visual.model.processor import ZiyaProcessor
from ziya_visual.train.batches import Batches, TrainingData
from ziya_visual.train.objectives import GetFeatures, Losses, add_losses, autocast, mean_losses
from ziya_visual.train.speed import Speed

SAMPLES, BAD_STEPS = "samples", "bad"  # folders in the run's output folder
SAMPLE_TOKENS = 48
SAMPLED_TASKS = ("dialogue", "vqa", "caption")  # in this order of preference


@dataclass(frozen=True)
class HeldOut:
    """Held-out batches to measure the loss on, their features, and the names of their language numbers."""

    batches: Batches
    get_features: GetFeatures
    langs: list[str]


@dataclass(kw_only=True)
class Monitor:
    """Follow one stage of a run."""

    stage: str
    steps: int
    steps_before: int  # of the stages before, for the trackers' step numbers
    precision: str
    out: Path  # the run's output folder
    curve: list[dict[str, Any]]  # of the whole run: rows of stage, step, name, value
    trackers: Sequence[Any]  # from :func:`open_trackers`
    speed: Speed
    examples: list[list[Example]]  # the texts of each image, by its number
    model: ZiyaVisualModel
    alignment: Alignment
    processor: ZiyaProcessor
    questions: list[tuple[Example, np.ndarray]]  # answered every ``sample_every`` steps
    sample_every: int | None
    held_out: HeldOut | None  # measured every ``validate_every`` steps
    validate_every: int
    best: str | None  # the held-out loss that selects the best weights
    set_train_mode: Callable[[], object]  # called after the networks were in evaluation mode

    def record(self, step: int, values: dict[str, float], bar: log.ProgressBar) -> None:
        """Add points to the curve, and show them on the progress bar."""
        for name, value in values.items():
            self.curve.append({"stage": self.stage, "step": step, "name": name, "value": round(value, 5)})
        speed = self.speed.measure()
        losses_text = " ".join(f"{name} {value:.3f}" for name, value in values.items())
        speed_text = " ".join(f"{value:.0f} {name.replace('_', ' ')}" for name, value in speed.items())
        bar.describe(f"stage {self.stage}: {losses_text}; {speed_text}")
        log.logger.debug("%s %d: %s; %s", self.stage, step, losses_text, speed_text)
        for tracker in self.trackers:
            tracker.log({**values, **speed}, step=self.steps_before + step)

    def dump_bad_step(self, step: int, images: np.ndarray) -> None:
        """Write down the texts of a step whose loss or gradient is not finite; each rank has its own file."""
        path = self.out / BAD_STEPS / f"{self.stage}-{step:09d}-{distributed.rank()}.jsonl"
        rows = [
            {"id": text.id, "image_id": text.image_id, "messages": list(map(asdict, text.messages))}
            for number in images
            for text in self.examples[number]
        ]
        write_jsonl(path, rows)
        log.logger.warning(
            "step %d is skipped: its loss or gradient is not finite; its texts: %s", step, path
        )

    def evaluate(self, step: int, bar: log.ProgressBar) -> float | None:
        """Answer sample questions and measure held-out losses if they are due after a step.

        Returns:
            The loss that selects the best weights, if it was measured.
        """
        sampling = self._is_due(self.sample_every, step)
        held_out = self.held_out if self._is_due(self.validate_every, step) else None
        if not sampling and not held_out:
            return None
        self.model.eval()
        self.alignment.eval()
        losses = {}
        if sampling:
            self._sample(step)
        if held_out:
            losses = validation_losses(self.model, held_out, precision=self.precision)
            if self.best and self.best not in losses:
                hint = nearest(self.best, losses)
                raise ConfigError(f"validation.best: there is no {self.best!r}{hint}")
            self.record(step, {f"validation/{name}": value for name, value in losses.items()}, bar)
        self.set_train_mode()
        self.speed.restart_clock()
        return losses.get(self.best) if self.best else None

    def _is_due(self, every: int | None, step: int) -> bool:
        return every is not None and (step + 1 == self.steps or (step + 1) % every == 0)

    def _sample(self, step: int) -> None:
        examples = [example for example, _ in self.questions]
        images = {str(example.image_id): Image.fromarray(pixels) for example, pixels in self.questions}
        engine = ZiyaVisual(self.model, self.alignment, self.processor)
        with autocast(self.precision, self.model.device):
            answers = engine.answer(examples, max_new_tokens=SAMPLE_TOKENS, images=images)
        if distributed.rank() > 0:
            return
        rows = []
        for example, answer in zip(examples, answers, strict=True):
            question, reference = (message.content for message in example.messages[-2:])
            row = {"lang": example.lang, "image_id": example.image_id, "asked": question, "wanted": reference}
            rows.append(row | {"said": answer})
            log.logger.info("step %d, %s: %s -> %s", step, example.image_id, question, answer)
        write_jsonl(self.out / SAMPLES / f"{self.stage}-{step:09d}.jsonl", rows)


@torch.no_grad()
def validation_losses(model: ZiyaVisualModel, held_out: HeldOut, *, precision: str) -> dict[str, float]:
    """Measure the language model's mean loss per token on one epoch: ``loss``, and ``loss/LANG``."""
    sums: Losses = {}
    for step in range(held_out.batches.steps_per_epoch):
        batch = held_out.batches[step]
        assert batch.texts is not None
        with autocast(precision, model.device):
            parts = model.packed_loss(held_out.get_features(batch.images).queries, batch.texts)
        losses = {f"loss/{held_out.langs[n]}": (part.total.item(), part.count) for n, part in parts.items()}
        sums = add_losses([sums, losses])
    sums = add_losses(distributed.gather_objects(sums))
    total, count = (sum(column) for column in zip(*sums.values(), strict=True))
    return mean_losses(sums | {"loss": (total, int(count))})


def sample_questions(data: TrainingData) -> list[tuple[Example, np.ndarray]]:
    """Select a question of each language, with the pixels of its image."""
    questions = []
    for lang in data.texts.langs:
        candidates = [
            (SAMPLED_TASKS.index(example.task), number, example)
            for number, examples in enumerate(data.texts.examples)
            for example in examples
            if example.lang == lang and example.task in SAMPLED_TASKS
        ]
        for _, number, example in sorted(candidates, key=lambda candidate: candidate[:2]):
            dialogue = instruct(example, seed=0, split="train")
            if len(dialogue.messages) > 1 and dialogue.messages[-1].role == "assistant":
                questions.append((dialogue, data.pixels[number]))
                break
    return questions


@contextlib.contextmanager
def open_trackers(
    names: Sequence[str], *, project: str, folder: Path, config: dict[str, str]
) -> Iterator[list[Any]]:
    """Start trackers that get the curve too, and finish them at the end of the block.

    Raises:
        ConfigError: the package of a tracker is not installed.
    """
    from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

    trackers: list[Any] = []
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(f"trackers: {name} is not installed: pip install {name}")
        if name == "tensorboard":
            tracker = TensorBoardTracker(project, folder)
        else:
            tracker = {"trackio": TrackioTracker, "wandb": WandBTracker}[name](project)
        tracker.start()
        tracker.store_init_configuration(config)
        trackers.append(tracker)
    try:
        yield trackers
    finally:
        for tracker in trackers:
            tracker.finish()
