"""Visual Genome: ``region_descriptions.json`` or ``question_answers.json`` (Krishna et al. 2016).

A region becomes a ``grounded`` record: its phrase, and the box as ``xyxy`` in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Box, Example, ImageRef, Message
from ziya_visual.data.formats.rows import (
    Images,
    Parsed,
    Reject,
    Row,
    Source,
    Text,
    attempt,
    listed,
    question,
    read_whole,
)

FOLDERS = ("VG_100K", "VG_100K_2")  # the two archives of images


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


def read(source: Source) -> Iterator[Parsed]:
    """Yield a record for each region or question, whichever the file has."""
    images = Images(source.folder)
    for where, row in listed(read_whole(source.path), None, source.path):
        entry = attempt(where, _entry, row)
        if isinstance(entry, Reject):
            yield entry
            continue
        for number, region in enumerate(entry.regions or []):
            yield attempt(f"{where}.regions[{number}]", _region, region, entry.id, images, source)
        for number, pair in enumerate(entry.qas or []):
            yield attempt(f"{where}.qas[{number}]", _question, pair, entry.id, images, source)


def _entry(row: Any) -> _Image:
    entry = _Image.model_validate(row)
    if entry.regions is None and entry.qas is None:
        raise DataError("neither regions nor qas")
    return entry


def _image(image_id: str, images: Images) -> ImageRef:
    return images.get(*(f"{folder}/{image_id}.jpg" for folder in FOLDERS), f"{image_id}.jpg")


def _region(row: Any, image_id: str, images: Images, source: Source) -> Example:
    region = _Region.model_validate(row)
    corners = (region.x, region.y, region.x + region.width, region.y + region.height)
    if not all(0 <= corner < 1e6 for corner in corners) or region.width <= 0 or region.height <= 0:
        raise DataError(f"not a box: x, y, width, height {region.x, region.y, region.width, region.height}")
    return Example(
        id=f"{source.name}-{region.region_id}",
        lang=source.lang,
        task="grounded",
        messages=(Message("assistant", region.phrase),),
        image=_image(image_id, images),
        image_id=f"{source.name}-{image_id}",
        boxes=(Box(region.phrase, corners),),
        source=source.name,
    )


def _question(row: Any, image_id: str, images: Images, source: Source) -> Example:
    pair = _Question.model_validate(row)
    return question(
        source,
        id=pair.qa_id,
        image=_image(image_id, images),
        image_id=image_id,
        text=pair.question,
        answers=[pair.answer],
    )
