"""Put a suite to a model: answers and embeddings in, metric rows and prediction files out.

The model is anything that fits :class:`~.session.Answerer`, and :class:`~.session.Ranker` where it retrieves:
our engine, another one, or a stub in a test. All questions of a picture are handed over together, so that an
engine can encode it once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ziya_visual.core.files import atomic_path, write_records
from ziya_visual.core.log import progress
from ziya_visual.core.records import Example, Prediction
from ziya_visual.eval.models.answer_cache import Answerer, Ranker
from ziya_visual.eval.results import Metric, Scope
from ziya_visual.eval.retrieval import Floats, candidates
from ziya_visual.eval.suites import Pool, Section, Suite
from ziya_visual.eval.tasks import caption, retrieval, vqa

if TYPE_CHECKING:
    from PIL.Image import Image

TASKS = ("vqa", "caption", "retrieval")
RERANK = "rerank"  # retrieval once more, by contrastive plus matching score
_PICTURES_AT_ONCE = 64


def evaluate(
    model: Answerer, suite: Suite, *, name: str, out: Path, tasks: Sequence[str] = TASKS, seed: int = 0
) -> list[Metric]:
    """Run every section of ``suite`` and write ``predictions/<name>.<split>.<lang>.<task>.jsonl``.

    Args:
        model: answers and, for retrieval, embeds.
        suite: what is asked; ``suite.blank()`` asks it of grey pictures.
        name: of the model, in the rows and file names: ``base``, ``chat``, ``blank`` ...
        out: the folder of the run.
        tasks: of :data:`TASKS`, and :data:`RERANK`; what a section does not hold is skipped.
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
                title = f"{name} {split} {lang} {task}"
                texts = ask(model, examples, suite.images, max_new_tokens=limit, title=title)
                rows = [prediction(example, text) for example, text in zip(examples, texts, strict=True)]
                write_records(predictions_path(out, scope), rows)
                metrics += (
                    vqa.measure(rows, scope, seed=seed)
                    if task == "vqa"
                    else caption.measure(rows, scope, suite.keywords)
                )
        if "retrieval" in tasks and section.pools:
            scope = Scope(name, split, lang, "retrieval")
            ranker = cast(Ranker, model)
            scores = _similarities(ranker, suite, section, pictures, scope)
            metrics += retrieval.measure(section.pools, scores, scope)
            if RERANK in tasks:
                scope = Scope(name, split, lang, RERANK)
                matching = _matching(ranker, suite, section.pools, scores, scope)
                metrics += retrieval.measure(section.pools, scores, scope, matching=matching)
                _write_pools(out, scope, scores, matching)
    return metrics


def majority(suite: Suite, *, out: Path, seed: int = 0) -> list[Metric]:
    """The blind baseline ``majority``: always the most frequent answer of the question's type."""
    metrics = []
    for (split, lang), section in suite.sections.items():
        if section.vqa:
            scope = Scope("majority", split, lang, "vqa")
            texts = vqa.majority_answers(section.vqa)
            rows = [prediction(example, text) for example, text in zip(section.vqa, texts, strict=True)]
            write_records(predictions_path(out, scope), rows)
            metrics += vqa.measure(rows, scope, seed=seed)
    return metrics


def predictions_path(out: Path, scope: Scope) -> Path:
    """Where the predictions of a model for one split, language and task are."""
    return out / "predictions" / f"{scope.model}.{scope.split}.{scope.lang}.{scope.task}.jsonl"


def ask(
    model: Answerer,
    examples: Sequence[Example],
    images: Mapping[str, Image],
    *,
    max_new_tokens: int,
    title: str,
) -> list[str]:
    """Answers in the order of ``examples``, asked for by picture; ``title`` is shown beside the progress."""
    answers: dict[int, str] = {}
    with progress(title, len(examples)) as bar:
        for places in _by_picture(examples):
            batch = [examples[place] for place in places]
            texts = model.answer(batch, max_new_tokens=max_new_tokens, images=images)
            answers.update(zip(places, texts, strict=True))
            bar.advance(len(batch))
    return [answers[place] for place in range(len(examples))]


def _by_picture(examples: Sequence[Example]) -> Iterator[list[int]]:
    """Places of the examples, grouped by picture, some pictures at a time."""
    groups: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        groups.setdefault(example.image_id or example.id, []).append(place)
    pictures = list(groups.values())
    for start in range(0, len(pictures), _PICTURES_AT_ONCE):
        yield [place for group in pictures[start : start + _PICTURES_AT_ONCE] for place in group]


def prediction(example: Example, text: str) -> Prediction:
    """The row of a prediction file."""
    prompt = next((turn.content for turn in reversed(example.messages) if turn.role == "user"), "")
    meta = dict(example.meta)
    return Prediction(
        example.id, example.image_id, example.lang, example.task, prompt, text.strip(), example.answers, meta
    )


def _similarities(
    model: Ranker, suite: Suite, section: Section, pictures: dict[str, Floats], scope: Scope
) -> list[Floats]:
    """The contrastive scores of each pool; ``pictures`` keeps embeddings for the next language."""
    wanted = dict.fromkeys(image_id for pool in section.pools for image_id in pool.image_ids)
    new = [image_id for image_id in wanted if image_id not in pictures]
    captions = list(dict.fromkeys(text for pool in section.pools for text in pool.captions))
    with progress(f"{scope.model} {scope.split} {scope.lang} retrieval", len(new) + len(captions)) as bar:
        for start in range(0, len(new), _PICTURES_AT_ONCE):
            part = new[start : start + _PICTURES_AT_ONCE]
            embeds = model.embed_images([suite.images[image_id] for image_id in part])
            pictures.update(zip(part, embeds, strict=True))
            bar.advance(len(part))
        texts = dict(zip(captions, model.embed_texts(captions), strict=True))
        bar.advance(len(captions))
    return retrieval.similarities(section.pools, pictures, texts)


def _matching(
    model: Ranker, suite: Suite, pools: Sequence[Pool], scores: Sequence[Floats], scope: Scope
) -> list[Floats]:
    """The matching logits of each pool, where reranking reads them; 0 elsewhere."""
    found = []
    with progress(f"{scope.model} {scope.split} {scope.lang} rerank", len(pools)) as bar:
        for pool, one in zip(pools, scores, strict=True):
            chosen = candidates(one, retrieval.TOP_K, np.arange(len(one)))
            rows = [np.flatnonzero(row) for row in chosen]
            asked = [
                (name, [pool.captions[place] for place in row])
                for name, row in zip(pool.image_ids, rows, strict=True)
            ]
            logits = np.zeros_like(one)
            logits[chosen] = np.concatenate(model.match(suite.images, asked))
            found.append(logits)
            bar.advance()
    return found


def _write_pools(out: Path, scope: Scope, scores: Sequence[Floats], matching: Sequence[Floats]) -> None:
    """Each pool as ``score retrieval --similarity FILE --rerank FILE --top-k 16`` reads it."""
    for number, (i2t, itm) in enumerate(zip(scores, matching, strict=True)):
        path = out / "retrieval" / f"{scope.model}.{scope.split}.{scope.lang}.{number}.npz"
        with atomic_path(path) as aside:
            np.savez(aside, i2t=i2t, itm=itm, text2image=np.arange(len(i2t)))
