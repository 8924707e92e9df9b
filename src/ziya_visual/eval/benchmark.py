"""One published data set put to a model: answers in the official format, then ``score`` on those files.

The numbers are those of ``ziya-visual score`` because they are made by it, from files that stay in the run's
folder: anybody can score them again, with these tools or the official ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ziya_visual.core import distributed
from ziya_visual.core.files import atomic_path, write_json, write_jsonl, write_records
from ziya_visual.core.log import logger
from ziya_visual.core.records import Example, Message
from ziya_visual.eval import gallery
from ziya_visual.eval.models.answer_cache import KeptRanker
from ziya_visual.eval.models.open import Opened
from ziya_visual.eval.results import Metric, Scope
from ziya_visual.eval.runner import RERANK, ask, prediction, predictions_path
from ziya_visual.eval.score import run as score
from ziya_visual.eval.suites.formats import Gallery, Questions, read_gallery, read_questions
from ziya_visual.eval.suites.named import DataSet, Prompt

HEADLINES = {"vqa": "overall", "gqa": "accuracy"}  # what the second rule of a set adds to its rows


@dataclass
class Measured:
    """What came of a data set.

    Attributes:
        metrics: rows of ``results.json``.
        failures: reason -> count, as ``score`` counts them.
        files: what was written for others: answers, uploads, embeddings.
        cards: of each scoring.
    """

    metrics: list[Metric] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    cards: list[dict[str, Any]] = field(default_factory=list)


def run_dataset(
    model: Opened, dataset: DataSet, *, folder: Path, out: Path, prompt: Prompt, name: str = "chat"
) -> Measured:
    """Ask, write, score.

    Args:
        model: what is asked; for retrieval one that has a ranker.
        dataset: what it is asked; its files are in ``folder``.
        folder: of the user's copies.
        out: gets ``predictions/``, ``official/`` and ``retrieval/``.
        prompt: how it is asked.
        name: of the model in the rows.

    Raises:
        DataError: a file of another form.
    """
    measured = Measured()
    scope = Scope(name, dataset.name, dataset.lang, dataset.task)
    if dataset.task == "retrieval":
        assert model.ranker is not None, "the caller leaves out what a model cannot do"
        _retrieve(model.ranker, dataset, read_gallery(dataset, folder), out, scope, measured)
    elif dataset.task == "caption":
        asked = _captions(dataset, read_gallery(dataset, folder), prompt.ask("", plain=model.plain))
        _answer(model, dataset, asked, out, scope, measured)
    else:
        asked = read_questions(dataset, folder, prompt, plain=model.plain)
        _answer(model, dataset, asked, out, scope, measured)
    return measured


def _captions(dataset: DataSet, content: Gallery, instruction: str) -> Questions:
    """A gallery as questions: each picture is to be described."""
    turns = (Message("user", instruction),)
    examples = [
        Example(f"{dataset.label}-{name}", dataset.lang, "caption", turns, image_id=str(name))
        for name in content.image_ids
    ]
    inputs: dict[str, Any] = {"lang": dataset.lang}
    inputs["references"] = content.references or [
        {"image_id": name, "references": texts} for name, texts in content.groups().items() if texts
    ]
    rows = [{"image_id": name} for name in content.image_ids]
    return Questions(examples, content.images, rows, "caption", inputs)


def _answer(
    model: Opened, dataset: DataSet, asked: Questions, out: Path, scope: Scope, measured: Measured
) -> None:
    """Answers as our rows and as the official tool's, and what it makes of them."""
    texts = ask(
        model.answerer,
        asked.examples,
        asked.images,
        max_new_tokens=dataset.max_new_tokens,
        title=dataset.label,
    )
    if distributed.rank() > 0:
        return
    rows = [prediction(example, text) for example, text in zip(asked.examples, texts, strict=True)]
    write_records(predictions_path(out, scope), rows)
    official = [{**row, asked.key: text.strip()} for row, text in zip(asked.rows, texts, strict=True)]
    if dataset.task == "dialogue":
        path = out / "official" / f"{dataset.name}_{dataset.lang}.jsonl"
        write_jsonl(path, ({**row, "model_id": model.name} for row in official))
        if empty := sum(not row[asked.key] for row in official):
            measured.failures["empty"] = empty
        measured.files.append(str(path))
        return
    path = out / "official" / f"{dataset.label}.json"
    write_json(path, official)
    measured.files.append(str(path))
    inputs = {name: _as_file(value, out, dataset, name) for name, value in asked.inputs.items()}
    if dataset.submission is not None:
        upload = out / "official" / f"{dataset.label}.{dataset.submission}-upload.json"
        score.run(
            "vqa", questions=inputs["questions"], predictions=path, submission=(dataset.submission, upload)
        )
        measured.files.append(str(upload))
    if dataset.task == "caption" or "annotations" in inputs:
        for place, rule in enumerate(dataset.rules or (None,)):
            given = {**inputs, "predictions": path} | ({"rule": rule} if rule else {})
            _score(dataset.task, given, scope, len(rows), measured, only=bool(place))
    else:
        logger.info("%s: its answers are secret; upload %s", dataset.title, measured.files[-1])


def _as_file(value: Any, out: Path, dataset: DataSet, name: str) -> Any:
    """A path as it is; what was read out of another form is written for ``score``."""
    if isinstance(value, list):
        path = out / "official" / f"{dataset.label}.{name}.jsonl"
        write_jsonl(path, value)
        return path
    if isinstance(value, dict):
        path = out / "official" / f"{dataset.label}.{name}.json"
        write_json(path, value)
        return path
    return value


def _score(
    form: str, inputs: dict[str, Any], scope: Scope, count: int, measured: Measured, *, only: bool = False
) -> None:
    """Add the scores of files as rows; with ``only`` the headline alone, the rule in its name.

    A score without an interval (METEOR, SPICE) has its value for both ends.
    """
    result = score.run(form, **inputs)
    intervals = result["card"]["intervals"]
    for name, value in result["scores"].items():
        shown = f"{name}[{inputs['rule']}]" if only else name
        if only and name != HEADLINES.get(form):
            continue
        low, high = intervals.get(name, (value, value))
        row = Metric(scope.model, scope.split, scope.lang, scope.task, shown, value, low, high, count)
        measured.metrics.append(row)
    if not only:
        for reason, number in result["failures"].items():
            measured.failures[reason] = measured.failures.get(reason, 0) + number
    measured.cards.append(result["card"])


def _retrieve(
    model: KeptRanker, dataset: DataSet, content: Gallery, out: Path, scope: Scope, measured: Measured
) -> None:
    """By contrastive score, then by contrastive plus matching within the top k; from the files written."""
    folder, title = out / "retrieval", dataset.label
    image, text = gallery.embed(model, content, folder, title)
    chosen = gallery.choose(model, image, text, content, dataset.top_k)
    itm = gallery.match(model, content, chosen, folder, title)
    if distributed.rank() > 0:
        return
    embeddings, logits = folder / f"{title}.npz", folder / f"{title}.itm.npz"
    _save(embeddings, image=image, text=text, text2image=content.text2image)
    _save(logits, itm=itm)
    measured.files += [str(embeddings), str(logits)]
    inputs: dict[str, Any] = {"embeddings": embeddings}
    _score("retrieval", inputs, scope, len(text), measured)
    inputs |= {"rerank": logits, "top_k": dataset.top_k}
    _score("retrieval", inputs, replace(scope, task=RERANK), len(text), measured)


def _save(path: Path, **arrays: Any) -> None:
    with atomic_path(path) as aside:
        np.savez_compressed(aside, **arrays)
