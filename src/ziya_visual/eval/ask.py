"""Ask a model and write what it answers: predictions, official answer files, embeddings and matching logits.

``eval/score`` turns these files into numbers. All questions about an image are asked together, so that an
engine can encode it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from ziya_visual.core import distributed
from ziya_visual.core.files import atomic_path, write_json, write_jsonl, write_records
from ziya_visual.core.log import progress
from ziya_visual.core.records import Example, Message, Prediction
from ziya_visual.eval.models.answer_cache import Answerer, CachedRanker, Ranker
from ziya_visual.eval.models.open import EvalModel
from ziya_visual.eval.results import Scope
from ziya_visual.eval.retrieval import Floats, Ints, candidates, check_text2image, similarity
from ziya_visual.eval.suites import Pool
from ziya_visual.eval.suites.formats import CaptionedImages, Questions
from ziya_visual.eval.suites.named import DataSet

Item = TypeVar("Item")
_IMAGES_PER_BLOCK, _TEXTS_PER_BLOCK = 64, 512


def predictions_path(out: Path, scope: Scope) -> Path:
    """Return the path of a model's predictions for one split, language and task."""
    return out / "predictions" / f"{scope.model}.{scope.split}.{scope.lang}.{scope.task}.jsonl"


def answer_questions(
    model: Answerer,
    examples: Sequence[Example],
    images: Mapping[str, Image],
    *,
    max_new_tokens: int,
    title: str,
) -> list[str]:
    """Return the answers in the order of ``examples``; ``title`` names the progress bar."""
    by_image: dict[str, list[int]] = {}
    for position, example in enumerate(examples):
        by_image.setdefault(example.image_id or example.id, []).append(position)
    groups = list(by_image.values())
    answers: dict[int, str] = {}
    with progress(title, len(examples)) as bar:
        for start in range(0, len(groups), _IMAGES_PER_BLOCK):
            positions = list(chain.from_iterable(groups[start : start + _IMAGES_PER_BLOCK]))
            batch = [examples[position] for position in positions]
            texts = model.answer(batch, max_new_tokens=max_new_tokens, images=images)
            answers.update(zip(positions, texts, strict=True))
            bar.advance(len(batch))
    return [answers[position] for position in range(len(examples))]


def write_predictions(out: Path, scope: Scope, examples: Sequence[Example], answers: Sequence[str]) -> Path:
    """Write one row per example with its prompt, answer and references, and return the path."""
    rows = []
    for e, answer in zip(examples, answers, strict=True):
        prompt = next((turn.content for turn in reversed(e.messages) if turn.role == "user"), "")
        rows.append(
            Prediction(e.id, e.image_id, e.lang, e.task, prompt, answer.strip(), e.answers, dict(e.meta))
        )
    path = predictions_path(out, scope)
    write_records(path, rows)
    return path


def caption_questions(dataset: DataSet, content: CaptionedImages, instruction: str) -> Questions:
    """Return one question per image that asks for a caption."""
    turns = (Message("user", instruction),)
    examples = [
        Example(f"{dataset.label}-{name}", dataset.lang, "caption", turns, image_id=str(name))
        for name in content.image_ids
    ]
    references = content.references or [
        {"image_id": name, "references": texts} for name, texts in content.groups().items() if texts
    ]
    rows = [{"image_id": name} for name in content.image_ids]
    inputs = {"lang": dataset.lang, "references": references}
    return Questions(examples, content.images, rows, "caption", inputs)


def write_official_answers(
    out: Path, dataset: DataSet, questions: Questions, answers: Sequence[str], model: EvalModel
) -> tuple[Path, dict[str, Any]]:
    """Write the answers, and references without a file of their own, as the official tool reads them.

    Returns the answer file and the inputs of ``score`` for it.
    """
    rows = [
        {**row, questions.key: answer.strip()} for row, answer in zip(questions.rows, answers, strict=True)
    ]
    folder = out / "official"
    if dataset.task == "dialogue":
        path = folder / f"{dataset.name}_{dataset.lang}.jsonl"
        write_jsonl(path, ({**row, "model_id": model.name} for row in rows))
        return path, {}
    path = folder / f"{dataset.label}.json"
    write_json(path, rows)
    inputs: dict[str, Any] = {"predictions": path, **questions.inputs}
    for name, value in questions.inputs.items():
        if isinstance(value, list):
            inputs[name] = folder / f"{dataset.label}.{name}.jsonl"
            write_jsonl(inputs[name], value)
        elif isinstance(value, dict):
            inputs[name] = folder / f"{dataset.label}.{name}.json"
            write_json(inputs[name], value)
    return path, inputs


