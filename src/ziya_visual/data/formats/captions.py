"""Caption datasets: COCO and NoCaps, Karpathy's splits, Flickr8K and Flickr30K, and their Chinese versions.

- COCO (cocodataset.org, "Data format"), NoCaps and every set in their layout: ``captions_val2014.json``.
- Karpathy and Li (arXiv 1412.2306): ``dataset_coco.json`` and the like.
- Flickr30K (Young 2014) ``results_20130124.token``, Flickr8K (Hodosh 2013) ``Flickr8k.token.txt``: lines such
  as ``1000092795.jpg#0<tab>Two young guys ...``; splits are lists of image names beside the file.
- Flickr8K-CN and Flickr30K-CN (Li et al. 2016, Lan et al. 2017) ``flickr8kzhc.caption.txt``: lines such as
  ``1000092795#zhb#0 caption``. In the test sets' files the caption is cut into words with their parts of
  speech (``狗:n``), which are joined again.
- COCO-CN (Li et al., arXiv 1805.08661) ``imageid.human-written-caption.txt``: lines such as
  ``COCO_train2014_000000073048#0<tab>caption``; ``coco-cn_train.txt`` and the like list the splits.
- MUGE and other sets in Chinese-CLIP's layout: ``SPLIT_imgs.tsv``, an id, a tab and base64 a line, and
  ``SPLIT_texts.jsonl``, ``{"text_id", "text", "image_ids"}`` a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.pictures import LIMIT_BYTES, decode_base64, picture_size
from ziya_visual.core.records import Example, ImageRef
from ziya_visual.data.formats.rows import (
    Images,
    Layout,
    Parsed,
    Plain,
    Reject,
    Row,
    Source,
    Text,
    attempt,
    attempts,
    caption,
    lines,
    listed,
    parse,
    read_whole,
    text_of,
)

_LIMIT_LINE = LIMIT_BYTES * 3 // 2  # bytes: base64 is a third longer than what it encodes
_TAGGED = re.compile(r"(\S+?):[a-zA-Z]+$")
_Line = tuple[str, str, str]  # image, what tells its captions apart, caption


class CocoImage(Row):
    """An entry of ``images``."""

    id: Text
    file_name: Text
    domain: Plain | None = None  # NoCaps only: in-domain, near-domain, out-domain


class CocoCaption(Row):
    """An entry of ``annotations``."""

    id: Text
    image_id: Text
    caption: Text


class KarpathyImage(Row):
    """An entry of ``images``; its ``sentences`` are :class:`KarpathySentence`."""

    filename: Text
    split: Text
    imgid: Text
    filepath: Plain = ""  # COCO only: train2014 or val2014
    sentences: list[Any]


class KarpathySentence(Row):
    """A caption."""

    raw: Text
    sentid: Text


COCO_IMAGES = Layout("images", CocoImage)
COCO_CAPTIONS = Layout("annotations", CocoCaption)
KARPATHY = Layout("images", KarpathyImage)


def read_coco(source: Source) -> Iterator[Parsed]:
    """Yield a record for each caption of ``annotations``, with its image of ``images``."""
    data = read_whole(source.path)
    rows = listed(data, "images", source.path)
    parsed = (attempt(where, CocoImage.model_validate, row) for where, row in rows)
    entries = {entry.id: entry for entry in parsed if not isinstance(entry, Reject)}
    annotations = listed(data, "annotations", source.path)
    yield from attempts(annotations, _coco, entries, Images(source.folder), source)


def _coco(row: Any, entries: dict[str, CocoImage], images: Images, source: Source) -> Example:
    annotation = CocoCaption.model_validate(row)
    entry = entries.get(annotation.image_id)
    if entry is None:
        raise DataError(f"image_id {annotation.image_id}: not among the readable entries of 'images'")
    return caption(
        source,
        id=annotation.id,
        image=images.get(entry.file_name),
        image_id=entry.id,
        text=annotation.caption,
        **({"domain": entry.domain} if entry.domain else {}),
    )


def read_karpathy(source: Source) -> Iterator[Parsed]:
    """Yield a record for each sentence. As usual in the literature, split ``train`` includes ``restval``."""
    splits = {"train": ("train", "restval")}.get(source.split or "", (source.split,))
    images = Images(source.folder)
    for where, row in KARPATHY.rows(source.path):
        entry = attempt(where, KarpathyImage.model_validate, row)
        if isinstance(entry, Reject):
            yield entry
        elif source.split is None or entry.split in splits:
            for number, sentence in enumerate(entry.sentences):
                yield attempt(f"{where}.sentences[{number}]", _karpathy, sentence, entry, images, source)


def _karpathy(row: Any, entry: KarpathyImage, images: Images, source: Source) -> Example:
    sentence = KarpathySentence.model_validate(row)
    names = [f"{entry.filepath}/{entry.filename}"] if entry.filepath else []
    image = images.get(*names, entry.filename)
    return caption(
        source, id=sentence.sentid, image=image, image_id=entry.imgid, text=sentence.raw, split=entry.split
    )


def read_flickr(source: Source) -> Iterator[Parsed]:
    """Yield a record for each line; with a split, for the images that its list names."""
    splits = ("{split}.txt", "Flickr_8k.{split}Images.txt")
    return _read_lines(source, splits, _flickr_line, lambda name: [name])


def read_flickr_cn(source: Source) -> Iterator[Parsed]:
    """Yield a record for each line; with a split, for the images that its list names."""
    splits = ("{split}.txt", "flickr8k-cn-{split}.txt", "flickr30k-cn-{split}.txt")
    return _read_lines(source, splits, _flickr_cn_line, lambda name: [f"{name}.jpg"])


def read_coco_cn(source: Source) -> Iterator[Parsed]:
    """Yield a record for each line; with a split, for the images that its list names."""
    return _read_lines(source, ("coco-cn_{split}.txt",), _coco_cn_line, _coco_cn_files)


def _read_lines(
    source: Source,
    splits: tuple[str, ...],
    parse_line: Callable[[str], _Line],
    files: Callable[[str], list[str]],
) -> Iterator[Parsed]:
    """Yield a record for each line of a file of captions.

    ``splits`` are the names that a split's list may have; ``files`` returns an image's possible files.
    """
    wanted = _split_names(source, splits)
    images = Images(source.folder)

    def example(name: str, number: str, text: str) -> Example:
        image = images.get(*files(name))
        return caption(source, id=f"{name}#{number}", image=image, image_id=name, text=text)

    for where, line in lines(source.path):
        fields = line if isinstance(line, Reject) else attempt(where, parse_line, line)
        if isinstance(fields, Reject):
            yield fields
        elif wanted is None or fields[0].removesuffix(".jpg") in wanted:
            yield attempt(where, example, *fields)


def _split_names(source: Source, patterns: tuple[str, ...]) -> set[str] | None:
    """Return the image names without suffix in a split's list beside the file; without a split None: all."""
    if source.split is None:
        return None
    names = [pattern.format(split=source.split) for pattern in patterns]
    for path in (source.path.parent / name for name in names):
        if path.is_file():
            return {Path(line).stem for _, line in lines(path) if isinstance(line, str)}
    raise DataError(f"--split {source.split}: none of {', '.join(names)} in {source.path.parent}")


