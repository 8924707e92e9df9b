"""GQA: ``val_balanced_questions.json`` and the like (Hudson and Manning 2019): question id -> question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Example
from ziya_visual.data.formats import Found, Source
from ziya_visual.data.formats.pictures import Pictures
from ziya_visual.data.formats.rows import Plain, Row, Text, attempt, question, read_whole, text_of


class _Types(Row):
    structural: Plain = ""


class _Question(Row):
    question: Text
    imageId: Text  # noqa: N815
    answer: Text | None = None  # the test sets have none
    types: _Types = _Types()


def read(source: Source) -> Iterator[Found]:
    """A record a question."""
    data = read_whole(source.path)
    if not isinstance(data, dict):
        raise DataError(f"{source.path}: expected question ids and questions, found {type(data).__name__}")
    pictures = Pictures(source.folder)
    for key, row in data.items():
        yield attempt(f"{source.path.name}:{key[:40]}", _example, key, row, pictures, source)


def _example(key: str, row: Any, pictures: Pictures, source: Source) -> Example:
    asked = _Question.model_validate(row)
    return question(
        source,
        id=text_of(key),
        image=pictures.get(f"{asked.imageId}.jpg"),
        image_id=asked.imageId,
        text=asked.question,
        answers=[asked.answer] if asked.answer else [],
        question_type=asked.types.structural,
    )
