"""Flickr8K-CN and Flickr30K-CN: ``flickr8kzhc.caption.txt`` and the like (Li et al. 2016, Lan et al. 2017).

A line is ``1000092795#zhb#0 caption``: picture, kind of the Chinese text, number. In the files of the test
sets the caption is cut into words with their parts of speech (``狗:n``), which are put together again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Example
from ziya_visual.data.formats import Found, Source
from ziya_visual.data.formats.flickr import read_lines
from ziya_visual.data.formats.pictures import Pictures
from ziya_visual.data.formats.rows import caption, text_of

SPLITS = ("{split}.txt", "flickr8k-cn-{split}.txt", "flickr30k-cn-{split}.txt")
_TAGGED = re.compile(r"(\S+?):[a-zA-Z]+$")


def read(source: Source) -> Iterator[Found]:
    """A record a line; with ``--split`` those whose picture the split's list names."""
    return read_lines(source, SPLITS, _parts, _example)


def _parts(line: str) -> tuple[str, str, str]:
    """Picture without its suffix, kind and number, caption."""
    key, *words = line.split()
    name, _, rest = key.partition("#")
    if not words or not name or "#" not in rest:
        raise DataError(f"{line[:40]!r}: expected NAME#KIND#N and a caption")
    tagged = [_TAGGED.fullmatch(word) for word in words]
    plain = [found.group(1) for found in tagged if found is not None]
    return name.removesuffix(".jpg"), rest, text_of("".join(plain if len(plain) == len(words) else words))


def _example(name: str, rest: str, text: str, pictures: Pictures, source: Source) -> Example:
    return caption(source, id=f"{name}#{rest}", image=pictures.get(f"{name}.jpg"), image_id=name, text=text)