class Retrieval:
    """The embeddings and matching logits of a model, computed block by block.

    Image embeddings are kept in memory, so that further languages need not compute them again. A
    :class:`CachedRanker` can also keep its finished blocks in the folder ``cache``.
    """

    def __init__(self, model: Ranker, images: Mapping[str, Image], *, cache: Path | None = None) -> None:
        self._model, self._images, self._cache = model, images, cache
        self._embeds: dict[str, Floats] = {}

    def embed_images(self, image_ids: Sequence[str], title: str) -> Floats:
        """Return image embeddings float32[N, Q, D]."""

        def embed(ids: Sequence[str]) -> Floats:
            return self._model.embed_images([self._images[name] for name in ids])

        new = [name for name in dict.fromkeys(image_ids) if name not in self._embeds]
        names = iter(new)
        for block in self._blocks(new, embed, _IMAGES_PER_BLOCK, f"{title} pictures"):
            self._embeds.update(zip([next(names) for _ in block], block, strict=True))
        return np.stack([self._embeds[name] for name in image_ids])

    def embed_texts(self, texts: Sequence[str], title: str) -> Floats:
        """Return caption embeddings float32[M, D]."""
        blocks = self._blocks(texts, self._model.embed_texts, _TEXTS_PER_BLOCK, f"{title} texts")
        return np.concatenate(list(blocks))

    def match(
        self, image_ids: Sequence[str], texts: Sequence[str], chosen: npt.NDArray[np.bool_], title: str
    ) -> Floats:
        """Return matching logits float32[N, M] of the ``chosen`` pairs, 0 elsewhere."""
        requests = [
            (name, [texts[position] for position in np.flatnonzero(row).tolist()])
            for name, row in zip(image_ids, chosen, strict=True)
        ]

        def match(part: Sequence[tuple[str, Sequence[str]]]) -> Floats:
            return np.concatenate(self._model.match(self._images, part))

        logits = np.zeros(chosen.shape, np.float32)
        blocks = self._blocks(requests, match, _IMAGES_PER_BLOCK, f"{title} matching")
        logits[chosen] = np.concatenate(list(blocks))
        return logits

    def _blocks(
        self, items: Sequence[Item], compute: Callable[[Sequence[Item]], Floats], size: int, title: str
    ) -> Iterator[Floats]:
        with progress(title, len(items)) as bar:
            for start in range(0, len(items), size):
                part = items[start : start + size]
                if self._cache is None:
                    yield compute(part)
                else:
                    assert isinstance(self._model, CachedRanker)
                    key = [title, list(part)]
                    yield self._model.cached_block(self._cache, key, partial(compute, part))
                bar.advance(len(part))


def choose_candidates(scores: Floats, text2image: Ints, top_k: int) -> npt.NDArray[np.bool_]:
    """Return bool[N, M]: the pairs to match, as rank 0 chooses them."""
    first = distributed.rank() == 0
    chosen = distributed.broadcast(
        candidates(scores, top_k, check_text2image(scores, text2image)) if first else None
    )
    assert chosen is not None
    return chosen


def write_pools(
    retrieval: Retrieval, pools: Sequence[Pool], scope: Scope, out: Path, *, top_k: int | None
) -> list[Path]:
    """Write ``i2t`` float32[N, N], ``text2image`` int64[N] and, with ``top_k``, ``itm`` float32[N, N].

    Returns the paths, one NPZ file per pool.
    """
    title = f"{scope.model} {scope.split} {scope.lang} retrieval"
    image_ids = [name for pool in pools for name in pool.image_ids]
    captions = list(dict.fromkeys(text for pool in pools for text in pool.captions))
    image_embeds = dict(zip(image_ids, retrieval.embed_images(image_ids, title), strict=True))
    text_embeds = dict(zip(captions, retrieval.embed_texts(captions, title), strict=True))
    paths = []
    for number, pool in enumerate(pools):
        image = np.stack([image_embeds[name] for name in pool.image_ids])
        text = np.stack([text_embeds[caption] for caption in pool.captions])
        scores, text2image = similarity(image, text), np.arange(len(pool.captions))
        arrays = {"i2t": scores, "text2image": text2image}
        if top_k is not None:
            chosen = choose_candidates(scores, text2image, top_k)
            arrays["itm"] = retrieval.match(pool.image_ids, pool.captions, chosen, title)
        paths.append(out / "retrieval" / f"{scope.model}.{scope.split}.{scope.lang}.{number}.npz")
        with atomic_path(paths[-1]) as temporary:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]
    return paths


def write_embeddings(
    model: CachedRanker, content: CaptionedImages, folder: Path, title: str, top_k: int
) -> tuple[Path, Path]:
    """Write the embeddings of images and texts, and the matching logits of the best ``top_k`` of each.

    Only rank 0 writes. Returns (embeddings, logits), NPZ files as ``score retrieval`` reads them.
    """
    retrieval = Retrieval(model, content.images, cache=folder / "blocks")
    ids = [str(name) for name in content.image_ids]
    image, text = retrieval.embed_images(ids, title), retrieval.embed_texts(content.texts, title)
    chosen = choose_candidates(similarity(image, text), content.text2image, top_k)
    itm = retrieval.match(ids, content.texts, chosen, title)
    embeddings, logits = folder / f"{title}.npz", folder / f"{title}.itm.npz"
    if distributed.rank() == 0:
        with atomic_path(embeddings) as temporary:
            np.savez_compressed(temporary, image=image, text=text, text2image=content.text2image)
        with atomic_path(logits) as temporary:
            np.savez_compressed(temporary, itm=itm)
    return embeddings, logits