def _flickr_line(line: str) -> _Line:
    key, tab, text = line.partition("\t")
    name, mark, number = key.partition("#")
    if not tab or not mark or not name.strip():
        raise DataError(f"{line[:40]!r}: expected NAME.jpg#N, a tab and a caption")
    return name.strip(), number.strip(), text_of(text)


def _flickr_cn_line(line: str) -> _Line:
    key, *words = line.split()
    name, _, kind_and_number = key.partition("#")
    if not words or not name or "#" not in kind_and_number:
        raise DataError(f"{line[:40]!r}: expected NAME#KIND#N and a caption")
    matches = [match for word in words if (match := _TAGGED.fullmatch(word)) is not None]
    plain = [match.group(1) for match in matches] if len(matches) == len(words) else words
    return name.removesuffix(".jpg"), kind_and_number, text_of("".join(plain))


def _coco_cn_line(line: str) -> _Line:
    key, tab, text = line.partition("\t")
    name, mark, number = key.strip().partition("#")
    if not tab or not mark or not name:
        raise DataError(f"{line[:40]!r}: expected NAME#N, a tab and a caption")
    return name, number, text_of(text)


def _coco_cn_files(name: str) -> list[str]:
    subset = name.split("_")[1] if name.count("_") == 2 else ""  # train2014, val2014
    return [*([f"{subset}/{name}.jpg"] if subset else []), f"{name}.jpg"]


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


def read_chinese_clip(source: Source) -> Iterator[Parsed]:
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
                yield attempt(f"{where}:{image_id}", _chinese_clip, text, image_id, table, source)
    finally:
        table.close()


def _text_row(line: str) -> ChineseClipText:
    """Parse a line of texts; ``DataError`` if it names no image, as in a test set."""
    row = ChineseClipText.model_validate(parse(line))
    if not row.image_ids:
        raise DataError(f"text {row.text_id}: no image_ids")
    return row


def _chinese_clip(row: ChineseClipText, image_id: str, table: ImageTable, source: Source) -> Example:
    data = table[image_id]
    picture_size(data)
    key = f"{row.text_id}-{image_id}"
    return caption(source, id=key, image=ImageRef(bytes=data), image_id=image_id, text=row.text)
