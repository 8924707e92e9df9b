"""COCO-CN: ``imageid.human-written-caption.txt`` and ``imageid.manually-translated-caption.txt``.

A line is ``COCO_train2014_000000073048#0<tab>caption`` (Li et al., arXiv 1805.08661); ``coco-cn_train.txt``
and the like beside it list the splits.
"""

from __future__ import annotations

from collections.abc import Iterator

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Example
from ziya_visual.data.formats import Found, Source
from ziya_visual.data.formats.flickr import read_lines
from ziya_visual.data.formats.pictures import Pictures
from ziya_visual.data.formats.rows import caption, text_of

SPLITS = ("coco-cn_{split}.txt",)


def read(source: Source) -> Iterator[Found]:
    """A record a line; with ``--split`` those whose picture the split's list names."""
    return read_lines(source, SPLITS, _parts, _example)


def _parts(line: str) -> tuple[str, str, str]:
    """Picture without its suffix, number of its caption, caption."""
    key, tab, text = line.partition("\t")
    name, mark, number = key.strip().partition("#")
    if not tab or not mark or not name:
        raise DataError(f"{line[:40]!r}: expected NAME#N, a tab and a caption")
    return name, number, text_of(text)


def _example(name: str, number: str, text: str, pictures: Pictures, source: Source) -> Example:
    kind = name.split("_")[1] if name.count("_") == 2 else ""  # train2014, val2014
    image = pictures.get(*([f"{kind}/{name}.jpg"] if kind else []), f"{name}.jpg")
    return caption(source, id=f"{name}#{number}", image=image, image_id=name, text=text)
