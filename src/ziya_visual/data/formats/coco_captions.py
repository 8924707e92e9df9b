"""COCO captions, and every set in its layout: ``captions_val2014.json`` (cocodataset.org, "Data format")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Example
from ziya_visual.data.formats import Found, Reject, Source
from ziya_visual.data.formats.pictures import Pictures
from ziya_visual.data.formats.rows import Plain, Row, Text, attempt, caption, listed, read_whole


class _Image(Row):
    id: Text
    file_name: Text
    domain: Plain | None = None  # of NoCaps alone: in-domain, near-domain, out-domain


class _Caption(Row):
    id: Text
    image_id: Text
    caption: Text


def read(source: Source) -> Iterator[Found]:
    """A record a caption: the entries of ``annotations``, each with its picture of ``images``."""
    data = read_whole(source.path)
    found = (attempt(where, _Image.model_validate, row) for where, row in listed(data, "images", source.path))
    images = {image.id: image for image in found if not isinstance(image, Reject)}
    pictures = Pictures(source.folder)
    for where, row in listed(data, "annotations", source.path):
        yield attempt(where, _example, row, images, pictures, source)


def _example(row: Any, images: dict[str, _Image], pictures: Pictures, source: Source) -> Example:
    said = _Caption.model_validate(row)
    image = images.get(said.image_id)
    if image is None:
        raise DataError(f"image_id {said.image_id}: not among the readable entries of 'images'")
    return caption(
        source,
        id=said.id,
        image=pictures.get(image.file_name),
        image_id=image.id,
        text=said.caption,
        **({"domain": image.domain} if image.domain else {}),
    )
