"""A folder of images with a ``captions.csv`` of the columns image, lang, text: people's own data."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_text
from ziya_visual.core.pictures import load_image
from ziya_visual.core.records import Example, ImageRef, Message
from ziya_visual.data.formats.rows import Imported, Parsed, Reject, Source

TABLE = "captions.csv"
COLUMNS = ("image", "lang", "text")


def read(source: Source) -> Iterator[Parsed]:
    """Yield the rows of a folder, records first; see :func:`read_folder`."""
    table = read_folder(source.path)
    yield from table.examples
    yield from table.rejects


def read_folder(folder: Path) -> Imported:
    """Read every row of ``folder/captions.csv``; an unusable row becomes a reject with its line.

    Each image is decoded once, so that training meets no broken one. ``DataError`` if there is no table, a
    column is missing, or no row can be used.
    """
    table = folder / TABLE
    if not table.is_file():
        raise DataError(f"{table} not found; it needs the columns {', '.join(COLUMNS)}, one row per caption")
    rows = csv.DictReader(io.StringIO(read_text(table).replace("\0", "")))
    missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
    if missing:
        raise DataError(f"{table}: no column {', '.join(missing)}; found {rows.fieldnames}")
    imported = Imported()
    problems: dict[str, str | None] = {}  # by image
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:  # affects this row only
            imported.add(Reject(f"{TABLE}:{rows.line_num}", f"invalid CSV ({error})"))
            continue
        if row is None:
            break
        imported.add(_read_row(folder, rows.line_num, row, problems))
    rejects = imported.rejects
    if not imported.examples:
        first = f"; the first: {rejects[0].where}: {rejects[0].reason}" if rejects else ""
        raise DataError(f"{table}: none of {len(rejects)} rows can be used{first}")
    return imported


def _read_row(folder: Path, line: int, row: dict[str, str | None], problems: dict[str, str | None]) -> Parsed:
    image, lang, text = ((row[column] or "").strip() for column in COLUMNS)
    empty = [column for column, value in zip(COLUMNS, (image, lang, text), strict=True) if not value]
    reason = f"empty {', '.join(empty)}" if empty else None
    if reason is None:
        if image not in problems:
            problems[image] = _problem(folder, image)
        reason = problems[image]
    if reason is not None:
        return Reject(f"{TABLE}:{line}", reason)
    return Example(
        id=f"{folder.name}-{line}",
        lang=lang,
        task="caption",
        messages=(Message("assistant", text),),
        image=ImageRef(path=str(folder / image)),
        image_id=image,
        answers=(text,),
        source=str(folder),
    )


def _problem(folder: Path, image: str) -> str | None:
    """Return why an image cannot be used, or None."""
    try:
        path = (folder / image).resolve()
        if not path.is_relative_to(folder.resolve()):
            return f"{image}: leads out of the folder"
        load_image(path)
    except (DataError, ValueError, OSError, RuntimeError) as error:  # the last is a loop of links
        return str(error)
    return None
