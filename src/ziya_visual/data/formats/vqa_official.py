"""VQAv2 and OK-VQA in the official layout (visualqa.org, "Download"): questions, and annotations beside them.

OK-VQA's annotations have no ``multiple_choice_answer``: the most frequent of the ten answers is learnt.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Example
from ziya_visual.data.formats import Found, Reject, Source
from ziya_visual.data.formats.pictures import Pictures
from ziya_visual.data.formats.rows import Plain, Row, Text, attempt, listed, question, read_whole


class _Question(Row):
    question_id: Text
    image_id: int
    question: Text


class _Answer(Row):
    answer: Text


class _Annotation(Row):
    question_id: Text
    answers: list[_Answer]
    question_type: Plain = ""
    answer_type: Plain = ""
    multiple_choice_answer: Text | None = None


def read(source: Source) -> Iterator[Found]:
    """A record a question; without ``--annotations`` it has no answers, as in a test set."""
    data = read_whole(source.path)
    known = None if source.annotations is None else _annotations(source)
    subtype = str(data.get("data_subtype", "")) if isinstance(data, dict) else ""
    pictures = Pictures(source.folder)
    for where, row in listed(data, "questions", source.path):
        yield attempt(where, _example, row, known, subtype, pictures, source)


def _annotations(source: Source) -> dict[str, _Annotation]:
    """By question id; the broken ones are met again as questions without answers."""
    assert source.annotations is not None
    rows = listed(read_whole(source.annotations), "annotations", source.annotations)
    found = (attempt(where, _Annotation.model_validate, row) for where, row in rows)
    return {one.question_id: one for one in found if not isinstance(one, Reject)}


def _example(
    row: Any, known: dict[str, _Annotation] | None, subtype: str, pictures: Pictures, source: Source
) -> Example:
    asked = _Question.model_validate(row)
    answered = None if known is None else known.get(asked.question_id)
    if known is not None and answered is None:
        raise DataError(f"question {asked.question_id}: no readable annotation")
    name = f"COCO_{subtype}_{asked.image_id:012d}.jpg"
    return question(
        source,
        id=asked.question_id,
        image=pictures.get(name, f"{subtype}/{name}"),
        image_id=str(asked.image_id),
        text=asked.question,
        answers=[one.answer for one in answered.answers] if answered else [],
        truth=answered.multiple_choice_answer if answered else None,
        **(
            {"question_type": answered.question_type, "answer_type": answered.answer_type} if answered else {}
        ),
    )
