"""Karpathy's splits of COCO, Flickr30K and Flickr8K: ``dataset_coco.json`` and the like.

The layout is that of the "caption datasets" of Karpathy and Li (arXiv 1412.2306).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ziya_visual.core.records import Example
from ziya_visual.data.formats import Found, Reject, Source
from ziya_visual.data.formats.pictures import Pictures
from ziya_visual.data.formats.rows import Plain, Row, Text, attempt, caption, listed, read_whole


class _Sentence(Row):
    raw: Text
    sentid: Text


class _Image(Row):
    filename: Text
    split: Text
    imgid: Text
    filepath: Plain = ""  # COCO's alone: train2014 or val2014
    sentences: list[Any]


def read(source: Source) -> Iterator[Found]:
    """A record a sentence. As everywhere in the literature ``--split train`` includes ``restval``."""
    wanted = {"train": ("train", "restval")}.get(source.split or "", (source.split,))
    pictures = Pictures(source.folder)
    for where, row in listed(read_whole(source.path), "images", source.path):
        image = attempt(where, _Image.model_validate, row)
        if isinstance(image, Reject):
            yield image
        elif source.split is None or image.split in wanted:
            for number, sentence in enumerate(image.sentences):
                yield attempt(f"{where}.sentences[{number}]", _example, sentence, image, pictures, source)


def _example(row: Any, image: _Image, pictures: Pictures, source: Source) -> Example:
    said = _Sentence.model_validate(row)
    names = [f"{image.filepath}/{image.filename}"] if image.filepath else []
    picture = pictures.get(*names, image.filename)
    return caption(
        source, id=said.sentid, image=picture, image_id=image.imgid, text=said.raw, split=image.split
    )
