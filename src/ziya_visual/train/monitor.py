"""What a run says while it trains: its curve, its speed, answers to look at, and steps that went wrong."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from ziya_visual.core import distributed, log
from ziya_visual.core.errors import ConfigError
from ziya_visual.core.files import write_jsonl
from ziya_visual.core.recipe import Recipe, Stage
from ziya_visual.core.records import Example
from ziya_visual.data.templates import instruct
from ziya_visual.infer.engine import ZiyaVisual
from ziya_visual.train.batches import Batch
from ziya_visual.train.image_features import reads_queries_only, trains_vision
from ziya_visual.train.speed import Cost, Speed
from ziya_visual.train.step import computing
from ziya_visual.train.training import Training

SAMPLES = "samples"
SAMPLE_TOKENS = 48
_TURN = {"dialogue": 0, "vqa": 1, "caption": 2}  # which text of a language is answered first


class Watch:
    """The watcher of one run; of several processes the first one speaks."""

    def __init__(self, training: Training, recipe: Recipe) -> None:
        """Start the trackers.

        Raises:
            ConfigError: a tracker is not installed.
        """
        self._training, self._recipe = training, recipe
        self._trackers = [_tracker(name, recipe) for name in recipe.trackers]
        self._asked = _asked(training) if recipe.sample_every else []
        self._done = 0  # steps of the stages before

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the trackers write what they have."""
        for tracker in self._trackers:
            tracker.finish()

    def begin(self, stage: Stage, bar: Any) -> None:
        """From here on it is about this stage."""
        self._stage, self._bar = stage, bar
        names = [one.name for one in self._recipe.stages]
        self._done = sum(one.steps for one in self._recipe.stages[: names.index(stage.name)])
        model = self._training.model
        cost = Cost.of(model, encodes=trains_vision(self._recipe), queries=not reads_queries_only(stage))
        self._speed = Speed(model.device, cost)

    def count(self, batch: Batch) -> None:
        """A step was taken."""
        self._speed.count(batch)

    def go_on(self) -> None:
        """Answers and losses on what is held back took time that is no step's."""
        self._speed.go_on()

    def note(self, step: int, values: dict[str, float]) -> None:
        """Points of the curve."""
        stage = self._stage.name
        for name, value in values.items():
            self._training.curve.append(
                {"stage": stage, "step": step, "name": name, "value": round(value, 5)}
            )
        speed = self._speed.measured()
        said = " ".join(f"{name} {value:.3f}" for name, value in values.items())
        fast = " ".join(f"{value:.0f} {name.replace('_', ' ')}" for name, value in speed.items())
        self._bar.describe(f"stage {stage}: {said}; {fast}")
        log.logger.debug("%s %d: %s; %s", stage, step, said, fast)
        for tracker in self._trackers:
            tracker.log({**values, **speed}, step=self._done + step)

    def sample(self, step: int) -> None:
        """Answer a text of each language, to be looked at; the networks are in evaluation mode."""
        training = self._training
        engine = ZiyaVisual(training.model, training.alignment, training.processor)
        images = {str(e.image_id): Image.fromarray(pixels) for e, pixels in self._asked}
        examples = [example for example, _ in self._asked]
        with computing(self._recipe.precision, training.model.device.type):
            answers = engine.answer(examples, max_new_tokens=SAMPLE_TOKENS, images=images)
        if distributed.rank() > 0:
            return
        rows = []
        for example, answer in zip(examples, answers, strict=True):
            prompt, wanted = example.messages[-2].content, example.messages[-1].content
            row = {"lang": example.lang, "image_id": example.image_id, "asked": prompt, "wanted": wanted}
            rows.append(row | {"said": answer})
            log.logger.info("step %d, %s: %s -> %s", step, example.image_id, prompt, answer)
        write_jsonl(self._recipe.out / SAMPLES / f"{self._stage.name}-{step:09d}.jsonl", rows)

    def dump(self, step: int, rows: np.ndarray) -> None:
        """Keep the texts of the pictures of a step without a finite loss, each process its own."""
        album = self._training.data.album
        path = self._recipe.out / "bad" / f"{self._stage.name}-{step:09d}-{distributed.rank()}.jsonl"
        some = [example for row in rows for example in album.examples[row]]
        write_jsonl(
            path,
            [{"id": e.id, "image_id": e.image_id, "messages": list(map(asdict, e.messages))} for e in some],
        )
        log.logger.warning("step %d had no finite loss or gradient and is skipped; it was of %s", step, path)


def _asked(training: Training) -> list[tuple[Example, np.ndarray]]:
    """A record of each language with its pixels: held back, if anything is."""
    data = training.held or training.data
    found = []
    for lang in data.album.langs:
        of_lang = (
            (_TURN[example.task], row, example)
            for row, examples in enumerate(data.album.examples)
            for example in examples
            if example.lang == lang and example.task in _TURN
        )
        for _, row, example in sorted(of_lang, key=lambda one: one[:2]):
            told = instruct(example, seed=0, split="train")
            if len(told.messages) > 1 and told.messages[-1].role == "assistant":  # there is a question
                found.append((told, data.pictures[row]))
                break
    return found


def _tracker(name: str, recipe: Recipe) -> Any:
    from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

    if find_spec(name) is None:
        raise ConfigError(f"trackers: {name} is not installed: pip install {name}")
    if name == "tensorboard":
        tracker = TensorBoardTracker(recipe.name, recipe.out / "tensorboard")
    else:
        tracker = {"trackio": TrackioTracker, "wandb": WandBTracker}[name](recipe.name)
    tracker.start()
    tracker.store_init_configuration({"recipe": recipe.model_dump_json()})
    return tracker
