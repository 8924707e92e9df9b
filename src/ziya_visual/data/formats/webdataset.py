"""WebDataset tars: files of one sample share their name up to the first dot: ``0001.jpg``, ``0001.txt``.

A ``.txt`` file or the ``caption`` of a ``.json`` is a caption. Our own tars hold whole records as ``.json``.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ziya_visual.core.errors import DataError
from ziya_visual.core.pictures import LIMIT_BYTES, picture_size
from ziya_visual.core.records import Example, ImageRef, example_from_dict
from ziya_visual.data.formats.rows import Parsed, Reject, Row, Source, Text, attempt, caption, parse, text_of

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")


class _Caption(Row):
    caption: Text


def read(source: Source) -> Iterator[Parsed]:
    """Yield a record for each sample of a tar or a folder of tars. A truncated tar ends with a reject."""
    tars = sorted(source.path.glob("[!.]*.tar")) if source.path.is_dir() else [source.path]
    if not tars:
        raise DataError(f"{source.path}: holds no *.tar")
    for tar in tars:
        for where, sample in samples(tar):
            yield sample if isinstance(sample, Reject) else attempt(where, _example, where, sample, source)


def samples(path: Path) -> Iterator[tuple[str, dict[str, bytes] | Reject]]:
    """Yield (where, file extension -> content) of each sample in order, without unpacking the tar.

    ``DataError`` if the file cannot be opened, or does not begin as a tar.
    """
    try:
        tar = tarfile.open(path, "r|*")
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(f"{path}: not a readable tar ({error})") from error
    key, sample = "", dict[str, bytes]()
    with tar:
        try:
            for member in tar:
                name = Path(member.name).name
                stem, _, extension = name.partition(".")
                if not member.isfile() or not stem or not extension:
                    continue  # folders, and links, which have no content of their own
                next_key = str(Path(member.name).with_name(stem))
                if next_key != key and sample:
                    yield f"{path.name}:{key}", sample
                    sample = {}
                key = next_key
                sample[extension.lower()] = _content(tar, member)
        except (OSError, tarfile.TarError, EOFError, ValueError) as error:
            where = f"{path.name}:{key}"
            yield where, Reject(where, f"the tar cannot be read from here on ({error})")
            return
    if sample:
        yield f"{path.name}:{key}", sample
    if not _complete(path):
        yield path.name, Reject(path.name, f"the tar has no end mark after {key!r}: it was cut off")


def _complete(path: Path) -> bool:
    """Return whether a tar ends in two empty blocks. Reading a compressed tar fails by itself."""
    with path.open("rb") as file:
        if file.read(4).startswith((b"\x1f\x8b", b"BZ", b"\xfd7zX", b"\x28\xb5\x2f\xfd")):
            return True
        file.seek(max(0, file.seek(0, 2) - 1024))
        return not any(file.read())


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Return at most one byte more than the limit: what is too long is refused when it is used."""
    file = tar.extractfile(member)
    assert file is not None, "a regular file"
    return file.read(LIMIT_BYTES + 1)


def record_of(sample: dict[str, bytes]) -> dict[str, Any]:
    """Return the record in a sample of our own tars with its image; ``DataError`` if there is none."""
    row = parse(_text(sample, "json"))
    if not isinstance(row, dict) or "messages" not in row:
        raise DataError("the .json is not a record")
    data = _image(sample)
    return row if data is None else {**row, "image": {"bytes": data, "path": None}}


def _image(sample: dict[str, bytes]) -> bytes | None:
    return next((sample[extension] for extension in IMAGES if extension in sample), None)


def _text(sample: dict[str, bytes], extension: str) -> str:
    if extension not in sample:
        raise DataError(f"no .{extension}; found {', '.join(f'.{name}' for name in sample)[:100]}")
    try:
        return sample[extension].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"the .{extension} is not UTF-8 at byte {error.start}") from error


def _example(where: str, sample: dict[str, bytes], source: Source) -> Example:
    row = parse(_text(sample, "json")) if "json" in sample else None
    if isinstance(row, dict) and "messages" in row:
        return example_from_dict(record_of(sample))
    text = text_of(_text(sample, "txt")) if "txt" in sample else _Caption.model_validate(row or {}).caption
    data = _image(sample)
    if data is None:
        raise DataError(f"no image; found {', '.join(f'.{name}' for name in sample)[:100]}")
    picture_size(data)
    return caption(source, id=where, image=ImageRef(bytes=data), image_id=where, text=text)
