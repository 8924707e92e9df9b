"""Visual Genome: ``region_descriptions.json`` or ``question_answers.json`` (Krishna et al. 2016).

A described region is a ``grounded`` record: its phrase, and the box as ``xyxy`` in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Box, Example, ImageRef, Message
from ziya_visual.data.formats import Found, Reject, Source
from ziya_visual.data.formats.pictures import Pictures
from ziya_visual.data.formats.rows import Row, Text, attempt, listed, question, read_whole

FOLDERS = ("VG_100K", "VG_100K_2")  # of the two archives of pictures


class _Image(Row):
    id: Text
    regions: list[Any] | None = None
    qas: list[Any] | None = None


class _Region(Row):
    region_id: Text
    phrase: Text
    x: float
    y: float
    width: float
    height: float


class _Question(Row):
    qa_id: Text
    question: Text
    answer: Text


def read(source: Source) -> Iterator[Found]:
    """A record a region or question, as the file has them."""
    pictures = Pictures(source.folder)
    for where, row in listed(read_whole(source.path), None, source.path):
        image = attempt(where, _checked, row)
        if isinstance(image, Reject):
            yield image
            continue
        for number, region in enumerate(image.regions or []):
            yield attempt(f"{where}.regions[{number}]", _region, region, image.id, pictures, source)
        for number, asked in enumerate(image.qas or []):
            yield attempt(f"{where}.qas[{number}]", _question, asked, image.id, pictures, source)


def _checked(row: Any) -> _Image:
    image = _Image.model_validate(row)
    if image.regions is None and image.qas is None:
        raise DataError("neither regions nor qas")
    return image


def _picture(image_id: str, pictures: Pictures) -> ImageRef:
    return pictures.get(*(f"{folder}/{image_id}.jpg" for folder in FOLDERS), f"{image_id}.jpg")


def _region(row: Any, image_id: str, pictures: Pictures, source: Source) -> Example:
    region = _Region.model_validate(row)
    corners = (region.x, region.y, region.x + region.width, region.y + region.height)
    if not all(0 <= corner < 1e6 for corner in corners) or region.width <= 0 or region.height <= 0:
        raise DataError(f"no box: x, y, width, height {region.x, region.y, region.width, region.height}")
    return Example(
        id=f"{source.name}-{region.region_id}",
        lang=source.lang,
        task="grounded",
        messages=(Message("assistant", region.phrase),),
        image=_picture(image_id, pictures),
        image_id=f"{source.name}-{image_id}",
        boxes=(Box(region.phrase, corners),),
        source=source.name,
    )


def _question(row: Any, image_id: str, pictures: Pictures, source: Source) -> Example:
    asked = _Question.model_validate(row)
    return question(
        source,
        id=asked.qa_id,
        image=_picture(image_id, pictures),
        image_id=image_id,
        text=asked.question,
        answers=[asked.answer],
    )
