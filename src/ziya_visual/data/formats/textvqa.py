"""TextVQA: ``TextVQA_0.5.1_train.json`` (Singh et al. 2019); pictures of Open Images by their id."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ziya_visual.core.records import Example
from ziya_visual.data.formats import Found, Source
from ziya_visual.data.formats.pictures import Pictures
from ziya_visual.data.formats.rows import Row, Text, attempt, listed, question, read_whole


class _Question(Row):
    question_id: Text
    image_id: Text
    question: Text
    answers: tuple[Text, ...] = ()


def read(source: Source) -> Iterator[Found]:
    """A record a question of ``data``."""
    pictures = Pictures(source.folder)
    for where, row in listed(read_whole(source.path), "data", source.path):
        yield attempt(where, _example, row, pictures, source)


def _example(row: Any, pictures: Pictures, source: Source) -> Example:
    asked = _Question.model_validate(row)
    return question(
        source,
        id=asked.question_id,
        image=pictures.get(f"{asked.image_id}.jpg"),
        image_id=asked.image_id,
        text=asked.question,
        answers=asked.answers,
    )
