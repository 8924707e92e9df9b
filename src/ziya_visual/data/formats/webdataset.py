"""WebDataset tars: files of one sample share their name up to the first dot: ``0001.jpg``, ``0001.txt``.

A ``.txt`` or the ``caption`` of a ``.json`` is a caption. Our own tars hold a whole record in the ``.json``.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.pictures import LIMIT_BYTES, picture_size
from ziya_visual.core.records import Example, ImageRef, example_from_dict
from ziya_visual.data.formats import Found, Reject, Source
from ziya_visual.data.formats.rows import Row, Text, attempt, caption, parse, text_of

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")


class _Described(Row):
    caption: Text


def read(source: Source) -> Iterator[Found]:
    """A record a sample; ``path`` is a tar or a folder of them. A tar that is cut off ends with a reject."""
    tars = sorted(source.path.glob("[!.]*.tar")) if source.path.is_dir() else [source.path]
    if not tars:
        raise DataError(f"{source.path}: no *.tar in it")
    for tar in tars:
        for where, sample in samples(tar):
            yield sample if isinstance(sample, Reject) else attempt(where, _example, where, sample, source)


def samples(path: Path) -> Iterator[tuple[str, dict[str, bytes] | Reject]]:
    """(where, file ending -> content) of each sample, in the tar's order; nothing is unpacked to the disk.

    Raises:
        DataError: the file cannot be opened, or is no tar from its beginning.
    """
    try:
        tar = tarfile.open(path, "r|*")
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(f"{path}: no tar that can be read ({error})") from error
    key, sample = "", dict[str, bytes]()
    with tar:
        try:
            for member in tar:
                name = Path(member.name).name
                stem, _, ending = name.partition(".")
                if not member.isfile() or not stem or not ending:
                    continue  # folders; links, which have no content of their own: their sample lacks it
                found = str(Path(member.name).with_name(stem))
                if found != key and sample:
                    yield f"{path.name}:{key}", sample
                    sample = {}
                key = found
                sample[ending.lower()] = _content(tar, member)
        except (OSError, tarfile.TarError, EOFError, ValueError) as error:
            where = f"{path.name}:{key}"
            yield where, Reject(where, f"the tar cannot be read from here on ({error})")
            return
    if sample:
        yield f"{path.name}:{key}", sample
    if not _ended(path):
        yield (
            path.name,
            Reject(path.name, f"the tar ends without its end mark, behind {key!r}: it was cut off"),
        )


def _ended(path: Path) -> bool:
    """Whether two empty blocks end a tar, as they should; a compressed one tells by itself."""
    with path.open("rb") as file:
        if file.read(4).startswith((b"\x1f\x8b", b"BZ", b"\xfd7zX", b"\x28\xb5\x2f\xfd")):
            return True
        file.seek(max(0, file.seek(0, 2) - 1024))
        return not any(file.read())


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The bytes of a file, one more than the limit at most: what is too long is refused when it is used."""
    file = tar.extractfile(member)
    assert file is not None, "a regular file"
    return file.read(LIMIT_BYTES + 1)


def record_of(sample: dict[str, bytes]) -> dict[str, Any]:
    """The record in a sample of our own tars, its picture beside it put back.

    Raises:
        DataError: there is no ``.json``, or none of ours.
    """
    row = parse(_text(sample, "json"))
    if not isinstance(row, dict) or "messages" not in row:
        raise DataError("the .json is no record")
    data = next((sample[ending] for ending in IMAGES if ending in sample), None)
    return row if data is None else {**row, "image": {"bytes": data, "path": None}}


def _text(sample: dict[str, bytes], ending: str) -> str:
    if ending not in sample:
        raise DataError(f"no .{ending}; found {', '.join(f'.{name}' for name in sample)[:100]}")
    try:
        return sample[ending].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"the .{ending} is not UTF-8 at byte {error.start}") from error


def _example(where: str, sample: dict[str, bytes], source: Source) -> Example:
    row = parse(_text(sample, "json")) if "json" in sample else None
    if isinstance(row, dict) and "messages" in row:
        return example_from_dict(record_of(sample))
    text = text_of(_text(sample, "txt")) if "txt" in sample else _Described.model_validate(row or {}).caption
    data = next((sample[ending] for ending in IMAGES if ending in sample), None)
    if data is None:
        raise DataError(f"no picture; found {', '.join(f'.{name}' for name in sample)[:100]}")
    picture_size(data)
    return caption(source, id=where, image=ImageRef(bytes=data), image_id=where, text=text)
