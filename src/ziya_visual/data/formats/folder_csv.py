"""A folder of pictures with a ``captions.csv`` of the columns image, lang, text: people's own data."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from ziya_visual.core.errors import DataError
from ziya_visual.core.files import read_text
from ziya_visual.core.pictures import load_image
from ziya_visual.core.records import Example, ImageRef, Message
from ziya_visual.data.formats import Found, Imported, Reject, Source

TABLE = "captions.csv"
COLUMNS = ("image", "lang", "text")


def read(source: Source) -> Iterator[Found]:
    """The rows of a folder, those that can be used first; see :func:`read_folder`."""
    found = read_folder(source.path)
    yield from found.examples
    yield from found.rejects


def read_folder(folder: Path) -> Imported:
    """Read every row of ``folder/captions.csv``; a row that cannot be used becomes a reject with its line.

    Each picture is opened once, so that training meets none that is broken.

    Raises:
        DataError: there is no table, it has other columns, or no row of it can be used.
    """
    table = folder / TABLE
    if not table.is_file():
        raise DataError(f"{table} not found; it needs the columns {', '.join(COLUMNS)} and a row a caption")
    rows = csv.DictReader(io.StringIO(read_text(table).replace("\0", "")))
    missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
    if missing:
        raise DataError(f"{table}: no column {', '.join(missing)}; found {rows.fieldnames}")
    found = Imported()
    known: dict[str, str | None] = {}
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:  # of this row alone: the next one is read as if nothing had been
            found.rejects.append(Reject(f"{TABLE}:{rows.line_num}", f"no CSV ({error})"))
            continue
        if row is None:
            break
        _read_row(folder, rows.line_num, row, known, found)
    if not found.examples:
        why = f"; the first: {found.rejects[0].where}: {found.rejects[0].reason}" if found.rejects else ""
        raise DataError(f"{table}: none of {len(found.rejects)} rows can be used{why}")
    return found


def _read_row(
    folder: Path, line: int, row: dict[str, str | None], known: dict[str, str | None], found: Imported
) -> None:
    image, lang, text = ((row[column] or "").strip() for column in COLUMNS)
    empty = [column for column, value in zip(COLUMNS, (image, lang, text), strict=True) if not value]
    reason = f"empty {', '.join(empty)}" if empty else None
    if reason is None:
        if image not in known:
            known[image] = _problem(folder, image)
        reason = known[image]
    if reason is not None:
        found.rejects.append(Reject(f"{TABLE}:{line}", reason))
        return
    found.examples.append(
        Example(
            id=f"{folder.name}-{line}",
            lang=lang,
            task="caption",
            messages=(Message("assistant", text),),
            image=ImageRef(path=str(folder / image)),
            image_id=image,
            answers=(text,),
            source=str(folder),
        )
    )


def _problem(folder: Path, image: str) -> str | None:
    """Why a picture cannot be used, or None."""
    try:
        path = (folder / image).resolve()
        if not path.is_relative_to(folder.resolve()):
            return f"{image}: leads out of the folder"
        load_image(path)
    except (DataError, ValueError, OSError, RuntimeError) as error:  # the last is a loop of links
        return str(error)
    return None
