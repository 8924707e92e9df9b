"""MUGE, and other sets in Chinese-CLIP's layout: ``SPLIT_imgs.tsv`` and ``SPLIT_texts.jsonl`` in a folder.

A line of pictures is an id, a tab and base64; a line of texts ``{"text_id", "text", "image_ids"}``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any, BinaryIO

from ziya_visual.core.errors import DataError
from ziya_visual.core.pictures import LIMIT_BYTES, picture_size
from ziya_visual.core.records import Example, ImageRef
from ziya_visual.data.formats import Found, Reject, Source
from ziya_visual.data.formats.rows import Row, Text, attempt, caption, lines, parse

_LIMIT = LIMIT_BYTES * 3 // 2  # of a line: base64 is a third longer than what it spells


class _Query(Row):
    text_id: Text
    text: Text
    image_ids: list[Text]


def read(source: Source) -> Iterator[Found]:
    """A record a text and picture; ``--split`` is the files' name. A test set has no pairs."""
    if source.split is None:
        raise DataError(f"{source.name} needs --split, such as train: {source.path}/train_imgs.tsv")
    try:
        file = (source.path / f"{source.split}_imgs.tsv").open("rb")
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    with file:
        places = _places(file)
        for where, line in lines(source.path / f"{source.split}_texts.jsonl"):
            query = line if isinstance(line, Reject) else attempt(where, _query, line)
            if isinstance(query, Reject):
                yield query
                continue
            for image_id in query.image_ids:
                yield attempt(f"{where}:{image_id}", _example, query, image_id, file, places, source)


def _places(file: BinaryIO) -> dict[str, int]:
    """Where the line of each picture begins."""
    places: dict[str, int] = {}
    start = 0
    while line := file.readline(_LIMIT):
        name, tab, _ = line.partition(b"\t")
        if tab and len(name) < 200:
            places[name.decode("utf-8", "replace").strip()] = start
        start += len(line)
    return places


def _query(line: str) -> _Query:
    query = _Query.model_validate(parse(line))
    if not query.image_ids:
        raise DataError(f"text {query.text_id}: no image_ids")
    return query


def _example(query: _Query, image_id: str, file: BinaryIO, places: dict[str, int], source: Source) -> Example:
    if image_id not in places:
        raise DataError(f"picture {image_id}: not in {source.split}_imgs.tsv")
    file.seek(places[image_id])
    line = file.readline(_LIMIT)
    try:
        data = base64.b64decode(line.partition(b"\t")[2].strip(), altchars=_alphabet(line), validate=True)
    except binascii.Error as error:
        raise DataError(f"picture {image_id}: no base64 ({error})") from error
    picture_size(data)
    key = f"{query.text_id}-{image_id}"
    return caption(source, id=key, image=ImageRef(bytes=data), image_id=image_id, text=query.text)


def _alphabet(line: bytes) -> Any:
    """Chinese-CLIP's own tool writes the alphabet that is safe in addresses, others the common one."""
    return b"-_" if b"-" in line or b"_" in line else None
