"""Put a suite to a model: answers and embeddings in, metric rows and prediction files out.

The model is anything that fits :class:`Answerer`: our engine, another one, or a stub in a test. All questions
of a picture are handed over together, so that an engine can encode it once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ziya_visual.core.io import write_records
from ziya_visual.core.log import progress
from ziya_visual.core.records import Example, Prediction
from ziya_visual.eval.results import Metric, Scope
from ziya_visual.eval.suites import Section, Suite
from ziya_visual.eval.tasks import caption, retrieval, vqa

if TYPE_CHECKING:
    from PIL.Image import Image

Floats = npt.NDArray[np.float32]
TASKS = ("vqa", "caption", "retrieval")
_PICTURES_AT_ONCE = 64


class Answerer(Protocol):
    """What an evaluation needs of a model."""

    def answer(
        self, examples: Sequence[Example], *, max_new_tokens: int, images: Mapping[str, Image] | None = None
    ) -> list[str]:
        """Greedy answers to the user turns of ``examples``; pictures are ``images[example.image_id]``."""

    def embed_images(self, images: Sequence[Image]) -> Floats:
        """Embeddings float32[N, Q, D] of pictures."""

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Embeddings float32[M, D] of captions."""


def evaluate(
    model: Answerer, suite: Suite, *, name: str, out: Path, tasks: Sequence[str] = TASKS, seed: int = 0
) -> list[Metric]:
    """Run every section of ``suite`` and write ``predictions/<name>.<split>.<lang>.<task>.jsonl``.

    Args:
        model: answers and embeds.
        suite: what is asked; ``suite.blank()`` asks it of grey pictures.
        name: of the model, in the rows and file names: ``base``, ``chat``, ``blank`` ...
        out: the folder of the run.
        tasks: of :data:`TASKS`; what a section does not hold is skipped.
        seed: of the bootstrap.
    """
    metrics: list[Metric] = []
    pictures: dict[str, Floats] = {}  # embedded once for all languages
    for (split, lang), section in suite.sections.items():
        asked = {
            "vqa": (section.vqa, vqa.MAX_NEW_TOKENS),
            "caption": (section.caption, caption.MAX_NEW_TOKENS),
        }
        for task, (examples, limit) in asked.items():
            if task in tasks and examples:
                scope = Scope(name, split, lang, task)
                rows = _predict(model, suite, examples, limit, scope)
                write_records(predictions_path(out, scope), rows)
                metrics += (
                    vqa.measure(rows, scope, seed=seed)
                    if task == "vqa"
                    else caption.measure(rows, scope, suite.keywords)
                )
        if "retrieval" in tasks and section.pools:
            metrics += _retrieve(model, suite, section, pictures, Scope(name, split, lang, "retrieval"))
    return metrics


def majority(suite: Suite, *, out: Path, seed: int = 0) -> list[Metric]:
    """The blind baseline ``majority``: always the most frequent answer of the question's type."""
    metrics = []
    for (split, lang), section in suite.sections.items():
        if section.vqa:
            scope = Scope("majority", split, lang, "vqa")
            texts = vqa.majority_answers(section.vqa)
            rows = [_prediction(example, text) for example, text in zip(section.vqa, texts, strict=True)]
            write_records(predictions_path(out, scope), rows)
            metrics += vqa.measure(rows, scope, seed=seed)
    return metrics


def predictions_path(out: Path, scope: Scope) -> Path:
    """Where the predictions of a model for one split, language and task are."""
    return out / "predictions" / f"{scope.model}.{scope.split}.{scope.lang}.{scope.task}.jsonl"


def _predict(
    model: Answerer, suite: Suite, examples: Sequence[Example], limit: int, scope: Scope
) -> list[Prediction]:
    """Answers in the order of ``examples``."""
    answers: dict[int, str] = {}
    with progress(f"{scope.model} {scope.split} {scope.lang} {scope.task}", len(examples)) as bar:
        for places in _by_picture(examples):
            batch = [examples[place] for place in places]
            texts = model.answer(batch, max_new_tokens=limit, images=suite.images)
            answers.update(zip(places, texts, strict=True))
            bar.advance(bar.task_ids[0], len(batch))
    return [_prediction(example, answers[place]) for place, example in enumerate(examples)]


def _by_picture(examples: Sequence[Example]) -> Iterator[list[int]]:
    """Places of the examples, grouped by picture, some pictures at a time."""
    groups: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        groups.setdefault(example.image_id or example.id, []).append(place)
    pictures = list(groups.values())
    for start in range(0, len(pictures), _PICTURES_AT_ONCE):
        yield [place for group in pictures[start : start + _PICTURES_AT_ONCE] for place in group]


def _prediction(example: Example, text: str) -> Prediction:
    prompt = next((turn.content for turn in reversed(example.messages) if turn.role == "user"), "")
    meta = dict(example.meta)
    return Prediction(
        example.id, example.image_id, example.lang, example.task, prompt, text.strip(), example.answers, meta
    )


def _retrieve(
    model: Answerer, suite: Suite, section: Section, pictures: dict[str, Floats], scope: Scope
) -> list[Metric]:
    wanted = dict.fromkeys(image_id for pool in section.pools for image_id in pool.image_ids)
    new = [image_id for image_id in wanted if image_id not in pictures]
    captions = list(dict.fromkeys(text for pool in section.pools for text in pool.captions))
    with progress(f"{scope.model} {scope.split} {scope.lang} retrieval", len(new) + len(captions)) as bar:
        for start in range(0, len(new), _PICTURES_AT_ONCE):
            part = new[start : start + _PICTURES_AT_ONCE]
            embeds = model.embed_images([suite.images[image_id] for image_id in part])
            pictures.update(zip(part, embeds, strict=True))
            bar.advance(bar.task_ids[0], len(part))
        texts = dict(zip(captions, model.embed_texts(captions), strict=True))
        bar.advance(bar.task_ids[0], len(captions))
    return retrieval.measure(section.pools, pictures, texts, scope)
