"""Question datasets: VQAv2 and OK-VQA, TextVQA, VizWiz, GQA, ScienceQA and Visual Genome.

- VQAv2 and OK-VQA (visualqa.org, "Download"): questions, and annotations in a second file. OK-VQA's
  annotations have no ``multiple_choice_answer``; the most frequent of the ten answers is learned.
- TextVQA (Singh et al. 2019) ``TextVQA_0.5.1_train.json``: Open Images by their id.
- VizWiz-VQA (Gurari et al. 2018) ``Annotations/train.json``: a list of blind people's questions.
- GQA (Hudson and Manning 2019) ``val_balanced_questions.json``: question id -> question.
- ScienceQA (Lu et al. 2022): a folder with ``problems.json``; images as ``SPLIT/ID/image.png``. The choices
  follow the question as ``(A) ...``; the letter is learned. The task is ``vqa`` even without an image.
- Visual Genome (Krishna et al. 2016) ``region_descriptions.json`` or ``question_answers.json``. A region
  becomes a ``grounded`` record: its phrase, and the box as ``xyxy`` in pixels.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Box, Example, ImageRef, Message
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
    attempts,
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


_GENOME_FOLDERS = ("VG_100K", "VG_100K_2")  # the two archives of images
OFFICIAL = Layout("questions", OfficialQuestion)
TEXTVQA = Layout("data", TextvqaQuestion)
VIZWIZ = Layout(None, VizwizQuestion)


def read_official(source: Source) -> Iterator[Parsed]:
    """Yield a record for each question; without annotations it has no answers, as in a test set."""
    data = read_whole(source.path)
    annotations = None if source.annotations is None else _annotations(source.annotations)
    subset = str(data.get("data_subtype", "")) if isinstance(data, dict) else ""
    rows = listed(data, "questions", source.path)
    yield from attempts(rows, _official, annotations, subset, Images(source.folder), source)


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
    yield from attempts(TEXTVQA.rows(source.path), _textvqa, Images(source.folder), source)


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
    yield from attempts(VIZWIZ.rows(source.path), _vizwiz, Images(source.folder), source)


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


def keyed_rows(path: Path, values: str = "question") -> Iterator[tuple[str, str, Any]]:
    """Yield (where, id, row) of a mapping of GQA or ScienceQA; ``DataError`` if the file is not one."""
    data = read_whole(path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected {values} ids and {values}s, found {type(data).__name__}")
    for key, row in data.items():
        yield f"{path.name}:{key[:40]}", key, row


def read_gqa(source: Source) -> Iterator[Parsed]:
    """Yield a record for each question."""
    images = Images(source.folder)
    for where, key, row in keyed_rows(source.path):
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


class _Problem(Row):
    question: Text
    choices: list[Text]
    answer: int
    split: Text
    hint: Plain = ""
    image: Plain | None = None
    subject: Plain = ""


def read_scienceqa(source: Source) -> Iterator[Parsed]:
    """Yield a record for each problem; the problems name their splits: train, val, test, minitrain ..."""
    path = source.path / "problems.json" if source.path.is_dir() else source.path
    images = Images(source.folder)
    for where, key, row in keyed_rows(path, "problem"):
        problem = attempt(where, _Problem.model_validate, row)
        if isinstance(problem, Reject):
            yield problem
        elif source.split in (None, problem.split):
            yield attempt(where, _scienceqa, key, problem, images, source)


def _scienceqa(key: str, problem: _Problem, images: Images, source: Source) -> Example:
    letters = string.ascii_uppercase[: len(problem.choices)]
    if not 0 <= problem.answer < len(letters):
        raise DataError(f"answer {problem.answer} of {len(problem.choices)} choices")
    number = text_of(key)
    image = images.get(f"{problem.split}/{number}/{problem.image}") if problem.image else None
    choices = zip(letters, problem.choices, strict=True)
    options = " ".join(f"({letter}) {choice}" for letter, choice in choices)
    return question(
        source,
        id=number,
        image=image,
        image_id=number if image else None,
        text=text_of("\n".join(filter(None, (problem.hint.strip(), problem.question, options)))),
        answers=[letters[problem.answer], problem.choices[problem.answer]],
        split=problem.split,
        question_type=problem.subject,
    )


class _GenomeImage(Row):
    id: Text
    regions: list[Any] | None = None
    qas: list[Any] | None = None


class _GenomeRegion(Row):
    region_id: Text
    phrase: Text
    x: float
    y: float
    width: float
    height: float


class _GenomeQuestion(Row):
    qa_id: Text
    question: Text
    answer: Text


def read_visual_genome(source: Source) -> Iterator[Parsed]:
    """Yield a record for each region or question, whichever the file has."""
    images = Images(source.folder)
    for where, row in listed(read_whole(source.path), None, source.path):
        entry = attempt(where, _genome_entry, row)
        if isinstance(entry, Reject):
            yield entry
            continue
        for number, region in enumerate(entry.regions or []):
            yield attempt(f"{where}.regions[{number}]", _genome_region, region, entry.id, images, source)
        for number, pair in enumerate(entry.qas or []):
            yield attempt(f"{where}.qas[{number}]", _genome_question, pair, entry.id, images, source)


def _genome_entry(row: Any) -> _GenomeImage:
    entry = _GenomeImage.model_validate(row)
    if entry.regions is None and entry.qas is None:
        raise DataError("neither regions nor qas")
    return entry


def _genome_image(image_id: str, images: Images) -> ImageRef:
    return images.get(*(f"{folder}/{image_id}.jpg" for folder in _GENOME_FOLDERS), f"{image_id}.jpg")


def _genome_region(row: Any, image_id: str, images: Images, source: Source) -> Example:
    region = _GenomeRegion.model_validate(row)
    corners = (region.x, region.y, region.x + region.width, region.y + region.height)
    if not all(0 <= corner < 1e6 for corner in corners) or region.width <= 0 or region.height <= 0:
        raise DataError(f"not a box: x, y, width, height {region.x, region.y, region.width, region.height}")
    return Example(
        id=f"{source.name}-{region.region_id}",
        lang=source.lang,
        task="grounded",
        messages=(Message("assistant", region.phrase),),
        image=_genome_image(image_id, images),
        image_id=f"{source.name}-{image_id}",
        boxes=(Box(region.phrase, corners),),
        source=source.name,
    )


def _genome_question(row: Any, image_id: str, images: Images, source: Source) -> Example:
    pair = _GenomeQuestion.model_validate(row)
    return question(
        source,
        id=pair.qa_id,
        image=_genome_image(image_id, images),
        image_id=image_id,
        text=pair.question,
        answers=[pair.answer],
    )
