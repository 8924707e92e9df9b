"""VizWiz-VQA: ``Annotations/train.json`` (Gurari et al. 2018), a list of questions of blind people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ziya_visual.core.records import Example
from ziya_visual.data.formats import Found, Source
from ziya_visual.data.formats.pictures import Pictures
from ziya_visual.data.formats.rows import Plain, Row, Text, attempt, listed, question, read_whole


class _Answer(Row):
    answer: Text


class _Question(Row):
    image: Text
    question: Text
    answers: tuple[_Answer, ...] = ()
    answer_type: Plain = ""


def read(source: Source) -> Iterator[Found]:
    """A record a question; its id is the picture's name, for each picture has one question."""
    pictures = Pictures(source.folder)
    for where, row in listed(read_whole(source.path), None, source.path):
        yield attempt(where, _example, row, pictures, source)


def _example(row: Any, pictures: Pictures, source: Source) -> Example:
    asked = _Question.model_validate(row)
    return question(
        source,
        id=asked.image,
        image=pictures.get(asked.image),
        image_id=asked.image,
        text=asked.question,
        answers=[one.answer for one in asked.answers],
        answer_type=asked.answer_type,
    )
