"""MUGE and other datasets in Chinese-CLIP's layout: ``SPLIT_imgs.tsv`` and ``SPLIT_texts.jsonl`` in a folder.

A line of images is an id, a tab and base64; a line of texts is ``{"text_id", "text", "image_ids"}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ziya_visual.core.errors import DataError
from ziya_visual.core.pictures import LIMIT_BYTES, decode_base64, picture_size
from ziya_visual.core.records import Example, ImageRef
from ziya_visual.data.formats.rows import Parsed, Reject, Row, Source, Text, attempt, caption, lines, parse

_LIMIT_LINE = LIMIT_BYTES * 3 // 2  # bytes: base64 is a third longer than what it encodes


class ChineseClipText(Row):
    """A line of texts."""

    text_id: Text
    text: Text
    image_ids: list[Text]


class ImageTable(Mapping[str, bytes]):
    """Encoded images by id, read from a file of ids, tabs and base64 when they are looked up."""

    def __init__(self, path: Path) -> None:
        """Find the line of each image. ``malformed`` becomes the number of the first line without a tab."""
        self._path = path
        self._offsets: dict[str, int] = {}
        self.malformed: int | None = None
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
        offset = number = 0
        while line := self._file.readline(_LIMIT_LINE):
            number += 1
            name, tab, _ = line.partition(b"\t")
            if tab and len(name) < 200:
                self._offsets[name.decode("utf-8", "replace").strip()] = offset
            elif self.malformed is None:
                self.malformed = number
            offset += len(line)

    def __getitem__(self, image_id: str) -> bytes:
        """Return the encoded image; ``DataError`` if it is missing or not base64."""
        if image_id not in self._offsets:
            raise DataError(f"image {image_id}: not in {self._path.name}")
        self._file.seek(self._offsets[image_id])
        try:
            return decode_base64(self._file.readline(_LIMIT_LINE).partition(b"\t")[2].strip())
        except DataError as error:
            raise DataError(f"image {image_id}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(source: Source) -> Iterator[Parsed]:
    """Yield a record for each pair of text and image; the split is part of the files' names."""
    if source.split is None:
        raise DataError(f"{source.name} needs --split, such as train: {source.path}/train_imgs.tsv")
    table = ImageTable(source.path / f"{source.split}_imgs.tsv")
    try:
        for where, line in lines(source.path / f"{source.split}_texts.jsonl"):
            text = line if isinstance(line, Reject) else attempt(where, _text_row, line)
            if isinstance(text, Reject):
                yield text
                continue
            for image_id in text.image_ids:
                yield attempt(f"{where}:{image_id}", _example, text, image_id, table, source)
    finally:
        table.close()


def _text_row(line: str) -> ChineseClipText:
    """Parse a line of texts; ``DataError`` if it names no image, as in a test set."""
    row = ChineseClipText.model_validate(parse(line))
    if not row.image_ids:
        raise DataError(f"text {row.text_id}: no image_ids")
    return row


def _example(row: ChineseClipText, image_id: str, table: ImageTable, source: Source) -> Example:
    data = table[image_id]
    picture_size(data)
    key = f"{row.text_id}-{image_id}"
    return caption(source, id=key, image=ImageRef(bytes=data), image_id=image_id, text=row.text)
