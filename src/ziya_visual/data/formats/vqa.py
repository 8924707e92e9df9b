"""Question datasets: VQAv2 and OK-VQA, TextVQA, VizWiz and GQA.

- VQAv2 and OK-VQA (visualqa.org, "Download"): questions, and annotations in a second file. OK-VQA's
  annotations have no ``multiple_choice_answer``; the most frequent of the ten answers is learned.
- TextVQA (Singh et al. 2019) ``TextVQA_0.5.1_train.json``: Open Images by their id.
- VizWiz-VQA (Gurari et al. 2018) ``Annotations/train.json``: a list of blind people's questions.
- GQA (Hudson and Manning 2019) ``val_balanced_questions.json``: question id -> question.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Example
from ziya_visual.data.formats.rows import (
    Images,
    Layout,
    Parsed,
    Plain,
    Reject,
    Row,
    Source,
    Text,
    attempt,
    listed,
    question,
    read_whole,
    text_of,
)


class OfficialQuestion(Row):
    """An entry of ``questions``."""

    question_id: Text
    image_id: Text
    question: Text


class Answer(Row):
    """One annotator's answer."""

    answer: Text


class Annotation(Row):
    """An entry of ``annotations``."""

    question_id: Text
    answers: list[Answer]
    question_type: Plain = ""
    answer_type: Plain = ""
    multiple_choice_answer: Text | None = None


class TextvqaQuestion(Row):
    """An entry of ``data``."""

    question_id: Text
    image_id: Text
    question: Text
    answers: tuple[Text, ...] = ()


class VizwizQuestion(Row):
    """An entry of the list. Each image has one question, so the image's name is its id."""

    image: Text
    question: Text
    answers: tuple[Answer, ...] = ()
    answer_type: Plain = ""


class _GqaTypes(Row):
    structural: Plain = ""


class GqaQuestion(Row):
    """A value of the mapping."""

    question: Text
    imageId: Text  # noqa: N815
    answer: Text | None = None  # the test sets have none
    types: _GqaTypes = _GqaTypes()
    isBalanced: bool = True  # noqa: N815


OFFICIAL = Layout("questions", OfficialQuestion)
TEXTVQA = Layout("data", TextvqaQuestion)
VIZWIZ = Layout(None, VizwizQuestion)


def read_official(source: Source) -> Iterator[Parsed]:
    """Yield a record for each question; without annotations it has no answers, as in a test set."""
    data = read_whole(source.path)
    annotations = None if source.annotations is None else _annotations(source.annotations)
    subset = str(data.get("data_subtype", "")) if isinstance(data, dict) else ""
    images = Images(source.folder)
    for where, row in listed(data, "questions", source.path):
        yield attempt(where, _official, row, annotations, subset, images, source)


def _annotations(path: Path) -> dict[str, Annotation]:
    """Return annotations by question id. Broken ones are rejected with their question."""
    rows = listed(read_whole(path), "annotations", path)
    parsed = (attempt(where, Annotation.model_validate, row) for where, row in rows)
    return {row.question_id: row for row in parsed if not isinstance(row, Reject)}


def _official(
    row: Any, annotations: dict[str, Annotation] | None, subset: str, images: Images, source: Source
) -> Example:
    parsed = OfficialQuestion.model_validate(row)
    annotation = None if annotations is None else annotations.get(parsed.question_id)
    if annotations is not None and annotation is None:
        raise DataError(f"question {parsed.question_id}: no readable annotation")
    try:
        name = f"COCO_{subset}_{int(parsed.image_id):012d}.jpg"
    except ValueError as error:
        raise DataError(f"image_id {parsed.image_id[:40]!r}: expected a number") from error
    types = {}
    if annotation is not None:
        types = {"question_type": annotation.question_type, "answer_type": annotation.answer_type}
    return question(
        source,
        id=parsed.question_id,
        image=images.get(name, f"{subset}/{name}"),
        image_id=parsed.image_id,
        text=parsed.question,
        answers=[answer.answer for answer in annotation.answers] if annotation else [],
        truth=annotation.multiple_choice_answer if annotation else None,
        **types,
    )


def read_textvqa(source: Source) -> Iterator[Parsed]:
    """Yield a record for each question of ``data``."""
    images = Images(source.folder)
    for where, row in TEXTVQA.rows(source.path):
        yield attempt(where, _textvqa, row, images, source)


def _textvqa(row: Any, images: Images, source: Source) -> Example:
    parsed = TextvqaQuestion.model_validate(row)
    return question(
        source,
        id=parsed.question_id,
        image=images.get(f"{parsed.image_id}.jpg"),
        image_id=parsed.image_id,
        text=parsed.question,
        answers=parsed.answers,
    )


def read_vizwiz(source: Source) -> Iterator[Parsed]:
    """Yield a record for each question."""
    images = Images(source.folder)
    for where, row in VIZWIZ.rows(source.path):
        yield attempt(where, _vizwiz, row, images, source)


def _vizwiz(row: Any, images: Images, source: Source) -> Example:
    parsed = VizwizQuestion.model_validate(row)
    return question(
        source,
        id=parsed.image,
        image=images.get(parsed.image),
        image_id=parsed.image,
        text=parsed.question,
        answers=[answer.answer for answer in parsed.answers],
        answer_type=parsed.answer_type,
    )


def gqa_rows(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Yield (where, question id, row) of GQA's mapping; ``DataError`` if the file is not one."""
    data = read_whole(path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected question ids and questions, found {type(data).__name__}")
    for key, row in data.items():
        yield f"{path.name}:{key[:40]}", key, row


def read_gqa(source: Source) -> Iterator[Parsed]:
    """Yield a record for each question."""
    images = Images(source.folder)
    for where, key, row in gqa_rows(source.path):
        yield attempt(where, _gqa, key, row, images, source)


def _gqa(key: str, row: Any, images: Images, source: Source) -> Example:
    parsed = GqaQuestion.model_validate(row)
    return question(
        source,
        id=text_of(key),
        image=images.get(f"{parsed.imageId}.jpg"),
        image_id=parsed.imageId,
        text=parsed.question,
        answers=[parsed.answer] if parsed.answer else [],
        question_type=parsed.types.structural,
    )
