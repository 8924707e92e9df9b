"""Flickr30K and Flickr8K: ``results_20130124.token`` (Young 2014), ``Flickr8k.token.txt`` (Hodosh 2013).

A line is ``1000092795.jpg#0<tab>Two young guys ...``. Splits are lists of picture names beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ziya_visual.core.errors import DataError
from ziya_visual.core.records import Example
from ziya_visual.data.formats import Found, Reject, Source
from ziya_visual.data.formats.pictures import Pictures
from ziya_visual.data.formats.rows import attempt, caption, lines, names_of_split, text_of

SPLITS = ("{split}.txt", "Flickr_8k.{split}Images.txt")


Parts = tuple[str, str, str]  # picture, what tells its captions apart, caption


def read(source: Source) -> Iterator[Found]:
    """A record a line; with ``--split`` those whose picture the split's list names."""
    return read_lines(source, SPLITS, _parts, _example)


def read_lines(
    source: Source,
    splits: tuple[str, ...],
    parts: Callable[[str], Parts],
    example: Callable[[str, str, str, Pictures, Source], Example],
) -> Iterator[Found]:
    """A record a line of a file of captions; with ``--split`` those whose picture the split's list names.

    Args:
        source: the file.
        splits: what lists of a split are called.
        parts: of a line.
        example: of its parts.
    """
    wanted = split_names(source, splits)
    pictures = Pictures(source.folder)
    for where, line in lines(source.path):
        found = line if isinstance(line, Reject) else attempt(where, parts, line)
        if isinstance(found, Reject):
            yield found
        elif wanted is None or found[0].removesuffix(".jpg") in wanted:
            yield attempt(where, example, *found, pictures, source)


def split_names(source: Source, patterns: tuple[str, ...]) -> set[str] | None:
    """The names that a split's list beside the file holds; None: every name is wanted.

    Raises:
        DataError: there is no such list.
    """
    if source.split is None:
        return None
    names = [pattern.format(split=source.split) for pattern in patterns]
    for name in names:
        if (source.path.parent / name).is_file():
            return names_of_split(source.path.parent / name)
    raise DataError(f"--split {source.split}: none of {', '.join(names)} in {source.path.parent}")


def _parts(line: str) -> tuple[str, str, str]:
    """Picture, number of its caption, caption."""
    key, tab, text = line.partition("\t")
    name, mark, number = key.partition("#")
    if not tab or not mark or not name.strip():
        raise DataError(f"{line[:40]!r}: expected NAME.jpg#N, a tab and a caption")
    return name.strip(), number.strip(), text_of(text)


def _example(name: str, number: str, text: str, pictures: Pictures, source: Source) -> Example:
    return caption(source, id=f"{name}#{number}", image=pictures.get(name), image_id=name, text=text)
